//! Runs keep their images and labels, whatever these come in.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::tiny::{assert_same_end, stderr, train, train_to};

/// Grey images in two folders of classes: 10 cats and 2 dogs.
fn images(dir: &Path) {
    for number in 0..12u8 {
        let class = if number < 10 { "cat" } else { "dog" };
        fs::create_dir_all(dir.join(class)).unwrap();
        let image = image::GrayImage::from_pixel(8, 8, image::Luma([number * 20]));
        image
            .save(dir.join(class).join(format!("{number:03}.png")))
            .unwrap();
    }
}

/// The same as a zip archive.
fn zipped(dir: &Path, archive: &Path) {
    let mut zip = zip::ZipWriter::new(fs::File::create(archive).unwrap());
    for class in ["dog", "cat"] {
        for file in fs::read_dir(dir.join(class)).unwrap() {
            let file = file.unwrap();
            let name = format!("{class}/{}", file.file_name().into_string().unwrap());
            zip.start_file(name, zip::write::SimpleFileOptions::default())
                .unwrap();
            zip.write_all(&fs::read(file.path()).unwrap()).unwrap();
        }
    }
    zip.finish().unwrap();
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn refused(run: &Path, more: &[&str], want: &str) {
    let out = train(run, 9, more).output().unwrap();
    let said = stderr(&out);
    assert!(!out.status.success() && said.contains(want), "{said}");
}

#[test]
fn a_run_goes_on_from_an_archive_and_refuses_other_labels() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    images(&at("images"));
    zipped(&at("images"), &at("images.zip"));
    let (folder, archive) = (text(&at("images")), text(&at("images.zip")));
    let said = train_to(&at("once"), 4, &["--data", &folder, "--balance"]);
    assert!(said.contains("2 classes: cat 10, dog 2"), "{said}");
    let list = fs::read_to_string(at("once").join("labels.tsv")).unwrap();
    assert!(
        list.starts_with("ddpm labels 1 2 12\ncat\ndog\n0\n"),
        "{list}"
    );
    let said = train_to(
        &at("run"),
        2,
        &[
            "--data",
            &archive,
            "--cache",
            &text(&at("cache")),
            "--balance",
        ],
    );
    assert!(
        said.contains(&format!("12 images from {archive}")),
        "{said}"
    );
    assert_eq!(
        fs::read_to_string(at("run").join("labels.tsv")).unwrap(),
        list
    );
    // From the cache, and then from the folder, where they lie too.
    let said = train_to(&at("run"), 3, &["--cache", &text(&at("cache"))]);
    assert!(said.contains("12 images cached in"), "{said}");
    train_to(&at("run"), 4, &["--data", &folder]);
    assert_same_end(&at("once"), &at("run"), 4);

    refused(
        &at("run"),
        &["--labels", "none"],
        "data.labels: \"none\" instead of \"auto\"",
    );
    train_to(&at("plain"), 1, &["--data", &folder]);
    fs::rename(at("images/dog"), at("images/emu")).unwrap();
    let said = train_to(&at("plain"), 2, &[]);
    let told = "which play no part in this run: 2 instead of 2 classes, gone: dog, new: emu";
    assert!(said.contains(told), "{said}");
    let renamed =
        "the labels of this run have changed: 2 instead of 2 classes, gone: dog, new: emu";
    refused(&at("run"), &[], renamed);
    fs::rename(at("images/emu"), at("images/dog")).unwrap();
    fs::remove_file(at("run/labels.tsv")).unwrap();
    let said = train_to(&at("run"), 5, &[]);
    assert!(said.contains("as labels.tsv is missing"), "{said}");
    fs::write(at("images.zip"), "no archive").unwrap();
    refused(
        &at("run"),
        &["--data", &archive],
        "neither a folder of images nor a file",
    );
}

#[test]
fn a_file_of_labels_may_move_and_none_may_lack() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    images(&at("images"));
    let rows = (0..12).map(|i| {
        format!(
            "{}/{i:03}.png,{}\n",
            if i < 10 { "cat" } else { "dog" },
            i % 3
        )
    });
    fs::write(at("a.csv"), rows.collect::<String>()).unwrap();
    let folder = text(&at("images"));
    let list = text(&at("a.csv"));
    let flags = ["--data", &folder, "--labels", &list, "--balance"];
    let said = train_to(&at("run"), 2, &flags);
    assert!(
        said.contains("3 classes of 4 images each: 0, 1, 2"),
        "{said}"
    );
    fs::rename(at("a.csv"), at("b.csv")).unwrap();
    refused(&at("run"), &[], &format!("--labels {}", text(&at("a.csv"))));
    train_to(&at("run"), 3, &["--labels", &text(&at("b.csv"))]);
    fs::write(at("b.csv"), "cat/000.png,0\n").unwrap();
    refused(
        &at("run"),
        &[],
        "the labels of this run have changed: 1 instead of 3 classes",
    );
    fs::write(at("b.csv"), "x.png,0\n").unwrap();
    refused(&at("run"), &[], "none of its 1 name is that of an image");
}

#[test]
fn a_balanced_run_goes_on_as_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    images(&at("images"));
    let data = text(&at("images"));
    let balanced = ["--data", &data, "--balance", "--hold-out", "1"];
    train_to(&at("once"), 4, &balanced);
    train_to(&at("run"), 2, &balanced);
    train_to(&at("run"), 4, &[]);
    assert_same_end(&at("once"), &at("run"), 4);
    train_to(&at("plain"), 4, &["--data", &data, "--hold-out", "1"]);
    assert_ne!(
        super::tiny::metrics(&at("plain")),
        super::tiny::metrics(&at("run"))
    );
    refused(&at("plain"), &["--balance"], "data.balance: ");
    refused(
        &at("new"),
        &["--data", &data, "--labels", "none", "--balance"],
        "--balance true: nothing says the classes of the images",
    );
}
