//! The commands that make and change images, on a tiny network, and their error messages.

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin_cmd;
use ddpm::formats::safetensors;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use tch::Tensor;

/// A folder with the weights of a tiny untrained network (8 px, T = 20) and some images.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { dir };
        cargo_bin_cmd!("ddpm")
            .args(
                "train --preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1,2"
                    .split(' '),
            )
            .args(
                "--timesteps 20 --batch 4 --steps 1 --sample-every 0 --builtin-images 4".split(' '),
            )
            .args(["--device", "cpu", "--run"])
            .arg(place.at("run"))
            .assert()
            .success();
        for (name, width, height, red) in [
            ("a.png", 16, 16, 250),
            ("b.png", 16, 16, 20),
            ("wide.png", 24, 10, 90),
        ] {
            let image = image::RgbImage::from_fn(width, height, |x, y| {
                image::Rgb([red, (x * 10) as u8, (y * 10) as u8])
            });
            image.save(place.at(name)).unwrap();
        }
        let half = |width: u32| move |x: u32, _| image::Luma([if x < width / 2 { 0 } else { 255 }]);
        image::GrayImage::from_fn(16, 16, half(16))
            .save(place.at("mask.png"))
            .unwrap();
        image::GrayImage::from_fn(10, 16, half(10))
            .save(place.at("narrow-mask.png"))
            .unwrap();
        std::fs::write(place.at("text.png"), "no image").unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command line in the folder.
    fn ddpm(&self, line: &str) -> Assert {
        self.command(line).assert()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = cargo_bin_cmd!("ddpm");
        command.current_dir(self.dir.path()).args(line.split(' '));
        if !line.starts_with("export") {
            command.args(["--device", "cpu"]);
        }
        command
    }

    fn fails(&self, line: &str, said: &str) {
        self.ddpm(line).failure().stderr(contains(said));
    }

    fn images(&self, name: &str) -> Tensor {
        let file = safetensors::open(&self.at(name)).unwrap();
        file.tensors
            .into_iter()
            .find(|(name, _)| name == "pictures")
            .unwrap()
            .1
    }
}

fn size(path: &Path) -> (u32, u32) {
    image::image_dimensions(path).unwrap()
}

#[test]
fn every_sampler_makes_images_and_refuses_what_it_has_no_use_for() {
    let place = Place::new();
    for sampler in [
        "ddpm",
        "ddpm --steps 5 --sigma posterior",
        "ddim",
        "ddim --stride 3 --eta 0.5",
        "ddim --times 19,7,0",
        "dpmpp-2m --steps 5",
        "dpmpp-2m-sde --steps 5 --spacing karras",
        "heun --steps 4",
        "unipc --steps 6 --order 3",
        "ddcm --codebook 8",
    ] {
        let line =
            format!("sample run -n 2 --out-tensor out.safetensors --force --sampler {sampler}");
        let line = if sampler == "ddim" {
            line + " --steps 10"
        } else {
            line
        };
        place.ddpm(&line).success();
        let images = place.images("out.safetensors");
        assert_eq!(images.size(), [2, 3, 8, 8], "{sampler}");
        assert!(
            f64::try_from(images.isfinite().all()).unwrap() == 1.0,
            "{sampler}"
        );
    }
    for (line, said) in [
        ("sample run --sampler ddim --eta -1", "eta = -1"),
        ("sample run --sampler ddim --eta 1.5", "eta = 1.5"),
        (
            "sample run --sampler ddpm --eta 0.5",
            "--eta does nothing with --sampler ddpm",
        ),
        (
            "sample run --sampler ddim --sigma beta",
            "--sigma does nothing with --sampler ddim",
        ),
        (
            "sample run --sampler heun --order 2",
            "--order does nothing with --sampler heun",
        ),
        ("sample run --sampler unipc --order 4", "want 1, 2 or 3"),
        ("sample run --spacing karras", "visits all time steps"),
        ("sample run --steps 21", "want 1 to 20"),
        ("sample run --steps 0", "want 1 to 20"),
        ("sample run --stride 21", "want 1 to 20"),
        ("sample run --times 3,9", "noisiest first"),
        ("sample run --times 20", "want 0 to 19"),
        (
            "sample run --sampler analytic --steps 5",
            "ddpm calibrate run --data DIR",
        ),
        ("sample run --sampler euler", "ddim"),
        ("sample run --batch some", "want auto, or 1 to 65536"),
        ("sample run --sampler ddcm --codebook 12", "12"),
        ("sample run --sampler ddim --codebook 8", "--codebook"),
    ] {
        place.fails(line, said);
    }
}

#[test]
fn batch_sizes_do_not_change_the_images() {
    let place = Place::new();
    for (batch, out) in [("auto", "auto"), ("1", "one")] {
        let line = "sample run -n 3 --sampler ddim --steps 4 --out-tensor";
        place
            .ddpm(&format!("{line} {out}.safetensors --batch {batch}"))
            .success();
    }
    let apart = place.images("auto.safetensors") - place.images("one.safetensors");
    // The last bits may differ: another batch size may use other kernels.
    assert!(f64::try_from(apart.abs().max()).unwrap() < 1e-4);
}

#[test]
fn analytic_wants_its_measurements_and_those_of_the_same_network() {
    let place = Place::new();
    place
        .ddpm("calibrate run -n 4")
        .success()
        .stderr(contains("20 time steps"));
    place
        .ddpm("sample run -n 1 --sampler analytic --steps 5")
        .success();
    place
        .ddpm("sample run -n 1 --sampler analytic --steps 5 --eta 0")
        .success();
    // After more training it is another network.
    place
        .ddpm("train --run run --steps 2 --sample-every 0")
        .success();
    place.fails(
        "sample run -n 1 --sampler analytic --steps 5",
        "ddpm calibrate run",
    );
    let (old, new) = ("00000001", "00000002");
    let measured = |step| {
        place.at(&format!(
            "run/checkpoints/step-{step}.safetensors.ema.analytic.json"
        ))
    };
    std::fs::copy(measured(old), measured(new)).unwrap();
    place.fails(
        "sample run -n 1 --sampler analytic --steps 5",
        "another network",
    );
}

#[test]
fn images_to_start_from() {
    let place = Place::new();
    let sample = |rest: &str| {
        place.ddpm(&format!(
            "sample run -n 2 --out-tensor x.safetensors --force {rest}"
        ))
    };
    sample("--init-image a.png --strength 0.3").success();
    // Barely noised, it stays close to the original: DDIM with an untrained network keeps the mean.
    sample("--init-image wide.png --strength 0.1 --sampler ddim --steps 20").success();
    sample("--init-image a.png --mask mask.png --jump 3 --resample 2").success();
    let filled = place.images("x.safetensors");
    // The left half is known, and exactly as before: columns of 10 x, two of them per pixel.
    let want = |x: u32| (f64::from(20 * x + 5) / 127.5 - 1.0) as f32;
    for x in 0..4 {
        let seen = filled.double_value(&[1, 1, 3, i64::from(x)]) as f32;
        assert!(
            (seen - want(x)).abs() < 0.01,
            "column {x}: {seen}, want {}",
            want(x)
        );
    }
    for (line, said) in [
        (
            "--init-image a.png --mask narrow-mask.png",
            "10x16 pixels, and a.png has 16x16",
        ),
        (
            "--init-image a.png --mask mask.png --sampler ddim --steps 5",
            "--sampler ddpm",
        ),
        ("--mask mask.png", "--init-image"),
        ("--init-image text.png", "text.png"),
        ("--init-image nowhere.png", "nowhere.png"),
        ("--init-image a.png --strength 1.5", "want 0"),
        ("--init-image a.png --strength -0.5", "want 0"),
        ("--init-image a.png --strength 0", "no step"),
        (
            "--init-image a.png --mask mask.png --strength 0.5",
            "cannot be used with",
        ),
    ] {
        place.fails(&format!("sample run -n 2 {line}"), said);
    }
}

#[test]
fn trajectories_are_animations_and_strips() {
    let place = Place::new();
    place
        .ddpm("sample run -n 5 --batch 2 --trajectory way.png --strip strip.png --frames 7 --strip-frames 4")
        .success()
        .stderr(contains("7 frames in way.png"));
    assert_eq!(size(&place.at("way.png")), (24, 16));
    assert_eq!(size(&place.at("strip.png")), (32, 40));
    place
        .ddpm("sample run -n 1 --trajectory way.gif --x0 --sampler ddim --steps 3")
        .success();
    assert_eq!(size(&place.at("way.gif")), (8, 8));
    place.fails("sample run --trajectory way.mp4", "gif");
    place.fails("sample run --strip strip.gif", "want a name ending in .png");
    place.fails("sample run --frames 1 --trajectory way.gif", "2..=1000");
}

#[test]
fn interpolations_are_drawn_as_the_original_draws_them() {
    let place = Place::new();
    place
        .ddpm("interpolate run a.png b.png wide.png a.png -k 3 -o i.png")
        .success();
    // Ends, white columns, three mixtures; two rows.
    assert_eq!(size(&place.at("i.png")), (8 * 5 + 20, 16));
    place
        .ddpm("interpolate run a.png b.png -k 4 --t0 5 -o i.png --force")
        .success();
    place
        .ddpm("interpolate run --latent -n 2 -k 3 --steps 5 -o z.png")
        .success();
    assert_eq!(size(&place.at("z.png")), (24, 16));
    place
        .ddpm("interpolate run a.png wide.png --latent -k 3 --steps 5 -o z.png --force")
        .success();
    assert_eq!(size(&place.at("z.png")), (8 * 5 + 20, 8));
    for (line, said) in [
        ("interpolate run a.png", "1 image, want two"),
        (
            "interpolate run",
            "want two images for each row, or --latent",
        ),
        ("interpolate run a.png b.png --t0 20", "0 to 19"),
        ("interpolate run a.png b.png --t0 -1", "-1"),
        ("interpolate run a.png b.png -k 1", "2..=1000"),
        ("interpolate run a.png text.png", "text.png"),
        (
            "interpolate run a.png b.png -o i.gif",
            "want a name ending in .png",
        ),
    ] {
        place.fails(line, said);
    }
}

#[test]
fn inversion_tells_its_error() {
    let place = Place::new();
    place
        .ddpm("invert run a.png wide.png --steps 20 -o v.png --out-tensor v.safetensors")
        .success()
        .stdout(contains("a.png: PSNR").and(contains("wide.png: PSNR")));
    assert_eq!(size(&place.at("v.png")), (24, 16));
    let file = safetensors::open(&place.at("v.safetensors")).unwrap();
    assert_eq!(
        (file.tensors[0].0.as_str(), file.tensors[0].1.size()),
        ("x_T", vec![2, 3, 8, 8])
    );
    place.fails("invert run a.png --steps 21", "want 1 to 20");
    place.fails("invert run", "IMG");
}

#[test]
fn encoded_images_decode_with_their_model_alone() {
    let place = Place::new();
    place
        .ddpm("encode run a.png b.png wide.png -o x.ddcm --codebook 16 --seed 3")
        .success()
        .stdout(contains("a.png: PSNR").and(contains("1.2500 bits per pixel")));
    let decode = |rest: &str| place.ddpm(&format!("decode x.ddcm --model run {rest}"));
    decode("--separate one").success();
    decode("--separate two").success();
    for i in 0..3 {
        let read =
            |folder: &str| std::fs::read(place.at(&format!("{folder}/0000{i}.png"))).unwrap();
        assert_eq!(read("one"), read("two"), "the same bytes each time");
    }
    // The model is found among the runs, and beside the file.
    std::fs::create_dir(place.at("runs")).unwrap();
    std::fs::rename(place.at("run"), place.at("runs/first")).unwrap();
    place
        .ddpm("decode x.ddcm -o found.png")
        .success()
        .stderr(contains("model: runs/first"));
    place
        .ddpm("export runs/first --to weights.safetensors")
        .success();
    std::fs::rename(place.at("runs"), place.at("elsewhere")).unwrap();
    place
        .ddpm("decode x.ddcm -o again.png")
        .success()
        .stderr(contains("weights.safetensors"));
    let bytes = |name: &str| std::fs::read(place.at(name)).unwrap();
    assert_eq!(bytes("found.png"), bytes("again.png"));
}

#[test]
fn wrong_models_and_damaged_files_are_refused() {
    let place = Place::new();
    place.ddpm("encode run a.png -o x.ddcm --steps 5").success();
    place
        .ddpm("train --run run --steps 2 --sample-every 0")
        .success();
    place.fails("decode x.ddcm --model run", "made with another model");
    place.fails("decode x.ddcm", "Give it with --model");
    place.fails("decode a.png --model run", "a.png");
    let whole = std::fs::read(place.at("x.ddcm")).unwrap();
    std::fs::write(place.at("cut.ddcm"), &whole[..whole.len() - 12]).unwrap();
    place.fails("decode cut.ddcm --model run", "cut.ddcm");
    let mut altered = whole.clone();
    altered[whole.len() - 10] ^= 1;
    std::fs::write(place.at("altered.ddcm"), altered).unwrap();
    place.fails("decode altered.ddcm --model run", "checksum");
    for (line, said) in [
        ("encode run a.png -o x.ddcm --force --codebook 12", "12"),
        ("encode run a.png -o x.ddcm --force --codebook 1", "1"),
        (
            "encode run a.png -o x.ddcm --force --steps 21",
            "want 1 to 20",
        ),
        (
            "encode run a.png -o x.ddcm --force --sampler ddim",
            "--sampler ddpm only",
        ),
        ("encode run text.png -o x.ddcm --force", "text.png"),
        ("encode run a.png -o nowhere/x.ddcm", "nowhere"),
    ] {
        place.fails(line, said);
    }
    assert_eq!(
        std::fs::read(place.at("x.ddcm")).unwrap(),
        whole,
        "an older file stays"
    );
}
