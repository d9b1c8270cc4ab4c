//! Images that are elsewhere at the next start.

use std::fs;
use std::path::Path;

use super::tiny::{assert_same_end, checkpoint, metrics, stderr, train, train_to};

/// Images of a uniform grey.
fn images(dir: &Path, greys: &[(&str, u8)]) {
    for (name, grey) in greys {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let image = image::GrayImage::from_pixel(8, 8, image::Luma([*grey]));
        image.save(path).unwrap();
    }
}

const FOUR: [(&str, u8); 4] = [("a.png", 1), ("b.png", 2), ("in/c.png", 3), ("in/d.png", 4)];

/// The folder that the settings name.
fn stored(run: &Path) -> String {
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    config["data"]["folder"].as_str().unwrap().to_owned()
}

#[test]
fn the_same_images_elsewhere_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (once, run) = (dir.path().join("once"), dir.path().join("run"));
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    images(&first, &FOUR);
    train_to(&once, 10, &["--data", &path(&first)]);
    train_to(&run, 2, &["--data", &path(&first)]);

    let said = train_to(&run, 4, &["--data", &format!("{}//", first.display())]);
    assert!(!said.contains("as before"), "{said}");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&first, &link).unwrap();
    let said = train_to(&run, 6, &["--data", &path(&link)]);
    let same = |place: &Path| format!("images from {}: the same 4 as before\n", place.display());
    assert!(said.contains(&same(&link)), "{said}");
    assert_eq!(stored(&run), path(&link));
    assert!(!said.contains("changed from here on: data"), "{said}");

    // Moved: the link hangs.
    fs::rename(&first, &second).unwrap();
    let out = train(&run, 8, &[]).output().unwrap();
    let (code, said) = (out.status.code(), stderr(&out));
    let wanted = format!(
        ". The images of this run are not where they were: put them back, or name the folder that they are in now: ddpm train --run {} --data DIR\n",
        run.display()
    );
    assert!(code == Some(1) && said.contains(&wanted), "{said}");
    let said = train_to(&run, 8, &["--data", &path(&second)]);
    assert!(said.contains(&same(&second)), "{said}");
    let said = train_to(&run, 9, &[]);
    assert!(!said.contains("as before"), "the new place is kept: {said}");
    assert_eq!(stored(&run), path(&second));

    // An unmounted disk is an empty folder.
    let away = dir.path().join("away");
    fs::rename(&second, &away).unwrap();
    fs::create_dir(&second).unwrap();
    let said = stderr(&train(&run, 10, &[]).output().unwrap());
    assert!(said.contains(&wanted), "{said}");
    fs::remove_dir(&second).unwrap();
    fs::rename(&away, &second).unwrap();

    // Other names in the same order are the same images.
    let renamed = dir.path().join("renamed");
    images(
        &renamed,
        &FOUR.map(|(name, grey)| (&name[name.len() - 5..], grey)),
    );
    let said = train_to(&run, 10, &["--data", &path(&renamed)]);
    assert!(said.contains(&same(&renamed)), "{said}");
    assert_same_images_end(&once, &run, 10);
}

/// The settings in the checkpoints name different folders.
fn assert_same_images_end(once: &Path, run: &Path, step: u64) {
    let tensors = |run: &Path| {
        let read = ddpm::checkpoint::read_checkpoint(&checkpoint(run, step)).unwrap();
        read.tensors
    };
    let (ours, theirs) = (tensors(run), tensors(once));
    assert!(ours.len() > 10 && ours == theirs);
    assert_eq!(metrics(run), metrics(once));
}

#[test]
fn other_images_elsewhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (run, first, other) = (
        dir.path().join("run"),
        dir.path().join("first"),
        dir.path().join("other"),
    );
    images(&first, &FOUR);
    images(&other, &FOUR);
    images(&other, &[("b.png", 99)]);
    train_to(&run, 2, &["--data", first.to_str().unwrap()]);
    let before = fs::read(run.join("config.toml")).unwrap();
    let refused = |more: &[&str], why: &str| {
        let out = train(&run, 4, more).output().unwrap();
        let said = stderr(&out);
        assert!(out.status.code() == Some(1) && said.contains(why), "{said}");
    };
    let changed = "the images of this run have changed: 1 has other contents (b.png)";
    refused(&["--data", other.to_str().unwrap()], changed);
    refused(
        &["--preset", "demo"],
        "this run exists with other settings; resume it without these",
    );
    fs::remove_file(run.join("pictures.tsv")).unwrap();
    let mut made = std::process::Command::new("mkfifo");
    assert!(
        made.arg(run.join("pictures.tsv"))
            .status()
            .unwrap()
            .success()
    );
    refused(
        &[],
        "pictures.tsv: it is a FIFO, and a regular file is expected there",
    );
    assert_eq!(fs::read(run.join("config.toml")).unwrap(), before);

    // Built-in images do not become a folder's.
    let built_in = dir.path().join("built-in");
    train_to(&built_in, 2, &[]);
    let out = train(&built_in, 4, &["--data", first.to_str().unwrap()]).output();
    let said = stderr(&out.unwrap());
    assert!(said.contains("data.folder: "), "{said}");
    let whole = dir.path().join("whole");
    train_to(&whole, 4, &[]);
    train_to(&built_in, 4, &[]);
    assert_same_end(&whole, &built_in, 4);
}
