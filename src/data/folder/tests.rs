use std::sync::Mutex;

use image::{GrayImage, Luma, Rgb, RgbImage};

use super::*;

/// A folder of 4x4 grey pictures, each as bright as given.
fn folder(pictures: &[(&str, u8)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, grey) in pictures {
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

/// One grey pixel from each picture.
fn dot() -> PictureSpec {
    PictureSpec {
        channels: 1,
        ..PictureSpec::rgb(1, 1)
    }
}

fn load_quietly(dir: &Path, spec: &PictureSpec) -> Result<Folder, DataError> {
    load(dir, spec, &|_| {})
}

fn names(dir: &Path, paths: &[PathBuf]) -> Vec<String> {
    paths
        .iter()
        .map(|p| p.strip_prefix(dir).unwrap().display().to_string())
        .collect()
}

#[test]
fn lists_every_kind_of_picture_in_byte_order() {
    let wanted = ["B.JPG", "a/z.png", "a.webp", "b.GIF", "c/d/e.Jpeg", "f.bmp"];
    let dir = folder(&wanted.map(|name| (name, 0)));
    for other in ["note.txt", "png", "g.png.bak", ".png"] {
        fs_err::write(dir.path().join(other), "").unwrap();
    }
    fs_err::create_dir(dir.path().join("folder.png")).unwrap();
    let mut sorted = wanted;
    sorted.sort_unstable(); // "B" before "a", "." before "/"
    assert_eq!(names(dir.path(), &list(dir.path()).unwrap()), sorted);
}

#[test]
fn loads_planes_in_list_order() {
    let dir = tempfile::tempdir().unwrap();
    for (name, rgb) in [("b.png", [4, 5, 6]), ("a.png", [1, 2, 3])] {
        RgbImage::from_pixel(2, 2, Rgb(rgb))
            .save(dir.path().join(name))
            .unwrap();
    }
    let folder = load_quietly(dir.path(), &PictureSpec::rgb(1, 2)).unwrap();
    assert_eq!(folder.pixels, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
    assert_eq!(folder.count, 2);
    assert_eq!(names(dir.path(), &folder.paths), ["a.png", "b.png"]);
    assert!(folder.skipped.is_empty());
}

#[test]
fn planes_of_a_two_pixel_picture() {
    let mut planes = [0; 6];
    to_planes(&[1, 2, 3, 4, 5, 6], &mut planes, 3);
    assert_eq!(planes, [1, 4, 2, 5, 3, 6]);
}

#[test]
fn leaves_out_damaged_files_and_lists_them() {
    let dir = folder(&[("a.png", 10), ("c.png", 30), ("d.png", 40)]);
    fs_err::write(dir.path().join("b.png"), "not a picture").unwrap();
    fs_err::write(dir.path().join("e.jpg"), b"\xff\xd8\xff\xe0 cut").unwrap();
    let folder = load_quietly(dir.path(), &dot()).unwrap();
    assert_eq!(folder.pixels, [10, 30, 40]);
    assert_eq!(
        names(dir.path(), &folder.paths),
        ["a.png", "c.png", "d.png"]
    );
    let skipped: Vec<_> = folder
        .skipped
        .iter()
        .map(|(path, _)| path.clone())
        .collect();
    assert_eq!(names(dir.path(), &skipped), ["b.png", "e.jpg"]);
    assert!(folder.skipped.iter().all(|(_, reason)| !reason.is_empty()));
}

#[test]
fn a_panicking_decoder_is_one_unreadable_file() {
    let reason = guarded(|| panic!("index {} out of range", 9)).unwrap_err();
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
        matches!(error_empty, DataError::NoPictures { .. }),
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
        fs_err::write(dir.path().join(format!("{i}.png")), "not a picture").unwrap();
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
        error.to_string().contains("none of the 5 pictures"),
        "{error}"
    );
    assert!(error.to_string().contains("0.png: "), "{error}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let pictures: Vec<_> = (0..60).map(|i| (format!("{i}.png"), i)).collect();
    let pictures: Vec<_> = pictures
        .iter()
        .map(|(name, grey)| (name.as_str(), *grey))
        .collect();
    let dir = folder(&pictures);
    fs_err::write(dir.path().join("33.png"), "not a picture").unwrap();
    let [one, eight] = [1, 8].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| load_quietly(dir.path(), &dot())).unwrap()
    });
    assert_eq!(one.count, 59);
    assert_eq!((one.pixels, one.paths), (eight.pixels, eight.paths));
}

#[test]
fn progress_counts_every_file_once() {
    let dir = folder(&[("a.png", 0), ("b.png", 0), ("c.png", 0)]);
    fs_err::write(dir.path().join("b.png"), "not a picture").unwrap();
    let seen = Mutex::new(Vec::new());
    load(dir.path(), &dot(), &|done| seen.lock().unwrap().push(done)).unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3]);
}

#[test]
fn more_pictures_than_memory_is_an_error() {
    let error = zeros(usize::MAX / 2, 3).unwrap_err();
    assert!(
        matches!(
            error,
            DataError::OutOfMemory {
                picture_bytes: 3,
                ..
            }
        ),
        "{error}"
    );
    assert!(zeros(1 << 40, 1 << 20).is_err());
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
        names(dir.path(), &folder.paths),
        ["a.png", "below/b.png", "linked/c.png"]
    );
    let skipped: Vec<_> = folder
        .skipped
        .iter()
        .map(|(path, _)| path.clone())
        .collect();
    assert_eq!(names(dir.path(), &skipped), ["broken.png", "self.png"]);
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
    assert_eq!((folder.pixels, folder.paths), (vec![9], vec![path.clone()]));
    assert_eq!(fingerprint(dir.path(), &[path], &dot()).unwrap().len(), 64);
}

#[test]
fn fingerprints_change_with_the_files_and_the_form() {
    let dir = folder(&[("a.png", 1), ("b.png", 2)]);
    let of =
        |spec: &PictureSpec| fingerprint(dir.path(), &list(dir.path()).unwrap(), spec).unwrap();
    let before = of(&dot());
    assert_eq!(before, of(&dot()));
    assert_ne!(before, of(&PictureSpec { height: 2, ..dot() }));
    assert_ne!(
        before,
        of(&PictureSpec {
            resize: super::super::decode::Resize::Cv2,
            ..dot()
        })
    );
    assert_ne!(
        before,
        of(&PictureSpec {
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
        let files = list(dir.path()).unwrap();
        let file = fs_err::OpenOptions::new()
            .write(true)
            .open(&files[0])
            .unwrap();
        file.file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fingerprint(dir.path(), &files, &dot()).unwrap()
    });
    assert_eq!(here, there);
}
