//! `.ddcm` files of earlier versions: they name their network by a hash, and are lost if a network's hash changes.

use std::path::{Path, PathBuf};

use ddpm::checkpoint::fingerprint;
use ddpm::config::{Preset, ScheduleKind};
use ddpm::formats::ddcm;
use tch::Tensor;

use crate::common::repo;

use super::tiny::{ddpm, stderr};

/// A `.ddcm` file below tests/runs, with its network and its flags.
const FILES: [(&str, &str, &str); 3] = [
    (
        "ddcm/exported",
        "ddcm/exported.safetensors",
        "--codebook 256 --seed 7 --steps 10 --sigma posterior",
    ),
    (
        "ddcm/formats",
        "format-1/step-00000006.safetensors",
        "--codebook 4096",
    ),
    (
        "ddcm/formats",
        "format-2/step-00000006.safetensors",
        "--codebook 4096",
    ),
];

/// The images that were encoded.
const IMAGES: [&str; 4] = ["420.jpg", "large.jpg", "large-grey.jpg", "turned.jpg"];

fn old(path: &str) -> PathBuf {
    repo("tests/runs").join(path)
}

/// Runs `ddpm COMMAND FIRST` with more arguments, on one thread of the CPU.
fn run(command: &str, first: &Path, more: impl FnOnce(&mut std::process::Command)) {
    let mut ddpm = ddpm();
    ddpm.arg(command).arg(first).args(["--device", "cpu"]);
    ddpm.args(["--threads", "1"]);
    more(&mut ddpm);
    let out = ddpm.output().unwrap();
    assert!(
        out.status.success(),
        "{command} {}: {}",
        first.display(),
        stderr(&out)
    );
}

#[test]
fn old_files_decode_to_the_same_images() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("decoded.png");
    for (file, model, _) in FILES {
        run("decode", &old(&format!("{file}.ddcm")), |ddpm| {
            ddpm.arg("--model").arg(old(model)).arg("--force");
            ddpm.arg("-o").arg(&out);
        });
        let ours = image::open(&out).unwrap().to_rgb8();
        let theirs = image::open(old(&format!("{file}.png"))).unwrap().to_rgb8();
        assert_eq!(ours.dimensions(), theirs.dimensions(), "{file}, {model}");
        // Another processor rounds the network's sums differently in the last bits, which can take a value across the
        // middle between two levels, but not further.
        let apart = ours.iter().zip(theirs.iter()).map(|(a, b)| a.abs_diff(*b));
        let most = apart.max().unwrap();
        assert!(most <= 1, "{file}, {model}: {most} levels apart");
    }
}

/// All but the indices, which depend on rounding: the network's hash, the settings, the steps, the codebook.
#[test]
fn the_same_images_are_encoded_under_the_same_header() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("again.ddcm");
    for (file, model, how) in FILES {
        run("encode", &old(model), |ddpm| {
            ddpm.args(IMAGES.map(|name| old("jpegs/pictures").join(name)));
            ddpm.args(how.split(' ')).args(["--force", "-o"]).arg(&out);
        });
        let ours = ddcm::read(&out).unwrap();
        let theirs = ddcm::read(&old(&format!("{file}.ddcm"))).unwrap();
        assert_eq!(ours.header(), theirs.header(), "{file}, {model}");
        assert_eq!(ours.images(), theirs.images(), "{file}, {model}");
        let bytes = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert_eq!(bytes(&out), bytes(&old(&format!("{file}.ddcm"))), "{file}");
    }
}

/// The settings of every preset's network, with the same weight and betas: the hashes are those of commit fb1a6e7.
#[test]
fn networks_of_every_preset_keep_their_hash() {
    let presets = [
        (Preset::Demo, "0e48021cb7830fcf"),
        (Preset::Celebahq128, "445911db1705d01d"),
        (Preset::KerasDdpm, "64129b2711021075"),
        (Preset::KerasDdpm2, "ba90e4208c701427"),
        (Preset::KerasGau, "ad1d7e189778aec2"),
        (Preset::DdpmCifar10, "f10da5ea441204f5"),
        (Preset::Ddpm256, "1e576fe662ecb076"),
        (Preset::ImprovedCifar10, "14afe3a4259c8d32"),
        (Preset::Lucidrains, "ae2bd37c1d55eaf3"),
    ];
    let weights = [("w".to_owned(), Tensor::from_slice(&[1f32, 2.0]))];
    let hashes = presets.map(|(preset, _)| {
        let mut config = preset.config();
        // The betas of the other presets are only as exact as the processor's cosine.
        config.diffusion.schedule = ScheduleKind::Explicit;
        config.diffusion.betas = vec![0.25, 0.5];
        config.diffusion.timesteps = 2;
        let hash = fingerprint(&config, &weights).unwrap().to_hex();
        (preset, hash[..16].to_owned())
    });
    let wanted = presets.map(|(preset, hash)| (preset, hash.to_owned()));
    assert_eq!(hashes, wanted);
}
