//! `train --dry-run` and `config`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ValueEnum;
use ddpm::config::{Preset, RunConfig};

use crate::{Place, printed, said};

/// All below a folder, with its bytes and the time of its last change.
fn all_below(place: &Place) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let entries = walkdir::WalkDir::new(place.at("")).into_iter();
    let found = entries.map(|entry| {
        let entry = entry.unwrap();
        let changed = entry.metadata().unwrap().modified().unwrap();
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        (entry.into_path(), (bytes, changed))
    });
    found.collect()
}

const TINY: &str = "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 --timesteps 4 --batch 4 \
                    --device cpu --precision f32 --threads 1";

#[test]
fn a_dry_run_says_what_would_be_and_writes_nothing() {
    let place = Place::new();
    std::fs::create_dir_all(place.at("data/cats")).unwrap();
    std::fs::create_dir_all(place.at("data/dogs")).unwrap();
    for i in 0..6u8 {
        let image = image::RgbImage::from_pixel(8, 8, image::Rgb([i * 40, 9, 9]));
        let class = ["cats", "dogs"][usize::from(i % 2)];
        image
            .save(place.at(&format!("data/{class}/{i}.png")))
            .unwrap();
    }
    std::fs::write(place.at("data/cats/broken.png"), "no image").unwrap();
    let before = all_below(&place);
    let line =
        format!("train --data data --run new --cache c --steps 40 --seed 5 --dry-run {TINY}");
    let out = place.runs(&line);
    let told = said(&out);
    for part in [
        "dry run: nothing is written\n",
        "run folder new\n",
        "6 images from",
        "1 file could not be read",
        "2 classes of 3 images each: cats, dogs",
        "neither read nor written",
        "parameters on CPU",
        " of memory in total; 6 images of 8x8x3, batch 4; 40 steps to go\n",
        "a checkpoint takes ",
        "about ",
        " left: 40 steps of ",
        "(by two steps",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let config = RunConfig::from_toml(&printed(&out), Preset::Celebahq128).unwrap();
    assert_eq!(
        (config.train.steps, config.train.seed, config.train.batch),
        (40, 5, 4)
    );
    assert_eq!(config.model.chw(), [3, 8, 8]);
    assert!(all_below(&place) == before, "something was written");

    // Errors are those of a start.
    let out = place
        .command(&format!("train --data nowhere --dry-run {TINY}"))
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(said(&out).contains("nowhere"), "{}", said(&out));
    assert!(all_below(&place) == before);
}

#[test]
fn a_dry_run_says_what_would_be_resumed_and_changed() {
    let place = Place::new();
    place.runs(&format!(
        "train --run r --steps 2 --builtin-images 4 --sample-every 0 --save-every 2 {TINY}"
    ));
    std::fs::remove_file(place.at("r/lock")).unwrap();
    let before = all_below(&place);
    let dry = "--dry-run --device cpu --precision f32 --threads 1";
    let told = said(&place.runs(&format!("train --run r --steps 9 --lr 0.5 {dry}")));
    for part in [
        "resuming r at step 2\n",
        "changed from here on: train.steps: 9 instead of 2",
        "changed from here on: optim.lr: 0.5 instead of ",
        "; 7 steps to go\n",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // Nothing is left to do, and so nothing is timed.
    let told = said(&place.runs(&format!("train --run r {dry}")));
    assert!(
        told.contains("; 0 steps to go\n") && !told.contains("left: "),
        "{told}"
    );
    let refused = place
        .command(&format!("train --run r --timesteps 9 {dry}"))
        .output()
        .unwrap();
    assert!(
        said(&refused).contains("diffusion.timesteps"),
        "{}",
        said(&refused)
    );
    assert!(all_below(&place) == before, "something was written");
}

#[test]
fn config_prints_what_train_takes_back() {
    let place = Place::new();
    let config = |line: &str, fallback| {
        let out = place.runs(line);
        let text = printed(&out);
        (
            RunConfig::from_toml(&text, fallback).unwrap(),
            text,
            said(&out),
        )
    };
    for preset in Preset::value_variants() {
        let name = preset.name();
        let (read, text, told) = config(&format!("config {name}"), Preset::Demo);
        assert_eq!(read.differences(&preset.config()).unwrap(), [], "{name}");
        assert_eq!(told, format!("settings of the preset {name}\n"));
        // As `train` takes it, which says what it takes.
        std::fs::write(place.at("x.toml"), &text).unwrap();
        let again = RunConfig::from_toml(&text, Preset::Celebahq128).unwrap();
        assert_eq!(again, read, "{name}");
    }
    let own = std::fs::read_to_string(place.at("run/config.toml")).unwrap();
    let own = RunConfig::of_a_run(&own).unwrap();
    let checkpoint = "run/checkpoints/step-00000004.safetensors";
    for (of, told) in [
        ("run", "settings of the run run\n".to_owned()),
        (checkpoint, format!("settings of {checkpoint}, step 4\n")),
    ] {
        let (read, _, what) = config(&format!("config {of}"), Preset::Demo);
        assert_eq!(read, own, "{of}");
        assert_eq!(what, told);
    }
    let json = place.json("config run --json");
    assert_eq!(json["model"]["classes"], 2);
    let refused = place.command("config nowhere").output().unwrap();
    assert!(
        said(&refused).contains("is no preset, run or checkpoint"),
        "{}",
        said(&refused)
    );
}

#[test]
fn settings_of_an_older_run_are_named_in_full() {
    let place = Place::new();
    let older =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runs/format-1/stopped");
    let printed = printed(&place.runs(&format!("config {}", older.display())));
    // Read as those of a new run, they are those of the older one.
    let read = RunConfig::from_toml(&printed, Preset::Celebahq128).unwrap();
    let own = std::fs::read_to_string(older.join("config.toml")).unwrap();
    let own = RunConfig::of_a_run(&own).unwrap();
    assert_eq!(read.train.draws, own.train.draws);
    assert_eq!(read.data.rules, own.data.rules);
    assert_eq!(read.optim.norms, own.optim.norms);
    assert_eq!(read.train.plain_blocks, Some(true));

    std::fs::write(place.at("x.toml"), printed).unwrap();
    let line = "train --config x.toml --steps 5 --dry-run --device cpu --precision f32 --threads 1";
    assert!(said(&place.runs(line)).contains("; 5 steps to go"));
}
