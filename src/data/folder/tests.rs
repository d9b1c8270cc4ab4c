use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use image::{GrayImage, Luma, Rgb, RgbImage};

use super::*;
use crate::data::listing;

fn list(dir: &Path) -> Result<Listing, DataError> {
    listing::list(dir, ImageRules::LATEST)
}

/// A folder of 4x4 grey images, each as bright as given.
fn folder(images: &[(&str, u8)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, grey) in images {
        let path = dir.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        write_grey(&path, *grey);
    }
    dir
}

fn write_grey(path: &Path, grey: u8) {
    let mut png = std::io::Cursor::new(Vec::new());
    GrayImage::from_pixel(4, 4, Luma([grey]))
        .write_to(&mut png, image::ImageFormat::Png)
        .unwrap();
    fs_err::write(path, png.into_inner()).unwrap();
}

/// One grey pixel from each image.
fn dot() -> ImageSpec {
    ImageSpec {
        channels: 1,
        ..ImageSpec::rgb(1, 1)
    }
}

/// A folder and its pixels.
#[derive(Debug)]
struct Loaded {
    folder: Folder,
    pixels: Vec<u8>,
}

/// [`super::load`] to the end.
fn load(
    dir: &Path,
    listing: Listing,
    spec: &ImageSpec,
    progress: &(dyn Fn(usize) + Sync),
    take: &mut Take,
) -> Result<Folder, DataError> {
    super::load(dir, &listing, spec, progress, &|| false, take)
}

fn load_listed(dir: &Path, listing: Listing, spec: &ImageSpec) -> Result<Loaded, DataError> {
    let mut pixels = Vec::new();
    let mut take = |part: &[u8]| {
        pixels.extend(part);
        Ok(())
    };
    let folder = load(dir, listing, spec, &|_| {}, &mut take)?;
    Ok(Loaded { folder, pixels })
}

fn load_quietly(dir: &Path, spec: &ImageSpec) -> Result<Loaded, DataError> {
    load_listed(dir, list(dir)?, spec)
}

fn listed(dir: &Path) -> Vec<PathBuf> {
    let entries = list(dir).unwrap().entries;
    entries.iter().map(Entry::path).collect()
}

/// [`super::fingerprint`] of what is there now.
fn fingerprint(dir: &Path, spec: &ImageSpec) -> String {
    super::fingerprint(&list(dir).unwrap().entries, spec)
}

fn loaded_names(Loaded { folder, .. }: &Loaded) -> Vec<&str> {
    (0..folder.manifest.len())
        .map(|i| folder.manifest.name(i).unwrap())
        .collect()
}

fn names_of(dir: &Path, paths: &[PathBuf]) -> Vec<String> {
    paths
        .iter()
        .map(|p| p.strip_prefix(dir).unwrap().display().to_string())
        .collect()
}

#[test]
fn lists_every_kind_of_image_in_byte_order() {
    let wanted = ["B.JPG", "a/z.png", "a.webp", "b.GIF", "c/d/e.Jpeg", "f.bmp"];
    let dir = folder(&wanted.map(|name| (name, 0)));
    for other in ["note.txt", "png", "g.png.bak", ".png"] {
        fs_err::write(dir.path().join(other), "").unwrap();
    }
    fs_err::create_dir(dir.path().join("folder.png")).unwrap();
    let mut sorted = wanted;
    sorted.sort_unstable(); // "B" before "a", "." before "/"
    assert_eq!(names_of(dir.path(), &listed(dir.path())), sorted);
}

#[test]
fn loads_planes_in_list_order() {
    let dir = tempfile::tempdir().unwrap();
    for (name, rgb) in [("b.png", [4, 5, 6]), ("a.png", [1, 2, 3])] {
        RgbImage::from_pixel(2, 2, Rgb(rgb))
            .save(dir.path().join(name))
            .unwrap();
    }
    let folder = load_quietly(dir.path(), &ImageSpec::rgb(1, 2)).unwrap();
    assert_eq!(folder.pixels, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
    assert_eq!(loaded_names(&folder), ["a.png", "b.png"]);
    assert!(folder.folder.skipped.is_empty());
}

#[test]
fn planes_of_a_two_pixel_image() {
    let mut planes = [0; 6];
    to_planes(ndarray::array![[[1, 2, 3], [4, 5, 6]]].view(), &mut planes);
    assert_eq!(planes, [1, 4, 2, 5, 3, 6]);
}

#[test]
fn leaves_out_damaged_files_and_lists_them() {
    let dir = folder(&[("a.png", 10), ("c.png", 30), ("d.png", 40)]);
    fs_err::write(dir.path().join("b.png"), "not an image").unwrap();
    fs_err::write(dir.path().join("e.jpg"), b"\xff\xd8\xff\xe0 cut").unwrap();
    let folder = load_quietly(dir.path(), &dot()).unwrap();
    assert_eq!(folder.pixels, [10, 30, 40]);
    assert_eq!(loaded_names(&folder), ["a.png", "c.png", "d.png"]);
    let skipped: Vec<_> = folder
        .folder
        .skipped
        .iter()
        .map(|(path, _)| path.clone())
        .collect();
    assert_eq!(names_of(dir.path(), &skipped), ["b.png", "e.jpg"]);
    assert!(
        folder
            .folder
            .skipped
            .iter()
            .all(|(_, reason)| !reason.is_empty())
    );
}

#[test]
fn a_panicking_decoder_is_one_unreadable_file() {
    let reason = guarded::<()>(|| panic!("index {} out of range", 9)).unwrap_err();
    assert_eq!(reason, "the decoder panicked: index 9 out of range");
}

#[test]
fn says_what_is_wrong_with_the_folder() {
    let dir = folder(&[("a.png", 0)]);
    let error = |path: &Path| load_quietly(path, &dot()).unwrap_err();

    let error_missing = error(&dir.path().join("nowhere"));
    assert!(
        matches!(error_missing, DataError::NoSuchFolder { .. }),
        "{error_missing}"
    );
    let error_file = error(&dir.path().join("a.png"));
    assert!(
        matches!(error_file, DataError::NotAFolder { .. }),
        "{error_file}"
    );

    fs_err::rename(dir.path().join("a.png"), dir.path().join("a.txt")).unwrap();
    let error_empty = error(dir.path());
    assert!(
        matches!(error_empty, DataError::NoImages { .. }),
        "{error_empty}"
    );
    assert!(
        error_empty
            .to_string()
            .contains(".png, .jpg, .jpeg, .webp, .bmp, .gif")
    );
}

#[test]
fn quotes_reasons_when_nothing_could_be_read() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..5 {
        fs_err::write(dir.path().join(format!("{i}.png")), "not an image").unwrap();
    }
    let error = load_quietly(dir.path(), &dot()).unwrap_err();
    let DataError::NoneReadable {
        count: 5, reasons, ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(reasons.len(), QUOTED_REASONS);
    assert!(
        error.to_string().contains("none of the 5 images"),
        "{error}"
    );
    assert!(error.to_string().contains("0.png: "), "{error}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let images: Vec<_> = (0..60).map(|i| (format!("{i}.png"), i)).collect();
    let images: Vec<_> = images
        .iter()
        .map(|(name, grey)| (name.as_str(), *grey))
        .collect();
    let dir = folder(&images);
    fs_err::write(dir.path().join("33.png"), "not an image").unwrap();
    let [one, eight] = [1, 8].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| load_quietly(dir.path(), &dot())).unwrap()
    });
    assert_eq!(one.folder.manifest.len(), 59);
    assert_eq!(
        (one.pixels, one.folder.manifest),
        (eight.pixels, eight.folder.manifest)
    );
}

#[test]
fn progress_counts_every_file_once() {
    let dir = folder(&[("a.png", 0), ("b.png", 0), ("c.png", 0)]);
    fs_err::write(dir.path().join("b.png"), "not an image").unwrap();
    let seen = Mutex::new(Vec::new());
    let listing = list(dir.path()).unwrap();
    let progress = |done| seen.lock().unwrap().push(done);
    load(dir.path(), listing, &dot(), &progress, &mut |_| Ok(())).unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3]);
}

#[test]
fn images_come_in_parts_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    // Two parts and a half for a thread's 16 images, of 2 MiB each.
    let spec = ImageSpec::rgb(836, 836);
    for i in 0..80 {
        let path = dir.path().join(format!("{i:02}.png"));
        match i % 16 {
            3 => fs_err::write(path, "not an image").unwrap(),
            _ => write_grey(&path, i),
        }
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2);
    let mut parts = Vec::new();
    let mut take = |part: &[u8]| {
        let images = part.chunks_exact(spec.bytes());
        assert!(images.remainder().is_empty());
        parts.push(images.map(|image| image[0]).collect::<Vec<_>>());
        Ok(())
    };
    let listing = list(dir.path()).unwrap();
    let load = || load(dir.path(), listing, &spec, &|_| {}, &mut take);
    let folder = pool.build().unwrap().install(load).unwrap();
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [30, 30, 15]);
    let greys: Vec<u8> = (0..80).filter(|i| i % 16 != 3).collect();
    assert_eq!(parts.concat(), greys);
    assert_eq!((folder.manifest.len(), folder.skipped.len()), (75, 5));
}

#[test]
fn what_cannot_be_kept_ends_the_work() {
    let dir = folder(&[("a.png", 1)]);
    let listing = list(dir.path()).unwrap();
    let mut full = |_: &[u8]| Err(io::Error::other("no space left"));
    let error = load(dir.path(), listing, &dot(), &|_| {}, &mut full).unwrap_err();
    assert!(matches!(error, DataError::Io(_)), "{error}");
}

#[cfg(unix)]
#[test]
fn survives_links_that_go_round_in_circles() {
    use std::os::unix::fs::symlink;
    let dir = folder(&[("a.png", 1), ("below/b.png", 2)]);
    let elsewhere = folder(&[("c.png", 3)]);
    symlink("..", dir.path().join("below/up")).unwrap();
    symlink(elsewhere.path(), dir.path().join("linked")).unwrap();
    symlink("self.png", dir.path().join("self.png")).unwrap();
    symlink("nowhere", dir.path().join("broken.png")).unwrap();
    let folder = load_quietly(dir.path(), &dot()).unwrap();
    assert_eq!(
        loaded_names(&folder),
        ["a.png", "below/b.png", "linked/c.png"]
    );
    let skipped: Vec<_> = folder
        .folder
        .skipped
        .iter()
        .map(|(path, _)| path.clone())
        .collect();
    assert_eq!(names_of(dir.path(), &skipped), ["broken.png", "self.png"]);
}

#[cfg(target_os = "linux")]
#[test]
fn file_names_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir
        .path()
        .join(std::ffi::OsStr::from_bytes(b"\xff\xfe.png"));
    write_grey(&path, 9);
    let folder = load_quietly(dir.path(), &dot()).unwrap();
    assert_eq!(folder.pixels, [9]);
    assert_eq!(folder.folder.manifest.name(0), Some(r"\xff\xfe.png"));
    assert_eq!(fingerprint(dir.path(), &dot()).len(), 64);
}

#[test]
fn fingerprints_change_with_the_files_and_the_form() {
    let dir = folder(&[("a.png", 1), ("b.png", 2)]);
    let of = |spec: &ImageSpec| fingerprint(dir.path(), spec);
    let before = of(&dot());
    assert_eq!(before, of(&dot()));
    assert_ne!(before, of(&ImageSpec { height: 2, ..dot() }));
    assert_ne!(
        before,
        of(&ImageSpec {
            resize: crate::config::Resize::Cv2,
            ..dot()
        })
    );
    assert_ne!(
        before,
        of(&ImageSpec {
            background: "black".parse().unwrap(),
            ..dot()
        })
    );

    let touch = |seconds| {
        let file = fs_err::OpenOptions::new()
            .write(true)
            .open(dir.path().join("a.png"))
            .unwrap();
        file.file()
            .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
            .unwrap();
    };
    touch(1);
    let touched = of(&dot());
    assert_ne!(before, touched);
    touch(2);
    assert_ne!(touched, of(&dot()));
    touch(1);
    assert_eq!(touched, of(&dot()));

    fs_err::rename(dir.path().join("a.png"), dir.path().join("c.png")).unwrap();
    assert_ne!(touched, of(&dot()));
}

#[test]
fn fingerprints_do_not_depend_on_where_the_folder_is() {
    let [here, there] = [folder(&[("a.png", 1)]), folder(&[("a.png", 1)])];
    let [here, there] = [here, there].map(|dir| {
        let files = listed(dir.path());
        let file = fs_err::OpenOptions::new()
            .write(true)
            .open(&files[0])
            .unwrap();
        file.file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fingerprint(dir.path(), &dot())
    });
    assert_eq!(here, there);
}

#[test]
fn what_ddpm_made_is_an_image_where_there_is_no_other() {
    let dir = folder(&[("b.png", 2)]);
    let grey = ndarray::array![[[7], [8]], [[9], [7]]];
    crate::report::write_png(&dir.path().join("a.png"), grey.view()).unwrap();
    let loaded = load_quietly(dir.path(), &dot()).unwrap();
    assert_eq!(loaded_names(&loaded), ["b.png"]);
    let made = loaded.folder.remarks.names(Remark::MadeByDdpm);
    assert_eq!(made, ["a.png"]);
    // As in version 0.1.
    let first = ImageSpec {
        rules: ImageRules::V1,
        ..dot()
    };
    let loaded = load_quietly(dir.path(), &first).unwrap();
    assert_eq!(loaded_names(&loaded), ["a.png", "b.png"]);
    fs_err::write(dir.path().join("b.png"), "not an image").unwrap();
    let loaded = load_quietly(dir.path(), &dot()).unwrap();
    assert_eq!(loaded_names(&loaded), ["a.png"]);
}

#[test]
fn the_manifest_names_and_hashes_what_was_decoded() {
    let dir = folder(&[("b.png", 2), ("a b/c\td.png", 7)]);
    let folder = load_quietly(dir.path(), &ImageSpec::rgb(2, 3)).unwrap();
    assert_eq!(loaded_names(&folder), [r"a b/c\td.png", "b.png"]);
    let digits = |grey: u8| blake3::hash(&[grey; 18]).to_hex()[..16].to_owned();
    let hashes = [0, 1].map(|i| format!("{:016x}", folder.folder.manifest.hash(i).unwrap()));
    assert_eq!(hashes, [digits(7), digits(2)]);
}

/// A file can become anything between listing and reading.
#[test]
fn files_may_change_after_they_were_listed() {
    let names =
        ["a", "cut", "dir", "edited", "gone", "pipe", "rubbish"].map(|n| format!("{n}.png"));
    let dir = folder(&names.each_ref().map(|name| (name.as_str(), 5)));
    let listing = list(dir.path()).unwrap();
    let before = super::fingerprint(&listing.entries, &dot());
    let path = |name: &str| dir.path().join(name);
    for name in ["dir.png", "gone.png", "pipe.png"] {
        fs_err::remove_file(path(name)).unwrap();
    }
    fs_err::create_dir(path("dir.png")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(path("pipe.png"))
        .status();
    assert!(made.unwrap().success());
    write_grey(&path("edited.png"), 6);
    fs_err::write(path("rubbish.png"), "rubbish").unwrap();
    let whole = fs_err::read(path("cut.png")).unwrap();
    fs_err::write(path("cut.png"), &whole[..whole.len() / 2]).unwrap();

    let changed = super::fingerprint(&listing.entries, &dot());
    assert_ne!(before, changed);
    let folder = load_listed(dir.path(), listing, &dot()).unwrap();
    assert_eq!(folder.pixels, [5, 6]);
    assert_eq!(loaded_names(&folder), ["a.png", "edited.png"]);
    assert_eq!(folder.folder.manifest.hash(1), Some(hash(&[6])));
    let skipped: Vec<_> = folder
        .folder
        .skipped
        .iter()
        .map(|(p, _)| p.clone())
        .collect();
    assert_eq!(
        names_of(dir.path(), &skipped),
        ["cut.png", "dir.png", "gone.png", "pipe.png", "rubbish.png"]
    );
    let reason = |i: usize| folder.folder.skipped[i].1.as_str();
    assert_eq!((reason(1), reason(3)), ("not a file", "not a file"));
    assert!(reason(2).contains("No such file"), "{}", reason(2));
    // A deleted file is not listed the next time, and the digest changes again.
    assert_ne!(changed, fingerprint(dir.path(), &dot()));
}

/// Twelve folders with links to all of them have more than 12! paths.
#[cfg(unix)]
#[test]
fn folders_full_of_links_to_one_another_end() {
    let dir = folder(&[("0/a.png", 1)]);
    let folders: Vec<_> = (0..12).map(|i| dir.path().join(i.to_string())).collect();
    for here in &folders {
        fs_err::create_dir_all(here).unwrap();
        for (i, there) in folders.iter().enumerate() {
            std::os::unix::fs::symlink(there, here.join(format!("to{i}"))).unwrap();
        }
    }
    let files = listed(dir.path());
    assert_eq!(files, listed(dir.path()));
    // The file itself, and at most once below each of the 144 links.
    assert!((2..=145).contains(&files.len()), "{} files", files.len());
    let direct = dir.path().join("5/to0/a.png");
    assert!(files.contains(&direct), "{files:?}");
}

#[test]
fn reasons_do_not_repeat_the_path() {
    let dir = folder(&[("a.png", 1)]);
    let long = fs_err::File::create(dir.path().join("long.png")).unwrap();
    long.set_len(super::super::decode::MAX_FILE_BYTES + 1)
        .unwrap();
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x4e\x20\0\0\x4e\x20\x08\x02\0\0\0".to_vec();
    png.extend(crc32fast::hash(&png[12..]).to_be_bytes());
    png.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    fs_err::write(dir.path().join("wide.png"), png).unwrap();
    let folder = load_quietly(dir.path(), &dot()).unwrap();
    let reasons: Vec<_> = folder
        .folder
        .skipped
        .iter()
        .map(|(_, r)| r.as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "a file of 1073741825 bytes, above the limit of 1073741824",
            "20000x20000 pixels, 1200000000 bytes to decode, above the limit of 1073741824",
        ]
    );
}
