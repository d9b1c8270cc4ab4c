//! One function per reader, which feeds it a hostile file and checks what must hold for any bytes.
//!
//! `tests/hostile.rs` includes this file and replays the corpus through the
//! same functions, so a fixed bug stays fixed. An `Err` of a reader is the normal case; a
//! panic is a bug.

use std::path::Path;

use ddpm::checkpoint::{RunFolder, read_checkpoint};
use ddpm::config::{LabelsFrom, ModelKind, Preset, Sources};
use ddpm::data::{self, ImageSpec};
use ddpm::evaluate::moments::Statistics;
use ddpm::formats::weights_file::{Node, WeightsFile};
use ddpm::formats::{ddcm, npz, pickle, pt, read_state_dict, safetensors};
use ddpm::interop::describe;
use ddpm::interop::{Foreign, Request};
use ddpm::report::{ImageSettings, Later, Metrics, settings_of_png};
use ddpm::serve::Wish;
use ddpm::train::StepRecord;
use tch::{Device, Tensor};

/// Most tensors and dicts read from one file: a few bytes can name one tensor many times.
const MAX_READS: usize = 64;
/// Longest error message: names from a file must be shortened.
const MAX_MESSAGE_BYTES: usize = 16 << 10;
/// The same with paths of several members of an archive, which are shown whole.
const MAX_NAMES_BYTES: usize = 1 << 20;

/// A pickle alone.
pub fn pickle(bytes: &[u8]) {
    match pickle::from_bytes(bytes) {
        Ok(value) => assert!(value.kind().len() < 1000),
        Err(error) => check_message(&error.to_string()),
    }
}

/// A PyTorch file. Bytes of neither container are read as its pickle, in both containers and in a TorchScript archive.
pub fn torch_file(bytes: &[u8]) {
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(LEGACY_MAGIC) {
        return with_file("fuzz.pt", bytes, read_all_of_pt);
    }
    let storage: Vec<u8> = (0..64).map(|byte| byte % 2).collect();
    let zip = zip_of(&[("a/data.pkl", bytes), ("a/data/0", &storage)]);
    with_file("fuzz.pt", &zip, read_all_of_pt);
    let script = [
        ("a/data.pkl", bytes),
        ("a/data/0", &storage),
        ("a/constants.pkl", b""),
    ];
    with_file("fuzz.pt", &zip_of(&script), read_all_of_pt);
    with_file("fuzz.pt", &legacy_of(bytes, &storage), read_all_of_pt);
}

/// A safetensors file: weights or a checkpoint of ours.
pub fn safetensors(bytes: &[u8]) {
    with_file("fuzz.safetensors", bytes, |path| {
        if let Some(file) = checked(path, safetensors::open(path)) {
            let mut data_bytes = 0;
            for (name, tensor) in &file.tensors {
                assert!(name.len() <= bytes.len());
                // Reads every page that the tensor maps.
                let copy = tensor.copy();
                data_bytes += copy.numel() * copy.kind().elt_size_in_bytes();
            }
            assert!(data_bytes <= bytes.len(), "{data_bytes} bytes of tensors");
        }
        checked(path, read_state_dict(path));
        check_description(path);
        if let Some(file) = checked(path, read_checkpoint(path)) {
            drop(file.weights(ddpm::checkpoint::Weights::Ema));
        }
    });
}

fn read_all_of_pt(path: &Path) {
    checked(path, pt::read(path));
    read_all(path);
    if let Some(file) = checked(path, WeightsFile::open_modules(path)) {
        read_node(path, &file, &file.root, &mut { MAX_READS });
        assert!(
            file.all_slots()
                .iter()
                .all(|(name, _)| name.len() < MAX_MESSAGE_BYTES)
        );
    }
    checked(path, read_state_dict(path));
    check_description(path);
}

/// Reads the tensors of a file, one by one and, where they stand in a dict, as a `state_dict`.
fn read_all(path: &Path) {
    if let Some(file) = checked(path, WeightsFile::open(path)) {
        read_node(path, &file, &file.root, &mut { MAX_READS });
    }
}

fn read_node(path: &Path, file: &WeightsFile, node: &Node, reads: &mut usize) {
    if *reads == 0 {
        return;
    }
    *reads -= 1;
    match node {
        Node::Tensor(slot) => {
            if let Some(read) = checked(path, file.tensor("one", slot)) {
                assert_eq!(read.size(), slot.shape);
                check_total(path, read.numel() * read.kind().elt_size_in_bytes());
            }
        }
        Node::Group(items) => {
            if let Some(tensors) = checked(path, file.state_dict(node)) {
                let bytes = |t: &Tensor| t.numel() * t.kind().elt_size_in_bytes();
                check_total(path, tensors.iter().map(|(_, t)| bytes(t)).sum());
            }
            for (_, item) in items {
                read_node(path, file, item, reads);
            }
        }
        _ => {}
    }
}

/// A diffusers folder with this `config.json`, and beside it the same bytes as scheduler settings; or two
/// texts separated by a NUL.
pub fn config_json(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let config = parts.next().unwrap_or(bytes);
    let scheduler = parts.next().unwrap_or(config);
    let weights =
        safetensors_of(r#"{"conv_in.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
    with_file("config.json", config, |path| {
        let folder = path.parent().expect("the file is in a folder");
        let beside = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.join(name), bytes).expect("the file");
        };
        beside("diffusion_pytorch_model.safetensors", &weights);
        beside("scheduler_config.json", scheduler);
        if let Some(foreign) = checked(folder, Foreign::examine(folder, &Request::default())) {
            checked(folder, foreign.config());
        }
    });
}

/// The texts of a run's folder, separated by NULs: `config.toml`, `metrics.jsonl`, `latest` and the record of a bad
/// step; the first stands in for a missing one.
pub fn run_folder(bytes: &[u8]) {
    let mut parts = bytes.splitn(4, |&byte| byte == 0);
    let first = parts.next().unwrap_or(bytes);
    let mut next = || parts.next().unwrap_or(first);
    let (metrics, latest, record) = (next(), next(), next());
    with_file("config.toml", first, |path| {
        let folder = path.parent().expect("the file is in a folder");
        std::fs::create_dir(folder.join("checkpoints")).expect("a folder");
        let beside = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).expect("the file");
            path
        };
        beside("checkpoints/latest", latest);
        if let Some(found) = checked(folder, RunFolder::new(folder.to_owned()).resumable()) {
            let found = found.expect("there is a config.toml");
            let again = found
                .config
                .to_toml()
                .expect("what was read can be written");
            beside("config.toml", again.as_bytes());
            let config = RunFolder::new(folder.to_owned()).config();
            let config = config.expect("what was written can be read");
            // As text: a NaN is not equal to itself.
            assert_eq!(config.to_toml().expect("as before"), again);
            // Settings that cannot work are refused, not run.
            drop(found.config.validate());
        }
        let metrics = beside("metrics.jsonl", metrics);
        let opened = Metrics::open(&metrics, 1000, Later::LeftBehind);
        if let Some((mut opened, _)) = checked(&metrics, opened) {
            assert!(opened.write(&[]).is_ok());
            let kept = std::fs::read(&metrics).expect("the file");
            assert!(kept.is_empty() || kept.ends_with(b"\n"));
        }
        let record = beside("record.json", record);
        checked(&record, StepRecord::read(&record));
    });
}

/// An HDF5 file, as Keras writes them.
pub fn hdf5(bytes: &[u8]) {
    with_file("fuzz.weights", bytes, |path| {
        read_all(path);
        check_description(path);
    });
}

/// A `.ddcm` file, as it is and with a corrected checksum, since a mutation would only break it.
pub fn ddcm(bytes: &[u8]) {
    with_file("fuzz.ddcm", bytes, read_ddcm);
    let content = &bytes[..bytes.len().saturating_sub(8)];
    let hash = blake3::hash(content);
    let repaired = [content, &hash.as_bytes()[..8]].concat();
    with_file("fuzz.ddcm", &repaired, read_ddcm);
}

fn read_ddcm(path: &Path) {
    if let Some(file) = checked(path, ddcm::read(path)) {
        let header = file.header();
        assert!(header.codebook_size.is_power_of_two());
        let last = file.indices(file.images() - 1);
        assert_eq!(last.len(), header.indices_per_image());
        assert!(last.iter().all(|index| *index < header.codebook_size));
        assert!(file.bits_per_pixel().file.is_finite());
    }
}

/// A file of NumPy, `.npz` or `.npy`: its arrays, also as images, and as statistics.
pub fn numpy(bytes: &[u8]) {
    const MAX_BYTES: u64 = 1 << 20;
    with_file("fuzz.npz", bytes, |path| {
        checked(path, Statistics::read(path));
        let Some(mut file) = checked(path, npz::open(path)) else {
            return;
        };
        let names = file.names().into_iter().take(MAX_READS);
        let names: Vec<String> = names.map(str::to_owned).collect();
        for name in &names {
            checked(path, file.read(name, MAX_BYTES));
            let Some(mut rows) = checked(path, file.images(name)) else {
                continue;
            };
            let [count, image_bytes] = [rows.count(), rows.hwc().iter().product::<usize>() as u64];
            // Others are refused before a byte is read, or take this long by right.
            if count.saturating_mul(image_bytes) <= MAX_BYTES {
                let mut read = 0;
                while let Some(Some(images)) = checked(path, rows.next_images(3)) {
                    read += images.dim().0 as u64;
                }
                assert!(read <= count);
            }
        }
    });
}

/// A file of images, an archive or bare pixels, with the classes that it says.
pub fn images(bytes: &[u8]) {
    // A PNG file may say what it was made with.
    let _ = ddpm::report::settings_of_png(bytes);
    with_file("fuzz", bytes, |path| {
        load_images(path, path, LabelsFrom::Auto, MAX_NAMES_BYTES);
    });
}

/// A list of classes in each of its forms, for three images.
pub fn labels(bytes: &[u8]) {
    // IDX: two zeros, uint8, three dimensions, 3 images of a pixel each. Their names are 000000 to 000002.
    const IMAGES: &[u8] = b"\0\0\x08\x03\0\0\0\x03\0\0\0\x01\0\0\0\x01\x07\x80\xf0";
    with_file("images-idx3-ubyte", IMAGES, |images| {
        let beside = |name: &str| {
            let path = images.with_file_name(name);
            std::fs::write(&path, bytes).expect("the file");
            path
        };
        for name in ["fuzz", "fuzz.csv", "fuzz.tsv", "fuzz.json", "fuzz.jsonl"] {
            let path = beside(name);
            load_images(
                images,
                &path,
                LabelsFrom::File(path.clone()),
                MAX_MESSAGE_BYTES,
            );
        }
        let path = beside("labels-idx1-ubyte");
        load_images(images, &path, LabelsFrom::Auto, MAX_MESSAGE_BYTES);
    });
}

/// What a page sends to `ddpm serve`: settings, and an image that may hold some.
pub fn serve(bytes: &[u8]) {
    match Wish::read(bytes) {
        Ok(wish) => {
            let again = serde_json::to_vec(&wish).expect("a wish in JSON");
            assert_eq!(Wish::read(&again).expect("what was written"), wish);
        }
        Err(error) => check_message(&error.to_string()),
    }
    match settings_of_png(bytes) {
        Ok(Some(text)) => drop(ImageSettings::from_json(&text)),
        Ok(None) => {}
        Err(error) => check_message(&format!("{error:#}")),
    }
    match data::decode_bytes(bytes.to_vec(), &ImageSpec::rgb(4, 4)) {
        Ok(image) => assert_eq!(image.pixels.dim(), (4, 4, 3)),
        Err(error) => check_message(&error.to_string()),
    }
}

/// Loads a data set as training does; an error is one of `path`, in at most so many bytes.
fn load_images(images: &Path, path: &Path, labels: LabelsFrom, most_bytes: usize) {
    let mut config = Preset::Demo.config();
    config.data.folder = Some(Sources::from(images));
    config.data.labels = Some(labels);
    let model = ModelKind::Unet.config([3, 8, 8]);
    match data::load(&config.data, &model, 0, None, Device::Cpu, &|_, _| ()) {
        Ok(loaded) => {
            let mut labels = loaded.labels.iter();
            assert!(labels.all(|labels| labels.of.len() == loaded.manifest.len()));
            let lines = loaded.notices();
            lines.iter().for_each(|line| check_text(line, most_bytes));
        }
        Err(error) => {
            let message = format!("{error:#}");
            // Classes that an archive says come from many members.
            let is_named = message.contains(&path.display().to_string());
            assert!(
                is_named || message.starts_with("`data.labels` = auto"),
                "{message}"
            );
            check_text(&message, most_bytes);
        }
    }
}

fn safetensors_of(header: &str) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), &[0; 4]].concat()
}

/// The output of `ddpm inspect` must not control the terminal.
fn check_description(path: &Path) {
    if let Some(description) = checked(path, describe(path)) {
        let text = description.to_string();
        assert!(!text.contains(is_escape), "{text:?}");
    }
}

fn is_escape(char: char) -> bool {
    char.is_control() && char != '\n'
}

/// Memory limit of a file's tensors: 16 times the file, or 1 MiB.
fn check_total(path: &Path, data_bytes: usize) {
    let file_bytes = std::fs::metadata(path).map_or(0, |data| data.len() as usize);
    assert!(data_bytes <= (16 * file_bytes).max(1 << 20));
}

/// The value; an error must name the file, be short, and contain no terminal escapes.
fn checked<T>(path: &Path, result: Result<T, impl Into<anyhow::Error>>) -> Option<T> {
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => error.into(),
    };
    let message = format!("{error:#}");
    assert!(message.contains(&path.display().to_string()), "{message}");
    check_message(&message);
    None
}

fn check_message(message: &str) {
    check_text(message, MAX_MESSAGE_BYTES);
}

fn check_text(message: &str, most_bytes: usize) {
    assert!(message.len() <= most_bytes, "{} bytes", message.len());
    assert!(!message.contains(is_escape), "{message:?}");
}

// Files around the bytes.

/// First bytes of a file of torch before 1.6.
pub const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Hands `read` a file that holds the bytes, in memory if the machine has /dev/shm.
pub fn with_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let memory = Path::new("/dev/shm");
    let folder = tempfile::Builder::new();
    let folder = if memory.is_dir() {
        folder.tempdir_in(memory)
    } else {
        folder.tempdir()
    }
    .expect("a folder for the file");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("the file");
    read(&path)
}

/// A zip archive of stored entries without checksums, since a mutation would only break them.
pub fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for (name, data) in entries {
        let start = file.len() as u32;
        let mut fields = b"\x14\0\0\0\0\0\0\0\x21\0\0\0\0\0".to_vec();
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0; 2]);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
        file.extend(b"PK\x03\x04");
        file.extend(fields);
        file.extend(name.as_bytes());
        file.extend(*data);
    }
    let start = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([entries.len() as u16; 2].map(u16::to_le_bytes).concat());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0; 2]);
    file
}

/// A file of torch before 1.6 with this pickle and one storage "0".
pub fn legacy_of(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let little_endian = b"\x80\x02}X\x0d\0\0\0little_endian\x88s.";
    let keys = b"\x80\x02]X\x01\0\0\x000a.";
    let numel = (storage.len() as u64).to_le_bytes();
    [
        LEGACY_MAGIC,
        b"\x80\x02M\xe9\x03.",
        little_endian,
        pickle,
        keys,
        &numel,
        storage,
    ]
    .concat()
}
