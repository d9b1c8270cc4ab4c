use std::io::{Cursor, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{ImageFormat, Rgb, RgbImage};
use ndarray::{Array1, Array4};
use tch::Device;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::config::{LabelsFrom, Preset, Sources};
use crate::data::{ImageFolder, Loaded, load};
use crate::formats::npz::{self, Values};

/// Images of each test, and their rows and columns: those of CIFAR.
const IMAGES: usize = 6;
const SIDE: usize = 32;

/// Value of an image at a place.
fn value(image: usize, y: usize, x: usize, c: usize) -> u8 {
    (image * 37 + y * 5 + x * 3 + c * 70) as u8
}

/// Values of an image, `[H, W, C]`.
fn pixels(image: usize) -> Vec<u8> {
    let places = (0..SIDE * SIDE * 3).map(|i| (i / 3 / SIDE, i / 3 % SIDE, i % 3));
    places.map(|(y, x, c)| value(image, y, x, c)).collect()
}

fn png(image: usize) -> Vec<u8> {
    let rgb = |x, y| Rgb([0, 1, 2].map(|c| value(image, y as usize, x as usize, c)));
    let image = RgbImage::from_fn(SIDE as u32, SIDE as u32, rgb);
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// The files of a folder of classes, in the order of their names: the first half of the images are cats.
fn files() -> Vec<(String, Vec<u8>)> {
    let class = |image| if image < IMAGES / 2 { "cat" } else { "dog" };
    let file = |image| (format!("{}/{image}.png", class(image)), png(image));
    (0..IMAGES).map(file).collect()
}

/// The class of each image, as a number.
fn class(image: usize) -> u8 {
    u8::from(image >= IMAGES / 2)
}

fn zip_of(files: &[(String, Vec<u8>)], method: CompressionMethod, large: bool) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in files {
        archive.start_file(name, options.large_file(large)).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn idx(kind: u8, dims: &[usize], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, kind, dims.len() as u8];
    for dim in dims {
        bytes.extend((*dim as u32).to_be_bytes());
    }
    bytes.extend(values);
    bytes
}

fn all_pixels() -> Vec<u8> {
    (0..IMAGES).flat_map(pixels).collect()
}

fn idx_images() -> Vec<u8> {
    idx(8, &[IMAGES, SIDE, SIDE, 3], &all_pixels())
}

fn idx_labels() -> Vec<u8> {
    let labels: Vec<u8> = (0..IMAGES).map(class).collect();
    idx(8, &[IMAGES], &labels)
}

/// Records with these bytes before each image.
fn cifar(images: std::ops::Range<usize>, before: &[u8]) -> Vec<u8> {
    let record = |image| {
        let planes = (0..3).flat_map(move |c| {
            let places = (0..SIDE * SIDE).map(|i| (i / SIDE, i % SIDE));
            places.map(move |(y, x)| value(image, y, x, c))
        });
        let label = before.iter().copied().chain([class(image)]);
        label.chain(planes).collect::<Vec<u8>>()
    };
    images.flat_map(record).collect()
}

fn arrays() -> [(&'static str, Values); 2] {
    let images = Array4::from_shape_vec((IMAGES, SIDE, SIDE, 3), all_pixels()).unwrap();
    let labels: Array1<i64> = (0..IMAGES).map(|image| i64::from(class(image))).collect();
    [
        ("arr_0", Values::U8(images.into_dyn())),
        ("arr_1", Values::I64(labels.into_dyn())),
    ]
}

/// A folder with files of these contents.
fn tree<N: AsRef<str>, B: AsRef<[u8]>>(
    files: impl IntoIterator<Item = (N, B)>,
) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name.as_ref());
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
    }
    dir
}

fn read(places: Sources, labels: &str, cache: Option<&Path>) -> anyhow::Result<Loaded> {
    let mut config = Preset::Demo.config();
    // Smaller than the images, so that they are resized too.
    let model = config.model.unet_mut();
    (model.height, model.width) = (16, 16);
    config.data.folder = Some(places);
    config.data.labels = Some(LabelsFrom::from(labels.to_owned()));
    load(
        &config.data,
        &config.model,
        0,
        cache,
        Device::Cpu,
        &|_, _| (),
    )
}

fn auto(place: impl AsRef<Path>) -> Loaded {
    read(place.as_ref().into(), "auto", None).unwrap()
}

/// The error of a file of these bytes, which names it.
fn refused(name: &str, bytes: &[u8]) -> String {
    let dir = tree([(name, bytes)]);
    let path = dir.path().join(name);
    let error = read(path.as_path().into(), "auto", None).unwrap_err();
    let said = format!("{error:#}");
    assert!(said.contains(name), "{said}");
    said
}

fn hashes(loaded: &Loaded) -> Vec<u64> {
    loaded.manifest.hashes().collect()
}

fn names(loaded: &Loaded) -> Vec<&str> {
    let name = |i| loaded.manifest.name(i).unwrap();
    (0..loaded.manifest.len()).map(name).collect()
}

/// Names of the classes, and the class of each image.
fn labels(loaded: &Loaded) -> (Vec<&str>, Vec<Option<u32>>) {
    let labels = loaded.labels.as_ref().expect("labels");
    (
        labels.names.iter().map(String::as_str).collect(),
        labels.of.clone(),
    )
}

/// The class of each image in order.
fn classes() -> Vec<Option<u32>> {
    (0..IMAGES)
        .map(|image| Some(u32::from(class(image))))
        .collect()
}

#[test]
fn every_source_gives_the_tensor_of_the_images_in_a_folder() {
    let folder = tree(files());
    let wanted = auto(folder.path());
    assert_eq!(wanted.store.pixels().size(), [IMAGES as i64, 3, 16, 16]);
    assert_eq!(labels(&wanted), (vec!["cat", "dog"], classes()));
    let images = idx_images();
    let dir = tree([
        (
            "stored.zip",
            zip_of(&files(), CompressionMethod::Stored, false),
        ),
        (
            "deflated.zip",
            zip_of(&files(), CompressionMethod::Deflated, false),
        ),
        (
            "zip64.zip",
            zip_of(&files(), CompressionMethod::Deflated, true),
        ),
        // Known by its content.
        ("tar", tar_of(&files())),
        ("packed.tar.gz", gz(&tar_of(&files()))),
        ("train-images-idx4-ubyte", images.clone()),
        ("train-labels-idx4-ubyte", idx_labels()),
        ("gz/train-images-idx3-ubyte.gz", gz(&images)),
        ("gz/train-labels-idx1-ubyte.gz", gz(&idx_labels())),
        ("ten.bin", cifar(0..IMAGES, &[])),
        ("hundred.bin", cifar(0..IMAGES, &[19])),
        ("batches/data_batch_1.bin", cifar(0..2, &[])),
        ("batches/data_batch_2.bin", cifar(2..IMAGES, &[])),
        ("batches/test_batch.bin", cifar(0..2, &[])),
    ]);
    npz::write(&dir.path().join("stored.npz"), &arrays()).unwrap();
    let mut npz =
        zip::ZipArchive::new(fs_err::File::open(dir.path().join("stored.npz")).unwrap()).unwrap();
    let members = ["arr_0.npy", "arr_1.npy"].map(|name| {
        let mut bytes = Vec::new();
        std::io::copy(&mut npz.by_name(name).unwrap(), &mut bytes).unwrap();
        (name.to_owned(), bytes)
    });
    let compressed = zip_of(&members, CompressionMethod::Deflated, false);
    fs_err::write(dir.path().join("compressed.npz"), compressed).unwrap();
    fs_err::write(dir.path().join("images.npy"), &members[0].1).unwrap();
    for (name, class_names) in [
        ("stored.zip", vec!["cat", "dog"]),
        ("deflated.zip", vec!["cat", "dog"]),
        ("zip64.zip", vec!["cat", "dog"]),
        ("tar", vec!["cat", "dog"]),
        ("packed.tar.gz", vec!["cat", "dog"]),
        ("train-images-idx4-ubyte", vec!["0", "1"]),
        ("gz/train-images-idx3-ubyte.gz", vec!["0", "1"]),
        ("gz", vec!["0", "1"]),
        ("ten.bin", vec!["0", "1"]),
        ("hundred.bin", vec!["0", "1"]),
        ("batches", vec!["0", "1"]),
        ("stored.npz", vec!["0", "1"]),
        ("compressed.npz", vec!["0", "1"]),
        ("images.npy", vec![]),
    ] {
        let found = auto(dir.path().join(name));
        assert_eq!(found.store.pixels(), wanted.store.pixels(), "{name}");
        assert_eq!(hashes(&found), hashes(&wanted), "{name}");
        assert!(found.skipped.is_empty(), "{name}: {:?}", found.skipped);
        match class_names.is_empty() {
            true => assert_eq!(found.labels, None),
            false => assert_eq!(labels(&found), (class_names, classes()), "{name}"),
        }
        let named = names(&found);
        match found.manifest.name(0) == wanted.manifest.name(0) {
            true => assert_eq!(named, names(&wanted)),
            false => assert_eq!(named[..2], ["000000", "000001"], "{name}"),
        }
    }
}

#[test]
fn several_sources_are_one_data_set() {
    let dir = tree([
        (
            "a.zip",
            zip_of(&files()[..2], CompressionMethod::Stored, false),
        ),
        ("b/a.tar", tar_of(&files()[2..4])),
    ]);
    for (name, bytes) in &files()[4..] {
        let path = dir.path().join("c").join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
    }
    let places = ["a.zip", "b/a.tar", "c"].map(|name| dir.path().join(name));
    let places = Sources::new(places.to_vec()).unwrap();
    let cache = dir.path().join("cache");
    let found = read(places.clone(), "auto", Some(&cache)).unwrap();
    let wanted = auto(tree(files()).path());
    assert_eq!(found.store.pixels(), wanted.store.pixels());
    assert_eq!(
        names(&found),
        [
            "a/cat/0.png",
            "a/cat/1.png",
            "a-2/cat/2.png",
            "a-2/dog/3.png",
            "c/dog/4.png",
            "c/dog/5.png"
        ]
    );
    assert_eq!(labels(&found), (vec!["cat", "dog"], classes()));
    let cached = read(places, "auto", Some(&cache)).unwrap();
    assert!(
        cached.origin.contains("6 images cached in"),
        "{}",
        cached.origin
    );
    assert_eq!(
        (cached.manifest, cached.labels),
        (found.manifest, found.labels)
    );
}

#[test]
fn a_source_without_labels_of_its_own_keeps_its_folders_beside_one_with() {
    let edm = [
        ("0.png".to_owned(), png(0)),
        ("1.png".to_owned(), png(1)),
        (
            "dataset.json".to_owned(),
            b"{\"labels\": [[\"0.png\", \"dog\"], [\"1.png\", \"emu\"]]}".to_vec(),
        ),
    ];
    let dir = tree([
        ("a.zip", zip_of(&edm, CompressionMethod::Stored, false)),
        ("b.zip", zip_of(&files(), CompressionMethod::Stored, false)),
        ("c/5.png", png(5)),
    ]);
    let places = ["a.zip", "b.zip", "c"].map(|name| dir.path().join(name));
    let found = read(Sources::new(places.to_vec()).unwrap(), "auto", None).unwrap();
    let (names, of) = labels(&found);
    assert_eq!(names, ["cat", "dog", "emu"]);
    assert_eq!(of[..3], [Some(1), Some(2), Some(0)]);
    assert_eq!(of[2..8], classes());
    assert_eq!(of[8], None);
    let said = found.notices();
    assert_eq!(
        said,
        [
            "none of the 1 image of c has a label",
            "3 classes: cat 3, dog 4, emu 1",
            "warning: 1 image is without a label: c/5.png",
            "warning: 1 class has a single image: emu",
        ]
    );
}

#[test]
fn a_label_of_minus_one_in_an_array_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let labelled = |labels: &[i64]| {
        let [images, _] = arrays();
        let labels = Array1::from_vec(labels.to_vec()).into_dyn();
        npz::write(&path, &[images, ("arr_1", Values::I64(labels))]).unwrap();
        read(path.as_path().into(), "auto", None)
    };
    let found = labelled(&[0, -1, 1, 1, -1, 0]).unwrap();
    let (names, of) = labels(&found);
    assert_eq!(names, ["0", "1"]);
    assert_eq!(of[..3], [Some(0), None, Some(1)]);
    let said = found.notices().join("\n");
    assert!(said.contains("2 images labelled -1 are without"), "{said}");
    let error = labelled(&[0, -2, 1, 1, -1, 0]).unwrap_err().to_string();
    assert!(error.contains("arr_1 is partly negative (-2)"), "{error}");
}

#[test]
fn shards_are_named_by_a_pattern() {
    let sample = |i: usize| {
        [
            (format!("{i:03}.png"), png(i)),
            (
                format!("{i:03}.cls"),
                format!("{}\n", class(i)).into_bytes(),
            ),
            (format!("{i:03}.json"), b"{\"key\": 1}".to_vec()),
        ]
    };
    let shard =
        |images: std::ops::Range<usize>| tar_of(&images.flat_map(sample).collect::<Vec<_>>());
    let dir = tree([("x-00.tar", shard(0..2)), ("x-01.tar", shard(2..IMAGES))]);
    let found = auto(dir.path().join("x-{00..01}.tar"));
    assert_eq!(hashes(&found), hashes(&auto(tree(files()).path())));
    assert_eq!(labels(&found), (vec!["0", "1"], classes()));
    assert_eq!(names(&found)[1..3], ["x-00/001.png", "x-01/002.png"]);
    assert_eq!(found.notices(), ["2 classes of 3 images each: 0, 1"]);
    let missing = dir.path().join("x-{00..02}.tar");
    let error = read(missing.as_path().into(), "auto", None).unwrap_err();
    assert!(error.to_string().contains("x-02.tar"), "{error}");
}

#[test]
fn classes_are_those_that_the_source_says() {
    let with = |name: &str, text: &str| {
        let mut files = files();
        files.push((name.to_owned(), text.as_bytes().to_vec()));
        let dir = tree([("a.zip", zip_of(&files, CompressionMethod::Stored, false))]);
        read(dir.path().join("a.zip").as_path().into(), "auto", None).map(|loaded| {
            let notices = loaded.notices();
            (loaded.labels, notices)
        })
    };
    let (found, _) = with(
        "dataset.json",
        "{\"labels\": [[\"cat/0.png\", 6], [\"dog/5.png\", 0]]}",
    )
    .unwrap();
    let found = found.unwrap();
    assert_eq!((found.classes(), found.unlabelled()), (7, 4));
    assert_eq!(
        (found.of[0], found.of[1], found.of[5]),
        (Some(6), None, Some(0))
    );
    // The folders of such an archive are none of classes.
    assert_eq!(
        with("dataset.json", "{\"labels\": null}").unwrap(),
        (None, vec![])
    );
    let said = with("dataset.json", "{\"labels\": [[\"cat/0.png\", [0.5, 1]]]}").unwrap_err();
    assert!(
        said.to_string().contains("vectors in place of classes"),
        "{said}"
    );
    let said = with("dataset.json", "{").unwrap_err();
    assert!(said.to_string().contains("dataset.json"), "{said}");
    // Of other images, or none of EDM's.
    let (found, notices) = with("dataset.json", "{\"labels\": [[\"x.png\", 0]]}").unwrap();
    let said = notices.join("\n");
    assert_eq!(found, None);
    assert!(said.contains("warning: ") && said.contains("dataset.json gives no image a class"));
    assert!(
        said.contains("it names, for example, x.png, and an image is cat/0.png"),
        "{said}"
    );
    let (found, notices) = with("dataset.json", "{\"classes\": [\"cat\"]}").unwrap();
    assert_eq!(found.unwrap().names, ["cat", "dog"]);
    assert!(notices[0].contains("has no list of labels"), "{notices:?}");
    let (found, notices) = with("7.cls", "3").unwrap();
    assert_eq!(found.unwrap().names, ["cat", "dog"]);
    assert!(
        notices[0].contains("one is 7.cls, for example, and an image is cat/0.png"),
        "{notices:?}"
    );
    // By the names of the files alone, where folders differ.
    let (found, _) = with(
        "dataset.json",
        "{\"labels\": [[\"x/0.png\", -1], [\"x/5.png\", 1]]}",
    )
    .unwrap();
    let found = found.unwrap();
    assert_eq!((found.of[0], found.of[5]), (None, Some(1)));
    let (_, notices) = with(
        "dataset.json",
        "{\"labels\": [[\"cat/0.png\", 0], [\"x.png\", 0]]}",
    )
    .unwrap();
    assert!(
        notices.iter().any(|line| line.contains("1 name of")),
        "{notices:?}"
    );
    let (found, _) = with("cat/0.json", "{\"label\": \"tabby\"}").unwrap();
    assert_eq!(found.unwrap().names, ["tabby"]);
    let said = with("cat/0.json", "{\"label\": [1, 0]}").unwrap_err();
    assert!(said.to_string().contains("cat/0.png"), "{said}");

    let named = tree([
        ("data_batch_1.bin", cifar(0..IMAGES, &[])),
        (
            "batches.meta.txt",
            b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n".to_vec(),
        ),
    ]);
    let found = auto(named.path());
    let (class_names, of) = labels(&found);
    assert_eq!(
        (class_names.len(), class_names[1], of),
        (10, "automobile", classes())
    );
    let said = found.notices().join("\n");
    assert!(
        said.contains("8 classes have no image: bird, cat"),
        "{said}"
    );
}

#[test]
fn a_folder_of_images_stays_one_whatever_else_is_in_it() {
    let mut all: Vec<(String, Vec<u8>)> = files();
    all.push(("train-images-idx3-ubyte".into(), idx_images()));
    all.push(("data_batch_1.bin".into(), cifar(0..2, &[])));
    all.push((
        "more.zip".into(),
        zip_of(&files(), CompressionMethod::Stored, false),
    ));
    assert_eq!(
        names(&auto(tree(all).path())),
        names(&auto(tree(files()).path()))
    );
}

#[test]
fn a_folder_of_archives_says_how_they_are_read() {
    let dir = tree([("a.tar", tar_of(&files())), ("b.tar", tar_of(&files()))]);
    let error = read(dir.path().into(), "auto", None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("found 2 .tar files: an archive is read where it is named itself"),
        "{error}"
    );
}

#[test]
fn names_are_only_names() {
    let png = png(0);
    let odd = |name: &str| (name.to_owned(), png.clone());
    let files = [
        odd("../../up.png"),
        odd("/etc/root.png"),
        odd("__MACOSX/._a.png"),
        odd(".hidden/b.png"),
        odd("dir\\c.png"),
        odd("plain"),
        ("text".to_owned(), b"no image".to_vec()),
        ("a.txt".to_owned(), b"no image".to_vec()),
    ];
    let dir = tree([("a.zip", zip_of(&files, CompressionMethod::Deflated, false))]);
    let found = auto(dir.path().join("a.zip"));
    assert_eq!(
        names(&found),
        ["../../up.png", "/etc/root.png", r"dir\\c.png", "plain"]
    );
    let said = found.notices().join("\n");
    assert!(
        said.contains("1 file with another ending is not read: .txt 1"),
        "{said}"
    );
    assert!(
        said.contains("1 file without an ending is not read"),
        "{said}"
    );
    assert!(said.contains("2 hidden items are passed over"), "{said}");
    assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_an_archive_has_twice_is_read_as_it_was_last() {
    let twice = [
        ("a.png".to_owned(), png(0)),
        ("b.png".to_owned(), png(1)),
        ("a.png".to_owned(), png(2)),
    ];
    let dir = tree([("a.tar", tar_of(&twice))]);
    let found = auto(dir.path().join("a.tar"));
    let wanted = auto(tree([("a.png", png(2)), ("b.png", png(1))]).path());
    assert_eq!(hashes(&found), hashes(&wanted));
    let said = found.notices().join("\n");
    assert!(said.contains("some names occur more than once"), "{said}");
}

#[test]
fn long_names_and_links_of_tar() {
    let long = format!("{}/{}.png", "d".repeat(120), "n".repeat(150));
    let mut archive = tar::Builder::new(tar_of(&[(long.clone(), png(0))]));
    // Over the end of the first, whose two empty blocks are dropped.
    let mut bytes = archive.get_mut().clone();
    bytes.truncate(bytes.len() - 1024);
    let mut archive = tar::Builder::new(bytes);
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        archive
            .append_link(&mut header, format!("{kind:?}.png"), "/etc/passwd")
            .unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    archive
        .append_data(&mut header, "folder.png", std::io::empty())
        .unwrap();
    let dir = tree([("a.tar", archive.into_inner().unwrap())]);
    let found = auto(dir.path().join("a.tar"));
    assert_eq!(names(&found), [long]);
    let reasons: Vec<&str> = found.skipped.iter().map(|(_, reason)| &**reason).collect();
    assert_eq!(reasons, ["a link, which is not followed in an archive"; 2]);
}

#[test]
fn members_with_holes_are_left_out() {
    // As GNU tar writes them in the pax format.
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_pax_extensions([("GNU.sparse.major", &b"1"[..])])
        .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(4);
    archive
        .append_data(&mut header, "GNUSparseFile.0/a.png", &b"1\n0\n"[..])
        .unwrap();
    let mut header = tar::Header::new_gnu();
    let png = png(0);
    header.set_size(png.len() as u64);
    archive.append_data(&mut header, "b.png", &png[..]).unwrap();
    let dir = tree([("a.tar", archive.into_inner().unwrap())]);
    let found = auto(dir.path().join("a.tar"));
    assert_eq!(names(&found), ["b.png"]);
    assert!(found.skipped[0].1.contains("holes"), "{:?}", found.skipped);
}

#[test]
fn what_is_cut_short_or_of_another_kind_is_refused_with_the_reason() {
    let zip = zip_of(&files(), CompressionMethod::Stored, false);
    let tar = tar_of(&files());
    let images = idx_images();
    let cut = |bytes: &[u8], less: usize| bytes[..bytes.len() - less].to_vec();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    npz::write(&path, &arrays()).unwrap();
    let npz = fs_err::read(&path).unwrap();
    let [(_, whole), _] = arrays();
    npz::write(
        &path,
        &[
            ("arr_0", whole.clone()),
            ("arr_1", Values::I64(Array1::zeros(5).into_dyn())),
        ],
    )
    .unwrap();
    let few_labels = fs_err::read(&path).unwrap();
    npz::write(
        &path,
        &[
            ("arr_0", whole.clone()),
            ("arr_1", Values::F64(Array1::zeros(6).into_dyn())),
        ],
    )
    .unwrap();
    let real_labels = fs_err::read(&path).unwrap();
    npz::write(
        &path,
        &[("arr_0", Values::F64(Array4::zeros((1, 2, 2, 3)).into_dyn()))],
    )
    .unwrap();
    let real_images = fs_err::read(&path).unwrap();
    for (name, bytes, wanted) in [
        ("a.zip", cut(&zip, 30), "cut short or damaged"),
        ("a.zip", zip[..500].to_vec(), "cut short or damaged"),
        ("a.tar", cut(&tar, 2000), "the file ends within a member"),
        (
            "a.tar",
            tar[..tar.len() / 2 / 512 * 512 - 100].to_vec(),
            "cut short or damaged after",
        ),
        ("a.tar.gz", cut(&gz(&tar), 100), "cannot unpack it"),
        ("images", cut(&images, 1), "cut short"),
        ("images", [&images[..], &[0]].concat(), "damaged"),
        ("labels", idx_labels(), "these are labels"),
        (
            "floats",
            idx(0x0d, &[1, 1, 1], &[0; 4]),
            "it holds float32 [1, 1, 1], and uint8",
        ),
        ("none", idx(8, &[0, 28, 28], &[]), "it holds 0 images"),
        ("many", idx(8, &[1 << 31, 1, 1], &[]), "cut short"),
        (
            "many.gz",
            gz(&idx(8, &[5_000_000, 1, 1], &[])),
            "more than gzip packs into",
        ),
        (
            "data_batch_1.bin",
            cut(&cifar(0..2, &[]), 1),
            "its 6145 bytes are not records of CIFAR-10",
        ),
        (
            "labels.bin",
            [vec![10], cifar(0..1, &[])[1..].to_vec()].concat(),
            "not records of CIFAR-10",
        ),
        ("a.npz", cut(&npz, 10), "cut short or damaged"),
        (
            "a.npz",
            few_labels,
            "arr_1 is [5], and labels of the 6 images are wanted",
        ),
        ("a.npz", real_labels, "arr_1 is of floating-point numbers"),
        ("a.npz", real_images, "uint8"),
        (
            "a.pdf",
            b"%PDF-1.7".to_vec(),
            "neither a folder of images nor a file that holds some",
        ),
        ("empty", vec![], "neither a folder"),
        (
            "empty.zip",
            zip_of(&[], CompressionMethod::Stored, false),
            "no images in",
        ),
        (
            "empty.tar",
            tar_of(&[("a.txt".into(), vec![1])]),
            "found 1 .txt file",
        ),
    ] {
        let said = refused(name, &bytes);
        assert!(said.contains(wanted), "{name}: {said}");
    }
    // Found only when the images are unpacked.
    let said = refused("images.gz", &cut(&gz(&images), 40));
    assert!(
        said.contains("none of the 6 images") && said.contains("unpack"),
        "{said}"
    );
    let said = refused("images.gz", &gz(&cut(&images, 1)));
    assert!(said.contains("cut short: it unpacks to"), "{said}");
}

#[test]
fn labels_of_idx_files_must_be_those_of_the_images() {
    for (labels, wanted) in [
        (idx(8, &[2], &[0, 1]), "it holds 2 labels for 6 images"),
        (idx(8, &[6], &[0, 1]), "cut short or damaged"),
        (idx(8, &[6, 1], &[0; 6]), "uint8 [N] are wanted"),
        (idx(0x0c, &[6], &[0; 24]), "uint8 [N] are wanted"),
        (b"no labels".to_vec(), "uint8 [N] are wanted"),
        (gz(&idx_labels())[..20].to_vec(), "train-labels"),
    ] {
        let dir = tree([
            ("train-images-idx3-ubyte", idx_images()),
            ("train-labels-idx1-ubyte.gz", labels),
        ]);
        let said = format!("{:#}", read(dir.path().into(), "auto", None).unwrap_err());
        assert!(
            said.contains(wanted) && said.contains("train-labels"),
            "{wanted}: {said}"
        );
        // They need not be read.
        assert_eq!(read(dir.path().into(), "none", None).unwrap().labels, None);
    }
}

/// Members that lie about themselves are left out alone.
#[test]
fn bombs_and_damage_in_a_zip_are_left_out() {
    let files = [
        ("a.png".to_owned(), vec![0; 100_000]),
        ("b.png".to_owned(), png(1)),
    ];
    let whole = zip_of(&files, CompressionMethod::Deflated, false);
    let at =
        |bytes: &[u8], magic: &[u8]| bytes.windows(magic.len()).position(|w| w == magic).unwrap();
    let directory = at(&whole, b"PK\x01\x02");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let dir = tree([("a.zip", bytes)]);
        let found = auto(dir.path().join("a.zip"));
        assert_eq!(names(&found), ["b.png"]);
        assert!(
            found.skipped[0].0.ends_with("a.zip/a.png"),
            "{:?}",
            found.skipped
        );
        found.skipped[0].1.clone()
    };
    let length = |bytes: &mut Vec<u8>, n: u32| {
        bytes[directory + 24..][..4].copy_from_slice(&n.to_le_bytes())
    };
    // As it is, it is no image.
    assert!(
        changed(&|_| ()).contains("could not be determined"),
        "{}",
        changed(&|_| ())
    );
    let said = changed(&|bytes| length(bytes, 90_000));
    assert!(
        said.contains("unpacks to more than the 90000 bytes"),
        "{said}"
    );
    let said = changed(&|bytes| length(bytes, 100_001));
    assert!(
        said.contains("unpacks to 100000 bytes of the 100001"),
        "{said}"
    );
    let said = changed(&|bytes| length(bytes, 1 << 30));
    assert!(said.contains("cannot hold the 1073741824"), "{said}");
    let said = changed(&|bytes| length(bytes, (1 << 30) + 1));
    assert!(said.contains("above the limit"), "{said}");
    let said = changed(&|bytes| bytes[directory + 16] ^= 1);
    assert!(said.contains("its checksum differs"), "{said}");
    let said = changed(&|bytes| bytes[directory + 8] |= 1);
    assert!(said.contains("encrypted"), "{said}");
    let said = changed(&|bytes| bytes[directory + 10] = 12);
    assert!(
        said.contains("only what is stored or deflated is read"),
        "{said}"
    );
    let said = changed(&|bytes| {
        bytes[directory + 20..][..4].copy_from_slice(&u32::to_le_bytes(0x7fff_ffff))
    });
    assert!(said.contains("forged"), "{said}");
}

#[test]
fn an_archive_that_changes_while_it_is_read_is_noticed() {
    let dir = tree([("a.tar", tar_of(&files()))]);
    let path = dir.path().join("a.tar");
    let wanted = super::Wanted {
        rules: crate::config::ImageRules::LATEST,
        labels: true,
    };
    let listing = super::list(&path.as_path().into(), wanted).unwrap();
    fs_err::write(&path, tar_of(&files()[1..])).unwrap();
    let error = listing.entries[0].place.contents().unwrap_err().to_string();
    assert!(
        error.contains("the file changed while it was read"),
        "{error}"
    );
}

#[test]
fn sixty_thousand_members_are_listed_quickly() {
    let began = std::time::Instant::now();
    let wanted = super::Wanted {
        rules: crate::config::ImageRules::LATEST,
        labels: true,
    };
    let many: Vec<_> = (0..60_000)
        .map(|i| (format!("{}/{i:05}.png", i % 10), vec![0; 4]))
        .collect();
    let dir = tree([
        ("a.zip", zip_of(&many, CompressionMethod::Stored, false)),
        ("a.tar", tar_of(&many)),
        ("images", idx(8, &[60_000, 1, 1], &[0; 60_000])),
    ]);
    for name in ["a.zip", "a.tar", "images"] {
        let listing = super::list(&dir.path().join(name).into(), wanted).unwrap();
        assert_eq!(listing.entries.len(), 60_000, "{name}");
    }
    // Quadratic work would take minutes.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

#[test]
fn a_pass_reads_an_archive_as_a_folder() {
    let dir = tree([(
        "a.zip",
        zip_of(&files(), CompressionMethod::Deflated, false),
    )]);
    let folder = tree(files());
    let pass = |place: &Path| {
        let images = ImageFolder::of_one_size(place).unwrap();
        let mut parts = Vec::new();
        let mut take = |part: &tch::Tensor| {
            parts.push(part.copy());
            Ok(())
        };
        let pass = images.for_each(4, &|_| (), &mut take).unwrap();
        let last = images.image(pass.manifest.name(IMAGES - 1).unwrap());
        (tch::Tensor::cat(&parts, 0), pass.manifest, last.unwrap())
    };
    let found = pass(&dir.path().join("a.zip"));
    assert_eq!(found.0.size(), [IMAGES as i64, 3, SIDE as i64, SIDE as i64]);
    assert_eq!(found, pass(folder.path()));
}

/// Whatever a byte is changed to, and wherever a file ends: an error, or other images.
#[test]
fn no_damage_is_a_panic() {
    let mut webdataset = files();
    webdataset.push(("cat/0.cls".into(), b"3".to_vec()));
    let dir = tempfile::tempdir().unwrap();
    let npz_path = dir.path().join("a.npz");
    npz::write(&npz_path, &arrays()).unwrap();
    let sources = [
        ("a.zip", zip_of(&files(), CompressionMethod::Deflated, true)),
        ("a.tar", tar_of(&webdataset)),
        ("a.tar.gz", gz(&tar_of(&files()))),
        ("images", idx_images()),
        ("a.bin", cifar(0..2, &[])),
        ("a.npz", fs_err::read(&npz_path).unwrap()),
    ];
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = crate::rng::mix(random);
        (random % below as u64) as usize
    };
    for (name, whole) in sources {
        let path = dir.path().join(name);
        for round in 0..80 {
            let mut bytes = whole.clone();
            // Mostly in headers and directories, which lie at the ends.
            let near = 600.min(bytes.len());
            let at = match round % 4 {
                0 => next(bytes.len()),
                1 => bytes.len() - 1 - next(near),
                _ => next(near),
            };
            match round % 5 {
                0 => bytes.truncate(at),
                _ => bytes[at] = [0, 0xff, b'9', bytes[at] ^ 1][next(4)],
            }
            fs_err::write(&path, bytes).unwrap();
            let _ = read(path.as_path().into(), "auto", None);
        }
    }
}
