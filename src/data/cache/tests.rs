use super::*;
use crate::data::manifest::hash;

const KEY: &str = "0123";

fn key() -> CacheKey {
    CacheKey {
        version: version(spec().rules),
        fingerprint: KEY.to_owned(),
    }
}

fn write_cached(path: &Path, cached: &Cached) {
    let folder = Folder {
        manifest: cached.manifest.clone(),
        skipped: cached.skipped.clone(),
        remarks: cached.remarks.clone(),
    };
    let decode = |take: &mut Take| {
        // In two parts, as with many files.
        for part in native::host_bytes(&cached.pixels)?.chunks(2) {
            take(part)?;
        }
        Ok(folder)
    };
    write(path, &key(), Path::new("/data"), &spec(), decode).unwrap();
}

/// Two grey images of 1x2, one of them with a remark, and a skipped file with an awkward name.
fn cached() -> Cached {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"\xff \n\\.png");
    let names = ["a.png", "b.png"].map(str::to_owned);
    Cached {
        pixels: Tensor::from_slice(&[1u8, 2, 3, 4]).view([2, 1, 1, 2]),
        manifest: Manifest::new(names.into_iter().zip([hash(&[1, 2]), hash(&[3, 4])])),
        skipped: vec![(
            Path::new("/data").join(odd),
            "two\nlines\tand a tab".to_owned(),
        )],
        remarks: Remarks::parse("one-colour\tb.png\n").unwrap(),
    }
}

fn spec() -> ImageSpec {
    ImageSpec {
        channels: 1,
        ..ImageSpec::rgb(1, 2)
    }
}

fn read_back(path: &Path) -> Result<Option<Cached>> {
    read(path, &key(), Path::new("/data"), &spec())
}

#[test]
fn everything_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    assert!(read_back(&path).unwrap().is_none());
    let mut wanted = cached();
    for _ in 0..2 {
        write_cached(&path, &wanted);
        let found = read_back(&path).unwrap().unwrap();
        assert_eq!(found.pixels, wanted.pixels);
        assert_eq!(found.manifest, wanted.manifest);
        assert_eq!(found.skipped, wanted.skipped);
        assert_eq!(found.remarks, wanted.remarks);
        // The folder can have moved, and its files with it.
        let moved = read(&path, &key(), Path::new("/moved"), &spec()).unwrap();
        let moved = moved.unwrap().skipped;
        assert!(moved.iter().all(|(path, _)| path.starts_with("/moved")));
        wanted.skipped.clear(); // an empty tensor
        wanted.remarks = Remarks::default();
    }
}

/// Those of version 0.1 have the same layout, and are read.
#[test]
fn a_cache_of_the_first_rules_has_no_remarks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let spec = ImageSpec {
        rules: ImageRules::V1,
        ..spec()
    };
    let key = CacheKey {
        version: version(spec.rules),
        fingerprint: KEY.to_owned(),
    };
    let (cached, text) = (cached(), |text: &str| Tensor::from_slice(text.as_bytes()));
    let tensors = [
        ("pixels", cached.pixels.shallow_clone()),
        ("manifest", text(&cached.manifest.to_text())),
        ("skipped", text("")),
    ];
    write_raw(&path, r#"{"version":2,"fingerprint":"0123"}"#, &tensors);
    let found = read(&path, &key, Path::new("/data"), &spec)
        .unwrap()
        .unwrap();
    assert_eq!(found.pixels, cached.pixels);
    let folder = Folder {
        manifest: cached.manifest,
        skipped: vec![],
        remarks: cached.remarks,
    };
    let decode = |take: &mut Take| {
        take(&[1, 2, 3, 4])?;
        Ok(folder)
    };
    write(&path, &key, Path::new("/data"), &spec, decode).unwrap();
    let names: Vec<_> = safetensors::open(&path).unwrap().tensors;
    assert_eq!(names.len(), 3);
}

#[test]
fn a_cache_that_cannot_be_filled_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    write_cached(&path, &cached());
    let decode = |take: &mut Take| {
        take(&[9; 2])?;
        bail!("the disk is full")
    };
    let error = write(&path, &key(), Path::new("/data"), &spec(), decode).unwrap_err();
    assert!(format!("{error:#}").contains("the disk is full"));
    assert_eq!(read_back(&path).unwrap().unwrap().pixels, cached().pixels);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn others_can_read_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    write_cached(&path, &cached());
    let bytes = std::fs::read(&path).unwrap();
    let file = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("pixels").unwrap().data(), [1, 2, 3, 4]);
}

/// Writes a cache with the key of another version or with other tensors.
fn write_raw(path: &Path, key: &str, tensors: &[(&str, Tensor)]) {
    let tensors: Vec<_> = (tensors.iter())
        .map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone()))
        .collect();
    safetensors::write(path, (METADATA_KEY.to_owned(), key.to_owned()), &tensors).unwrap();
}

#[test]
fn a_cache_of_another_version_or_folder_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    for key in [
        r#"{"version":1,"fingerprint":"0123"}"#,
        r#"{"version":2,"fingerprint":"0123"}"#,
        r#"{"version":3,"fingerprint":"4567"}"#,
        r#"{"version":4,"fingerprint":"0123","more":[]}"#,
        "rubbish",
    ] {
        write_raw(&path, key, &[("pixels", cached().pixels)]);
        assert!(read_back(&path).unwrap().is_none(), "{key}");
    }
}

#[test]
fn a_damaged_cache_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let good_key = serde_json::to_string(&key()).unwrap();
    let text = |text: &str| Tensor::from_slice(text.as_bytes());
    let list = cached().manifest.to_text();
    let pixels = || cached().pixels;
    let cases = [
        (
            vec![("skipped", text("")), ("manifest", text(&list))],
            "no tensor `pixels`",
        ),
        (
            vec![("pixels", pixels()), ("skipped", text(""))],
            "no tensor `manifest`",
        ),
        (
            vec![("pixels", pixels()), ("manifest", text(&list))],
            "no tensor `skipped`",
        ),
        (
            vec![
                ("pixels", pixels().view([4, 1, 1, 1])),
                ("manifest", text(&list)),
                ("skipped", text("")),
            ],
            "expected images of [1, 1, 2]",
        ),
        (
            vec![
                ("pixels", pixels().narrow(0, 0, 1)),
                ("manifest", text(&list)),
                ("skipped", text("")),
            ],
            "it holds 1 images and lists 2",
        ),
        (
            vec![
                ("pixels", pixels()),
                ("manifest", text(&list[..30])),
                ("skipped", text("")),
            ],
            "in tensor `manifest`",
        ),
        (
            vec![
                ("pixels", pixels()),
                ("manifest", text(&list)),
                ("skipped", text("no tab\n")),
            ],
            "a skipped file: \"no tab\"",
        ),
        (
            vec![
                ("pixels", pixels()),
                ("manifest", text(&list)),
                ("skipped", text("")),
            ],
            "no tensor `remarks`",
        ),
        (
            vec![
                ("pixels", pixels()),
                ("manifest", text(&list)),
                ("skipped", text("")),
                ("remarks", text("blue\ta.png\n")),
            ],
            "a remark: \"blue\\ta.png\"",
        ),
        (
            vec![
                ("pixels", pixels()),
                ("manifest", pixels().to_kind(Kind::Float)),
                ("skipped", text("")),
            ],
            "`manifest` is Float",
        ),
    ];
    for (tensors, wanted) in cases {
        write_raw(&path, &good_key, &tensors);
        let error = format!("{:#}", read_back(&path).unwrap_err());
        assert!(
            error.contains(wanted) && error.contains("delete it"),
            "{wanted}: {error}"
        );
    }
}

#[test]
fn another_kind_of_file_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights");
    let tensors = [("w".to_owned(), Tensor::from_slice(&[1f32]))];
    safetensors::write(&path, ("ddpm".into(), "{}".into()), &tensors).unwrap();
    let error = read_back(&path).unwrap_err().to_string();
    assert!(error.contains("not an image cache"), "{error}");
}
