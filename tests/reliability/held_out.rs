//! Images that a run holds out have no part in its training, and stay the same ones.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use ddpm::checkpoint::read_checkpoint;
use ddpm::data::Manifest;

use super::tiny::{assert_same_end, checkpoint, metrics, stderr, train, train_to};

/// Images of a uniform grey each, with names in the order of the numbers.
fn images(dir: &Path, numbers: impl IntoIterator<Item = u8>) {
    fs::create_dir_all(dir).unwrap();
    for number in numbers {
        let image = image::GrayImage::from_pixel(8, 8, image::Luma([number]));
        image.save(dir.join(format!("{number:03}.png"))).unwrap();
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The names of the images that a run trains on, and of those held out; they have no content in common.
fn sides(run: &Path) -> [Vec<String>; 2] {
    let lists =
        ["pictures.tsv", "held_out.tsv"].map(|name| Manifest::read(&run.join(name)).unwrap());
    let hashes = |list: &Manifest| -> HashSet<u64> {
        (0..list.len()).map(|i| list.hash(i).unwrap()).collect()
    };
    assert!(hashes(&lists[0]).is_disjoint(&hashes(&lists[1])));
    lists.map(|list| {
        (0..list.len())
            .map(|i| list.name(i).unwrap().to_owned())
            .collect()
    })
}

/// Equal weights, EMA and moments, and equal metrics; the settings may differ.
fn assert_same_training(a: &Path, b: &Path, step: u64) {
    let tensors = |run| read_checkpoint(&checkpoint(run, step)).unwrap().tensors;
    for ((name, ours), (again, theirs)) in tensors(a).iter().zip(&tensors(b)) {
        assert_eq!((name, ours), (again, theirs));
    }
    assert_eq!(metrics(a), metrics(b));
}

/// The end of a start that is refused.
fn refused(run: &Path, more: &[&str], code: i32, want: &str) {
    let out = train(run, 9, more).output().unwrap();
    let said = stderr(&out);
    assert!(
        out.status.code() == Some(code) && said.contains(want),
        "{said}"
    );
}

#[test]
fn training_is_that_without_the_images_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    images(&at("all"), 0..40);
    // Twice the same, far apart in the order.
    fs::copy(at("all").join("001.png"), at("all").join("200.png")).unwrap();
    let data = text(&at("all"));
    let hold_out = ["--data", &data, "--hold-out", "25%"];
    let said = train_to(&at("run"), 9, &hold_out);
    let [kept, held] = sides(&at("run"));
    assert_eq!(kept.len() + held.len(), 41);
    assert!((3..20).contains(&held.len()), "{held:?}");
    let first = format!(
        "41 images from {data}, {} of them held out, ready in",
        held.len()
    );
    assert!(said.contains(&first), "{said}");
    assert!(
        said.contains(&format!("; {} images of 8x8x3", kept.len())),
        "{said}"
    );
    // The order is that over the rest alone.
    fs::create_dir(at("rest")).unwrap();
    for name in &kept {
        fs::copy(at("all").join(name), at("rest").join(name)).unwrap();
    }
    train_to(&at("alone"), 9, &["--data", &text(&at("rest"))]);
    assert!(!at("alone").join("held_out.tsv").exists());
    assert_same_training(&at("run"), &at("alone"), 9);
    // From a mapped file, which has all images; written, and read again.
    for name in ["writes", "reads"] {
        let cache = text(&at("cache"));
        let more = [&hold_out[..], &["--cache", &cache]].concat();
        train_to(&at(name), 9, &more);
        assert_eq!(sides(&at(name)), [kept.clone(), held.clone()]);
        assert_same_end(&at("run"), &at(name), 9);
    }
    // More images leave each on its side.
    images(&at("all"), 100..120);
    train_to(&at("later"), 2, &hold_out);
    let later = sides(&at("later"));
    for (now, before) in later.iter().zip([&kept, &held]) {
        assert!(before.iter().all(|name| now.contains(name)), "{later:?}");
    }
}

#[test]
fn a_run_goes_on_with_the_same_images_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    images(&at("all"), 0..40);
    let data = text(&at("all"));
    let hold_out = ["--data", &data, "--hold-out", "25%"];
    train_to(&at("once"), 6, &hold_out);
    train_to(&at("run"), 3, &hold_out);
    train_to(&at("run"), 6, &[]);
    assert_same_end(&at("once"), &at("run"), 6);
    let [_, held] = sides(&at("run"));

    let run = at("run");
    let other = "data.hold_out: \"30%\" instead of \"25%\"";
    refused(&run, &["--hold-out", "30%"], 1, other);
    refused(
        &run,
        &["--hold-out", &text(&at("all"))],
        1,
        "data.hold_out: ",
    );
    fs::rename(at("all").join(&held[0]), at("gone.png")).unwrap();
    let gone = format!(
        "the images held out of this run have changed: 1 is gone ({})",
        held[0]
    );
    refused(&run, &[], 1, &gone);
    fs::rename(at("gone.png"), at("all").join("renamed.png")).unwrap();
    // Evaluation takes them in their order.
    refused(
        &run,
        &[],
        1,
        "the images held out of this run have changed: 1 is moved or renamed",
    );
}

#[test]
fn a_folder_is_held_out_and_may_move() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    images(&at("data"), 0..10);
    // Two that are in both.
    images(&at("held"), 8..14);
    let (data, held) = (text(&at("data")), text(&at("held")));
    let said = train_to(&at("run"), 3, &["--data", &data, "--hold-out", &held]);
    let first = format!(
        "10 images from {data}; 6 images from {held} held out, and 2 images of the former with the same pixels"
    );
    assert!(said.contains(&first), "{said}");
    let [kept, out] = sides(&at("run"));
    assert_eq!((kept.len(), out.len(), &*out[0]), (8, 6, "008.png"));
    images(&at("rest"), 0..8);
    train_to(&at("alone"), 3, &["--data", &text(&at("rest"))]);
    assert_same_training(&at("run"), &at("alone"), 3);

    fs::rename(at("held"), at("moved")).unwrap();
    let want = format!("--hold-out {held}: there is no folder or file {held}");
    refused(&at("run"), &[], 1, &want);
    train_to(&at("run"), 4, &["--hold-out", &text(&at("moved"))]);
    images(&at("moved"), [20]);
    let want = "the images held out of this run have changed: 1 is new (020.png)";
    refused(&at("run"), &[], 1, want);
}

#[test]
fn some_image_is_left_to_train_on() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let want = "--hold-out 10: none of the 10 images is left to train on";
    refused(&run, &["--hold-out", "10"], 1, want);
    refused(
        &run,
        &["--hold-out", "0.05"],
        2,
        "want a share of the images such as 5%",
    );
    assert!(!run.exists());
    let said = train_to(&run, 2, &["--hold-out", "3"]);
    assert!(
        said.contains("10 built-in faces, 3 of them held out, ready"),
        "{said}"
    );
    let [kept, held] = sides(&run);
    assert_eq!((kept.len(), held.len()), (7, 3));
}
