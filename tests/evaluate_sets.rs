//! `ddpm evaluate fid|statistics|neighbours|duplicates`: sets of images from folders, networks and arrays.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use ddpm::formats::npz::{self, Values};
use ddpm::ndarray::{Array3, Array4, Axis, arr0, s, stack};
use ddpm::report::write_png;
use ddpm::rng::mix;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

const TINY: &str = "train --device cpu --preset demo --size 16 --base-width 8 --norm-groups 2 --multipliers 1 \
                    --timesteps 4 --builtin-images 12 --batch 4 --steps 2 --save-every 2 --sample-every 0 --run";

fn ddpm(words: &str) -> Command {
    let mut command = cargo_bin_cmd!("ddpm");
    // Threads that wait for one another take long on busy cores.
    command
        .args(words.split_whitespace())
        .env("OMP_NUM_THREADS", "1");
    command
}

fn number(found: &Value, name: &str) -> f64 {
    found[name].as_f64().unwrap()
}

fn json(command: &mut Command) -> Value {
    let out = command.assert().success().get_output().stdout.clone();
    serde_json::from_slice(&out).unwrap()
}

/// An image of a few waves that no other has.
fn image(number: usize, side: usize) -> Array3<u8> {
    let drawn = |k: u64| (mix(number as u64 * 64 + k) >> 11) as f64 / (1u64 << 53) as f64;
    let wave = |k: u64, y: f64, x: f64| {
        let (up, along) = (6.0 * drawn(3 * k) - 3.0, 6.0 * drawn(3 * k + 1) - 3.0);
        (6.3 * (up * y + along * x + drawn(3 * k + 2))).sin()
    };
    Array3::from_shape_fn((side, side, 3), |(y, x, c)| {
        let (y, x) = (y as f64 / side as f64, x as f64 / side as f64);
        let waves = (0..3).map(|k| wave(3 * c as u64 + k, y, x)).sum::<f64>();
        (127.0 + 40.0 * waves) as u8
    })
}

fn folder(dir: &Path, name: &str, images: &[Array3<u8>]) -> PathBuf {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (i, image) in images.iter().enumerate() {
        write_png(&folder.join(format!("{i:03}.png")), image.view()).unwrap();
    }
    folder
}

fn images(numbers: std::ops::Range<usize>, side: usize) -> Vec<Array3<u8>> {
    numbers.map(|number| image(number, side)).collect()
}

#[test]
fn a_set_is_the_same_as_a_folder_as_an_array_and_as_statistics() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (images(0..20, 16), images(30..60, 16));
    let a = folder(dir.path(), "a", &own);
    let b = folder(dir.path(), "b", &other);
    let views: Vec<_> = other.iter().map(|image| image.view()).collect();
    let stacked: Array4<u8> = stack(Axis(0), &views).unwrap();
    let [array, grey] = ["b.npz", "grey.npz"].map(|name| dir.path().join(name));
    let first_channel = stacked.slice(s![.., .., .., ..1]).to_owned();
    npz::write(&grey, &[("arr_0", Values::U8(first_channel.into_dyn()))]).unwrap();
    npz::write(&array, &[("arr_0", Values::U8(stacked.into_dyn()))]).unwrap();
    let statistics = dir.path().join("b-statistics.npz");
    let mut write = ddpm("evaluate statistics --device cpu --features random --out");
    write.arg(&statistics).arg(&b).assert().success();

    let of = |a: &Path, b: &Path| {
        let words = "evaluate fid --device cpu --features random --json";
        json(ddpm(words).arg(a).arg(b))
    };
    let by_folder = of(&a, &b);
    let fid = number(&by_folder, "fid");
    assert!(fid > 0.0, "{by_folder}");
    assert_eq!(by_folder["images"], 20);
    assert_eq!(by_folder["reference_images"], 30);
    for name in ["fid", "kid", "precision", "recall"] {
        let by_array = number(&of(&a, &array), name);
        assert_eq!(by_array, number(&by_folder, name), "{name}");
    }
    // Grey images are of the same size.
    let remarks = of(&a, &grey)["remarks"].to_string();
    assert!(!remarks.contains("sharpness"), "{remarks}");
    let by_statistics = of(&a, &statistics);
    // The same numbers, but for the rounding of a root that was computed by itself.
    assert!((number(&by_statistics, "fid") - fid).abs() < 1e-9 * fid);
    assert_eq!(by_statistics["kid"], Value::Null);
    for (metrics, said) in [
        ("fid,kid", "KID of statistics"),
        ("is", "Inception score needs"),
    ] {
        ddpm("evaluate fid --device cpu --features random --metrics")
            .arg(metrics)
            .arg(&a)
            .arg(&statistics)
            .assert()
            .failure()
            .stderr(contains(said));
    }
    // What was not asked for by name is left out, with the reason.
    let few = folder(dir.path(), "few", &own[..3]);
    let found = of(&few, &b);
    assert_eq!(found["precision"], Value::Null);
    assert!(
        found["remarks"].to_string().contains("left out: 3 images"),
        "{found}"
    );
    assert!(number(&found, "fid") > 0.0);
    // A set is at no distance from itself: what is left is rounding of eigenvalues of about 1 and their roots.
    let itself = of(&a, &a);
    assert!(number(&itself, "fid").abs() < 1e-5, "{itself}");
    assert!(fid > 1e-3, "{fid}");
    assert_eq!([&itself["precision"], &itself["recall"]], [1.0, 1.0]);
}

#[test]
fn a_network_is_measured_by_the_images_that_sample_makes() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    ddpm(TINY).arg(&run).assert().success();
    let sampled = dir.path().join("sampled");
    ddpm("sample --device cpu --batch 4 --seed 3 -n 10 --separate")
        .arg(&sampled)
        .arg(&run)
        .assert()
        .success();
    let words = "evaluate fid --device cpu --features random --batch 4 --seed 3 -n 10 --json";
    let found = json(ddpm(words).arg(&run).arg(&sampled));
    assert_eq!(found["images"], 10);
    let fid = found["fid"].as_f64().unwrap();
    assert!(fid.abs() < 1e-5, "{found}");
    assert_eq!([&found["precision"], &found["recall"]], [1.0, 1.0]);
    // Its nearest training images are those of a folder with the same images, too.
    let words = "evaluate neighbours --device cpu --seed 3 -n 10 --batch 4 --json";
    let by_network = json(ddpm(words).arg(&run));
    let data = dir.path().join("run").join("config.toml");
    assert!(data.exists());
    assert_eq!(by_network["images"].as_array().unwrap().len(), 10);
    assert!(
        by_network["training"]
            .to_string()
            .contains("12 built-in faces")
    );
    let by_folder = json(ddpm(words).arg(&sampled).arg("--data").arg(&sampled));
    assert_eq!(by_folder["median_distance"], 0.0);
}

#[test]
fn copies_are_told_from_images_that_are_only_alike() {
    let dir = tempfile::tempdir().unwrap();
    let training = images(0..40, 48);
    let data = folder(dir.path(), "data", &training);
    let held_out = folder(dir.path(), "held-out", &images(40..60, 48));
    let mut copies = training[5..15].to_vec();
    // Noise of a few levels does not hide a copy, and a mirrored one is found where it counts.
    for (i, copy) in copies.iter_mut().enumerate() {
        copy.mapv_inplace(|value| value.saturating_add((i % 3) as u8));
    }
    copies[9].invert_axis(Axis(1));
    let copies = folder(dir.path(), "copies", &copies);
    let drawn = dir.path().join("nearest.png");
    let of = |set: &Path, more: &str| {
        let mut command = ddpm("evaluate neighbours --device cpu --json --force");
        command
            .args(more.split_whitespace())
            .arg("--data")
            .arg(&data);
        json(
            command
                .arg("--held-out")
                .arg(&held_out)
                .arg("--out")
                .arg(&drawn)
                .arg(set),
        )
    };
    let found = of(&copies, "--mirrored");
    assert_eq!(found["nearer_than_99_percent_of_held_out"], 1.0, "{found}");
    let nearest = |image: usize| {
        let entry = found["images"].as_array().unwrap().iter();
        let name = format!("{image:03}.png");
        let entry = entry
            .clone()
            .find(|entry| entry["image"] == name.as_str())
            .unwrap();
        entry["nearest"][0].clone()
    };
    for image in 0..9 {
        assert_eq!(nearest(image)["name"], format!("{:03}.png", image + 5));
        assert_eq!(nearest(image)["mirrored"], false);
    }
    assert_eq!(nearest(9)["name"], "014.png");
    assert_eq!(nearest(9)["mirrored"], true);
    let read = ddpm::report::read_png(&drawn, 3).unwrap();
    assert_eq!(read.dim(), (10 * 48, 4 * 48, 3));
    // Neither one's order nor its copies depend on what is compared.
    let by_features = of(&copies, "--mirrored --features random");
    assert!(by_features["features"].to_string().contains("random"));
    assert_eq!(by_features["nearer_than_99_percent_of_held_out"], 1.0);
    for entry in by_features["images"].as_array().unwrap() {
        let number: usize = entry["image"].as_str().unwrap()[..3].parse().unwrap();
        let first = &entry["nearest"][0];
        assert_eq!(first["name"], format!("{:03}.png", number + 5), "{entry}");
        assert_eq!(first["mirrored"], number == 9, "{entry}");
    }
    let pixels = number(&found, "median_distance") / number(&by_features, "median_distance");
    assert!((pixels - 1.0).abs() > 0.01, "{by_features}");
    assert!(found["features"].is_null());
    // A figure among the images would be one of them from then on.
    let mut inside = ddpm("evaluate neighbours --device cpu --data");
    inside.arg(&data).arg("--out").arg(data.join("figure.png"));
    let refused = inside.arg(&copies).assert().failure();
    refused.stderr(contains("would be one of the images of"));
    let honest = of(&held_out, "");
    // Compared with themselves: the median is the tenth of twenty, and equal ones count half.
    assert_eq!(honest["nearer_than_half_of_held_out"], 0.475);
    assert_eq!(honest["nearer_than_99_percent_of_held_out"], 0.025);
    // Training images that are given for held out.
    let mut command = ddpm("evaluate neighbours --device cpu --data");
    (command
        .arg(&data)
        .arg("--held-out")
        .arg(&data)
        .arg(&copies)
        .assert()
        .success())
    .stderr(contains("40 images of").and(contains("not held out")));
}

#[test]
fn duplicates_are_found_whatever_their_size_and_name() {
    let dir = tempfile::tempdir().unwrap();
    let data = folder(dir.path(), "data", &images(0..8, 64));
    // Twice as large, each pixel four times.
    let small = image(2, 64);
    let large = Array3::from_shape_fn((128, 128, 3), |(y, x, c)| small[[y / 2, x / 2, c]]);
    write_png(&data.join("large.png"), large.view()).unwrap();
    std::fs::copy(data.join("005.png"), data.join("again.png")).unwrap();
    let found = json(ddpm("evaluate duplicates --json").arg(&data));
    assert_eq!(found["images"], 10);
    let groups = serde_json::json!([["002.png", "large.png"], ["005.png", "again.png"]]);
    assert_eq!(found["groups"], groups);
    ddpm("evaluate duplicates --within 0")
        .arg(&data)
        .assert()
        .success()
        .stdout(contains("005.png  again.png"));
}

#[test]
fn what_cannot_be_compared_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let a = folder(dir.path(), "a", &images(0..6, 16));
    let mixed = folder(dir.path(), "mixed", &images(0..6, 16));
    write_png(&mixed.join("z.png"), image(9, 20).view()).unwrap();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let one = folder(dir.path(), "one", &images(0..1, 16));
    let nowhere = dir.path().join("nowhere");
    let text = dir.path().join("text.npz");
    std::fs::write(&text, "no archive").unwrap();
    let fid = "evaluate fid --device cpu --features random";
    for (words, set, said) in [
        (fid, &mixed, "z.png is 20x20"),
        (fid, &empty, "no images"),
        (fid, &nowhere, "there is no"),
        (fid, &text, "text.npz"),
        (fid, &one, "1 image"),
        (
            "evaluate fid --device cpu",
            &a,
            "needs a file of its weights",
        ),
        ("evaluate neighbours --device cpu", &a, "--data DIR"),
    ] {
        let mut command = ddpm(words);
        command.arg(set);
        if words.contains("fid") {
            command.arg(&a);
        }
        command.assert().failure().stderr(contains(said));
    }
    // One size for all was all that was missing.
    ddpm(&format!("{fid} --size 16"))
        .arg(&mixed)
        .arg(&a)
        .assert()
        .success();
    // Statistics of another network.
    let statistics = dir.path().join("s.npz");
    let mut write = ddpm("evaluate statistics --device cpu --features random --out");
    write.arg(&statistics).arg(&a).assert().success();
    let mut found = npz::open(&statistics).unwrap();
    let read = |found: &mut npz::NumpyFile, name| found.read(name, 1 << 24).unwrap();
    let (mu, sigma) = (read(&mut found, "mu"), read(&mut found, "sigma"));
    let features = Values::Text("another network".to_owned());
    let arrays = [("mu", mu), ("sigma", sigma), ("features", features)];
    npz::write(&statistics, &arrays).unwrap();
    (ddpm(fid).arg(&a).arg(&statistics).assert().failure())
        .stderr(contains("another network").and(contains("mean nothing")));
    (ddpm("evaluate neighbours --device cpu --data")
        .arg(&a)
        .arg(&statistics)
        .assert()
        .failure())
    .stderr(contains("needs images"));
    // Training images are brought to the size of the generated ones.
    let large = folder(dir.path(), "large", &images(0..6, 24));
    let mut command = ddpm("evaluate neighbours --device cpu --data");
    command.arg(&large).arg(&a).assert().success();
    (ddpm(fid).arg(&a).arg(&large).assert().success()).stderr(contains("A are 16x16 pixels"));
    let no_images = dir.path().join("other.npz");
    npz::write(&no_images, &[("x", Values::I64(arr0(1).into_dyn()))]).unwrap();
    (ddpm(fid).arg(&no_images).arg(&a).assert().failure()).stderr(contains("neither images"));
}

#[test]
fn trained_on_images_are_never_taken_for_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let data = folder(dir.path(), "data", &images(0..12, 16));
    let run = dir.path().join("run");
    let mut train = ddpm(&TINY.replace("--builtin-images 12", "--hold-out 3"));
    train.arg(&run).arg("--data").arg(&data).assert().success();
    let bpd = "evaluate bpd --device cpu --every 4 --json";
    let found = json(ddpm(bpd).arg(&run));
    assert_eq!(found["images"], 3);
    // The folder by name: nine of them are known to the network.
    let mut named = ddpm(bpd);
    let named = named.arg(&run).arg("--data").arg(&data).assert().success();
    named.stderr(contains("trained on 9 of these 12 images"));
    // One of those held out is gone, and another would take its place.
    let list = std::fs::read_to_string(run.join("held_out.tsv")).unwrap();
    let first = list.lines().nth(1).unwrap().split_once('\t').unwrap().1;
    std::fs::remove_file(data.join(first)).unwrap();
    for words in [bpd, "evaluate neighbours --device cpu -n 2"] {
        let refused = ddpm(words).arg(&run).assert().failure();
        refused.stderr(contains("held out of this run have changed").and(contains(first)));
    }
    // Without that list, those trained on are known still; without both, it is said.
    std::fs::remove_file(run.join("held_out.tsv")).unwrap();
    let refused = ddpm(bpd).arg(&run).assert().failure();
    refused.stderr(contains(
        "1 of the 3 images that would be held out now were trained on",
    ));
    std::fs::remove_file(run.join("pictures.tsv")).unwrap();
    let unknown = ddpm(bpd).arg(&run).assert().success();
    unknown.stderr(contains("chosen again"));
}
