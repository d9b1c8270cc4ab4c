//! Hostile folders: each file is decoded or skipped with a reason, in bounded memory.
//!
//! `scripts/reliability/bad_data.py` is the same at full length, on 100,000 files and images of
//! 18,000x18,000.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use assert_cmd::cargo::cargo_bin_cmd;
use ddpm::config::{DataConfig, ModelConfig, Preset};
use ddpm::data::{self, ImageSpec, Loaded, decode};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use peak_alloc::PeakAlloc;
use tch::Device;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;
static ALONE: Mutex<()> = Mutex::new(());

/// Memory a decoder may use before it knows the size of its image, as stated in `data`.
const HEADER_BYTES: usize = 32 << 20;

/// Tests that measure memory run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Peak bytes that `work` allocated, and its result.
fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = work();
    (MEMORY.peak_usage().saturating_sub(before), result)
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind.as_slice(), data].concat();
    let crc = crc32fast::hash(&body).to_be_bytes();
    [(data.len() as u32).to_be_bytes().as_slice(), &body, &crc].concat()
}

fn png_header(width: u32, height: u32) -> Vec<u8> {
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = [size.as_slice(), &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".as_slice(), &chunk(b"IHDR", &header)].concat()
}

/// A zlib stream of `mebibytes` of zeros, a thousandth as long.
fn zeros(mebibytes: usize) -> Vec<u8> {
    // The compressor at hand is the png crate's: an image with rows of one KiB gives the stream.
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 1023, mebibytes as u32 * 1024);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header().unwrap();
    let mut stream = writer.stream_writer().unwrap();
    for _ in 0..mebibytes {
        stream.write_all(&[0; 1023 * 1024]).unwrap();
    }
    stream.finish().unwrap();
    drop(writer);
    let (mut at, mut out) = (8, Vec::new());
    while at < file.len() {
        let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        if &file[at + 4..at + 8] == b"IDAT" {
            out.extend_from_slice(&file[at + 8..at + 8 + length]);
        }
        at += length + 12;
    }
    out
}

fn gif(screen: u16, frame: u16) -> Vec<u8> {
    let [s, f] = [screen, frame].map(|side| [side.to_le_bytes(), side.to_le_bytes()].concat());
    let start = [
        b"GIF89a".as_slice(),
        &s,
        &[0x80, 0, 0],
        &[0, 0, 0, 255, 255, 255],
    ]
    .concat();
    let image = [b",\0\0\0\0".as_slice(), &f, &[0], b"\x02\x02\x44\x01\0;"].concat();
    [start, image].concat()
}

fn webp(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_le_bytes();
    let body = [b"WEBP".as_slice(), kind, &length, data].concat();
    [
        b"RIFF".as_slice(),
        &(body.len() as u32).to_le_bytes(),
        &body,
    ]
    .concat()
}

fn image(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, (x / 7) as u8])).into()
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Files of a few bytes that claim, or unpack to, many; true for those that can be decoded.
fn bombs() -> Vec<(&'static str, Vec<u8>, bool)> {
    let pixel = [
        chunk(b"IDAT", b"x\x9cc`\xe4\x02\x00\x00\x17\x00\x0b"),
        chunk(b"IEND", b""),
    ];
    let with = |kind: &[u8; 4]| {
        let bomb = chunk(kind, &[b"name\0\0".as_slice(), &zeros(64)].concat());
        [png_header(1, 1), bomb, pixel.concat()].concat()
    };
    let stream = [chunk(b"IDAT", &zeros(64)), chunk(b"IEND", b"")].concat();
    let mut jpeg = encoded(&image(16, 16), ImageFormat::Jpeg);
    let sof = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[sof + 5..sof + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    let mut bmp = encoded(&image(2, 2), ImageFormat::Bmp);
    for at in [18, 22] {
        bmp[at..at + 4].copy_from_slice(&40_000u32.to_le_bytes());
    }
    vec![
        ("claim.png", png_header(100_000, 100_000), false),
        ("stream.png", [png_header(64, 64), stream].concat(), true),
        ("profile.png", with(b"iCCP"), false),
        ("claim.gif", gif(65_535, 65_535), false),
        ("frame.gif", gif(1, 65_535), false),
        (
            "canvas.webp",
            webp(b"VP8X", b"\x02\0\0\0\xff\xff\xff\xff\xff\xff"),
            false,
        ),
        (
            "claim.webp",
            webp(b"VP8L", b"\x2f\xff\xff\xff\x0f\0\0\0"),
            false,
        ),
        ("length.webp", webp(b"VP8 ", b"")[..16].to_vec(), false),
        ("claim.jpg", jpeg, false),
        ("claim.bmp", bmp, false),
    ]
}

#[test]
fn bombs_are_skipped_before_they_go_off() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes, sound) in bombs() {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let (peak, result) = peak_of(|| decode(&path, &ImageSpec::rgb(8, 8)));
        assert_eq!(result.is_ok(), sound, "{name}: {result:?}");
        if name != "claim.webp" {
            // For 16,384x16,384 pixels, which are within the limit, memory is reserved, not used.
            assert!(peak < HEADER_BYTES + (4 << 20), "{name}: {peak} bytes");
        }
    }
}

/// The multiples of the decoded size that `data` assumes.
#[test]
fn decoders_take_no_more_than_is_reckoned_with() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = image(1500, 1000);
    let alpha = DynamicImage::from(image.to_rgba8());
    for (format, image, multiple) in [
        (ImageFormat::Png, &image, 1),
        (ImageFormat::Bmp, &image, 1),
        (ImageFormat::Gif, &alpha, 3),
        (ImageFormat::Jpeg, &image, 4),
        (ImageFormat::WebP, &image, 6),
        (ImageFormat::WebP, &alpha, 6),
    ] {
        let bytes = encoded(image, format);
        let path = dir.path().join("image");
        std::fs::write(&path, &bytes).unwrap();
        let decoded = image.as_bytes().len();
        let crop = 1000 * 1000 * 3;
        let bound = (2 * bytes.len() + multiple * decoded).max(decoded + crop) + (2 << 20);
        let (peak, result) = peak_of(|| decode(&path, &ImageSpec::rgb(8, 8)));
        result.unwrap();
        assert!(
            peak <= bound,
            "{format:?}: {peak} bytes, reckoned with {bound}"
        );
    }
}

/// The data set of `dir` at 8x8, through `cache`.
fn load(dir: &Path, cache: Option<&Path>) -> Loaded {
    let mut config = Preset::Demo.config();
    config.data.folder = Some(dir.into());
    load_with(&config.data, &config.model, cache)
}

fn load_with(data: &DataConfig, model: &ModelConfig, cache: Option<&Path>) -> Loaded {
    data::load(data, model, 0, cache, Device::Cpu, &|_, _| ()).unwrap()
}

/// A 24-bit BMP of one colour, 2x2.
fn small_bmp(number: u32) -> Vec<u8> {
    let [r, g, b, _] = number.to_le_bytes();
    let image = RgbImage::from_pixel(2, 2, Rgb([r, g, b]));
    encoded(&image.into(), ImageFormat::Bmp)
}

/// `count` small images in folders of a hundred; every twentieth is rubbish.
fn many(dir: &Path, count: u32) -> usize {
    for number in 0..count {
        let folder = dir.join(format!("{:02}", number / 100));
        std::fs::create_dir_all(&folder).unwrap();
        let whole = small_bmp(number);
        let bytes: &[u8] = match number % 60 {
            0 => b"rubbish",
            20 => &whole[..whole.len() / 2],
            40 => b"",
            _ => &whole,
        };
        std::fs::write(folder.join(format!("{number:04}.bmp")), bytes).unwrap();
    }
    count.div_ceil(20) as usize
}

#[test]
fn thousands_of_files_with_rubbish_among_them() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let bad = many(dir.path(), 3000);
    for (name, bytes, sound) in bombs() {
        if !sound {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
    }
    let bombs = bombs().iter().filter(|(.., sound)| !sound).count();
    let loaded = load(dir.path(), None);
    assert_eq!(loaded.manifest.len(), 3000 - bad);
    assert_eq!(loaded.store.len() as usize, 3000 - bad);
    assert_eq!(loaded.skipped.len(), bad + bombs);
    let reasoned = |(path, reason): &(PathBuf, String)| path.exists() && !reason.is_empty();
    assert!(loaded.skipped.iter().all(reasoned), "{:?}", loaded.skipped);
    assert_eq!(loaded.manifest.name(0), Some("00/0001.bmp"));
}

/// Other threads replace, cut and remove files during loading.
#[test]
fn a_folder_may_change_while_it_is_read() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    many(dir.path(), 600);
    let cache = dir.path().join("cache");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let whole = small_bmp(77);
            for round in 0u32.. {
                let number = round * 7919 % 600;
                let path = dir
                    .path()
                    .join(format!("{:02}/{number:04}.bmp", number / 100));
                // The first file stays, so that there is always an image.
                match (round % 4, number) {
                    (_, 1) => {}
                    (0, _) => std::fs::write(path, b"rubbish").unwrap(),
                    (1, _) => std::fs::write(path, &whole[..round as usize % whole.len()]).unwrap(),
                    (2, _) => drop(std::fs::remove_file(path)),
                    _ => std::fs::write(path, &whole).unwrap(),
                }
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..10 {
            let loaded = load(dir.path(), Some(&cache));
            assert_eq!(loaded.store.len() as usize, loaded.manifest.len());
            assert!(loaded.skipped.iter().all(|(_, reason)| !reason.is_empty()));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // With no more changes, the cache has the same images as the folder.
    let (fresh, cached) = (load(dir.path(), None), load(dir.path(), Some(&cache)));
    assert_eq!(fresh.manifest, cached.manifest);
    assert_eq!(fresh.store.pixels(), cached.store.pixels());
}

#[test]
fn a_start_from_the_cache_knows_the_same() {
    let dir = tempfile::tempdir().unwrap();
    many(dir.path(), 60);
    let odd = {
        use std::os::unix::ffi::OsStrExt;
        std::ffi::OsStr::from_bytes(b"odd \xff\n.bmp")
    };
    std::fs::write(dir.path().join(odd), small_bmp(9)).unwrap();
    let outside = tempfile::tempdir().unwrap();
    let cache = outside.path().join("cache");
    let first = load(dir.path(), Some(&cache));
    let second = load(dir.path(), Some(&cache));
    assert!(second.origin.contains("cached in"), "{}", second.origin);
    assert_eq!(second.manifest, first.manifest);
    assert_eq!(second.skipped, first.skipped);
    assert_eq!(second.notices(), first.notices());
    let one_colour = first.notices().join("\n");
    assert!(
        one_colour.contains("warning: 58 images are all one colour: 00/0001.bmp, 00/0002.bmp"),
        "{one_colour}"
    );
    assert_eq!(first.skipped.len(), 3);
    let names: Vec<_> = (0..first.manifest.len())
        .map(|i| first.manifest.name(i).unwrap())
        .collect();
    assert!(names.contains(&r"odd \xff\n.bmp"), "{names:?}");

    std::fs::remove_file(dir.path().join(odd)).unwrap();
    let third = load(dir.path(), Some(&cache));
    assert!(third.origin.contains("images from"), "{}", third.origin);
    assert_eq!(
        third.manifest.differences(&first.manifest).unwrap(),
        r"1 is gone (odd \xff\n.bmp)"
    );
}

#[test]
fn built_in_images_have_names_and_hashes() {
    let mut config = Preset::Demo.config();
    config.data.builtin_images = 20;
    let loaded = load_with(&config.data, &config.model, None);
    assert_eq!(loaded.manifest.len(), 20);
    assert_eq!(loaded.manifest.name(12), Some("face-000012"));
    let pixels = loaded.store.pixels().get(12).contiguous();
    let mut bytes = vec![0u8; pixels.numel()];
    pixels.copy_data_u8(&mut bytes, pixels.numel());
    let digits = blake3::hash(&bytes).to_hex()[..16].to_owned();
    assert_eq!(
        format!("{:016x}", loaded.manifest.hash(12).unwrap()),
        digits
    );
}

/// What `ddpm` says in `dir`, and whether it succeeds.
fn ddpm(dir: &Path, arguments: &str) -> (bool, String) {
    let out = cargo_bin_cmd!("ddpm")
        .current_dir(dir)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    (
        out.status.success(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    )
}

/// What a command that succeeds says.
fn said(dir: &Path, arguments: &str) -> String {
    let (success, said) = ddpm(dir, arguments);
    assert!(success, "{arguments}: {said}");
    said
}

const TRAIN: &str = "train --preset demo --base-width 16 --batch 1 --sample-every 0 --size 32 \
                     --device cpu --threads 1 --timesteps 4 --lr-schedule 0:1";

/// Names of a run's images.
fn names(run: &Path) -> Vec<String> {
    let list = std::fs::read_to_string(run.join("pictures.tsv")).unwrap();
    let name = |line: &str| line.split_once('\t').unwrap().1.to_owned();
    list.lines().skip(1).map(name).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Each start says what it leaves out: a new one, a resumed one, one from the cache.
#[test]
fn other_endings_and_hidden_files_are_said_at_each_start() {
    let faults = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults");
    let cases = [
        (
            "endings",
            &["p.jfif", "p.png", "q"][..],
            "1 file with another ending is not read: .tif 1",
        ),
        (
            "hidden",
            &["a.png"],
            "5 hidden items are passed over: .Trash-1000 1, ._* 1, .ipynb_checkpoints 1, @eaDir 1, __MACOSX 1",
        ),
    ];
    for (fault, images, line) in cases {
        let dir = tempfile::tempdir().unwrap();
        copy_folder(&faults.join(fault), &dir.path().join(fault));
        for start in [
            format!("{TRAIN} --data {fault} --run R --cache C --steps 1"),
            "train --run R --steps 2 --device cpu".to_owned(),
            format!("{TRAIN} --data {fault} --run S --cache C --steps 1"),
        ] {
            let said = said(dir.path(), &start);
            assert!(said.contains(line), "{start}: {said}");
        }
        assert_eq!(names(&dir.path().join("R")), images);
    }
}

/// A drawing of more than one colour.
fn draw(path: &Path) {
    let image = RgbImage::from_fn(8, 8, |x, y| Rgb([x as u8 * 30, y as u8 * 30, 9]));
    image.save(path).unwrap();
}

#[test]
fn a_project_trains_on_its_images_and_not_on_what_ddpm_made_there() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    draw(&here.join("a.png"));
    draw(&here.join("b.png"));
    let first = said(here, &format!("{TRAIN} --data . --run runs/one --steps 1"));
    assert!(!first.contains("passed over"), "{first}");
    said(
        here,
        "sample runs/one -n 2 --steps 2 --device cpu --separate made --out made/grid.png",
    );
    said(
        here,
        "sample runs/one -n 1 --steps 2 --device cpu --trajectory way.gif --out samples.png",
    );
    let again = said(here, "train --run runs/one --steps 2 --device cpu");
    for line in [
        "1 training run is passed over: runs/one",
        "5 images made by ddpm are passed over; only a folder without others is trained on: made/00000.png",
    ] {
        assert!(again.contains(line), "{again}");
    }
    assert_eq!(names(&here.join("runs/one")), ["a.png", "b.png"]);
    for _ in 0..2 {
        let cached = said(
            here,
            &format!("{TRAIN} --data . --run runs/two --steps 2 --cache C"),
        );
        assert!(
            cached.contains("5 images made by ddpm are passed over"),
            "{cached}"
        );
        std::fs::remove_dir_all(here.join("runs/two")).unwrap();
    }
    // A folder of nothing else is a data set.
    let made = said(
        here,
        &format!("{TRAIN} --data made --run runs/three --steps 1"),
    );
    assert!(!made.contains("passed over"), "{made}");
    assert_eq!(names(&here.join("runs/three")).len(), 3);
}

#[test]
fn a_run_of_the_first_rules_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    std::fs::create_dir_all(here.join("data/.old")).unwrap();
    draw(&here.join("data/a.png"));
    draw(&here.join("data/.old/b.png"));
    draw(&here.join("data/q.png"));
    std::fs::rename(here.join("data/q.png"), here.join("data/q")).unwrap();
    std::fs::write(here.join("first.toml"), "[data]\nrules = 1\n").unwrap();
    std::fs::write(here.join("second.toml"), "[data]\nrules = 2\n").unwrap();
    let start = format!("{TRAIN} --data data --run R --cache C --steps");
    said(here, &format!("{start} 1 --config first.toml"));
    let settings = std::fs::read_to_string(here.join("R/config.toml")).unwrap();
    assert!(!settings.contains("rules"), "{settings}");
    // The command of before, which has the preset's rules now.
    let again = said(here, &format!("{start} 2"));
    assert!(again.contains("2 images cached in C"), "{again}");
    assert!(
        again.contains("1 file without an ending is not read"),
        "{again}"
    );
    assert_eq!(names(&here.join("R")), [".old/b.png", "a.png"]);
    let (success, refused) = ddpm(here, &format!("{start} 3 --config second.toml"));
    assert!(
        !success && refused.contains("data.rules: 2 instead of"),
        "{refused}"
    );
    // Another run with its weights decodes its images by the rules of today, and makes the cache anew.
    let new = "train --init-from R --data data --run N --cache C --steps 1 --device cpu --batch 1 --sample-every 0";
    let new = said(here, new);
    assert!(new.contains("2 images from"), "{new}");
    assert_eq!(names(&here.join("N")), ["a.png", "q"]);
    let settings = std::fs::read_to_string(here.join("N/config.toml")).unwrap();
    assert!(settings.contains("rules = 2"), "{settings}");
    let newer = settings.replace("rules = 2", "rules = 3");
    std::fs::write(here.join("N/config.toml"), newer).unwrap();
    let (_, refused) = ddpm(here, "train --run N --steps 2");
    assert!(refused.contains("a newer ddpm wrote it"), "{refused}");
}
