//! Super-resolution: training, resuming, images of any size, cascades.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use ddpm::checkpoint::read_checkpoint;
use ddpm::pretrained::{Guided, Pretrained, Upscaler};
use ddpm::report::{read_png, write_png};
use ddpm::sample::{Guidance, SamplerKind, SamplerOptions};
use ndarray::Array3;
use predicates::str::contains;
use tch::{Device, Kind, Tensor};

/// Images of 8 pixels a side in two colours, with a fine pattern that is the same in all of them and gone in small ones.
fn images(dir: &Path) -> PathBuf {
    let data = dir.join("images");
    std::fs::create_dir_all(&data).unwrap();
    for i in 0..16u8 {
        let level = 40 + 10 * i;
        let image = Array3::from_shape_fn((8, 8, 3), |(y, x, _)| {
            // A sum of 0 over each two by two pixels.
            level + if (x + y) % 2 == 0 { 30 } else { 0 }
        });
        write_png(&data.join(format!("{i:02}.png")), image.view()).unwrap();
    }
    data
}

fn ddpm(words: &str) -> Command {
    let mut command = cargo_bin_cmd!("ddpm");
    command.env("OMP_NUM_THREADS", "1");
    command.args(words.split_whitespace());
    command
}

const PLACE: &str = "--device cpu --precision f32";

const TINY: &str =
    "--preset demo --base-width 16 --norm-groups 4 --multipliers 1 --timesteps 20 --batch 8";

/// A command that trains a tiny network on `data`.
fn train(data: &Path, run: &Path, flags: &str) -> Command {
    let mut command = ddpm(&format!("train {TINY} {PLACE} {flags}"));
    for (flag, value) in [
        ("--size", "8"),
        ("--min-pixel", "4"),
        ("--sample-every", "0"),
    ] {
        if !flags.contains(flag) {
            command.args([flag, value]);
        }
    }
    command.arg("--data").arg(data).arg("--run").arg(run);
    command
}

fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}.safetensors"))
}

/// `ddpm upscale`, with a network and an image.
fn upscale(network: &Path, image: &Path, flags: &str) -> Command {
    let mut command = ddpm(&format!("upscale {PLACE} {flags}"));
    command.arg(network).arg(image);
    command
}

fn error(a: &Tensor, b: &Tensor) -> f64 {
    f64::try_from((a - b).abs().max()).unwrap()
}

#[test]
fn a_network_learns_what_interpolation_cannot_know() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let run = dir.path().join("run");
    let flags = "--upscale 2 --upscale-noise 0.05 --steps 300 --lr 1e-2 --lr-schedule 0:1 --ema 0.9 --prediction x0 \
                 --sample-every 300 --sample-images 2 --sample-steps 5 --hold-out 2 --evaluate-every 300 \
                 --evaluate-metrics loss,bpd,fid --evaluate-images 4";
    train(&data, &run, flags)
        .assert()
        .success()
        .stderr(contains("to make images larger: ddpm upscale"));
    let meta = read_checkpoint(&checkpoint(&run, 300)).unwrap().meta;
    assert_eq!((meta.format, meta.config.model.input_channels()), (3, 6));
    // Small, large, and what it was, of each of two images.
    let grid = read_png(&run.join("samples/step-00000300-ema.png"), 3).unwrap();
    assert_eq!(grid.dim(), (16, 24, 3));

    let psnr = |flags: &str| {
        let mut command = ddpm(&format!("evaluate psnr {PLACE} --json --steps 10 {flags}"));
        let out = command.arg(&run).assert().success().get_output().clone();
        let found: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        ["psnr_db", "bicubic_psnr_db"].map(|name| found[name]["mean"].as_f64().unwrap())
    };
    let [own, bicubic] = psnr("");
    // The pattern is 15 levels about its mean: 24.6 dB without it.
    assert!((bicubic - 24.6).abs() < 0.3, "{bicubic}");
    assert!(own > bicubic + 4.0, "{own} against {bicubic}");
    // The noise of an image is that of its number, whatever is beside it.
    let data_too = format!("--data {} --seed 3", data.display());
    let [whole, parts] = ["16", "5"].map(|n| psnr(&format!("{data_too} -n 7 --batch {n}"))[0]);
    assert!((whole - parts).abs() < 0.05, "{whole} and {parts}");
    for measure in ["loss --every 10", "bpd --every 10"] {
        let mut evaluate = ddpm(&format!("evaluate {measure} {PLACE} -n 2"));
        evaluate.arg(&run).assert().success();
    }
    let mut inspect = ddpm("inspect");
    inspect
        .arg(&run)
        .assert()
        .success()
        .stdout(contains("upscale"));
}

#[test]
fn a_run_goes_on_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let [whole, parts, accumulated] =
        ["whole", "parts", "accumulated"].map(|name| dir.path().join(name));
    let flags = "--upscale 4 --upscale-noise 0.3 --flip --save-every 3";
    let trained = |run: &Path, more: &str| {
        train(&data, run, &format!("{flags} {more}"))
            .assert()
            .success();
    };
    trained(&whole, "--steps 6");
    trained(&parts, "--steps 3");
    let mut resume = ddpm(&format!("train --steps 6 {PLACE}"));
    resume.arg("--run").arg(&parts).assert().success();
    let tensors = |run: &Path| read_checkpoint(&checkpoint(run, 6)).unwrap().tensors;
    for ((name, a), (_, b)) in tensors(&whole).iter().zip(&tensors(&parts)) {
        assert_eq!(a, b, "{name}");
    }
    let mut replay = ddpm(&format!("replay --step 5 {PLACE}"));
    let replayed = replay.arg(&whole).assert().success();
    replayed.stdout(contains("step 5: loss"));
    trained(&accumulated, "--steps 6 --accumulate 2");
    for ((name, a), (_, b)) in tensors(&whole).iter().zip(&tensors(&accumulated)) {
        assert!(error(a, b) < 1e-3, "{name}: {}", error(a, b));
    }
}

#[test]
fn images_of_any_size_are_made_larger() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let run = dir.path().join("run");
    train(&data, &run, "--upscale 2 --steps 2")
        .assert()
        .success();
    // Of 2 x 3 pixels, with the tiles of each.
    for (h, w, tiles) in [(4, 4, 1), (2, 3, 1), (9, 5, 6), (4, 11, 4)] {
        let small = dir.path().join(format!("{h}x{w}.png"));
        let pixels = Array3::from_shape_fn((h, w, 3), |(y, x, c)| (20 * y + 10 * x + 50 * c) as u8);
        write_png(&small, pixels.view()).unwrap();
        let said = match tiles {
            1 => format!("{w}x{h} to {}x{}, in", 2 * w, 2 * h),
            _ => format!(
                "{w}x{h} to {}x{}, in {tiles} tiles of 8x8, in",
                2 * w,
                2 * h
            ),
        };
        let made = || {
            upscale(&run, &small, "--steps 3 --force")
                .assert()
                .success()
        };
        made().stderr(contains(said));
        let out = dir.path().join(format!("{h}x{w}-2x.png"));
        let first = read_png(&out, 3).unwrap();
        assert_eq!(first.dim(), (2 * h, 2 * w, 3));
        made();
        assert_eq!(read_png(&out, 3).unwrap(), first);
    }
    let small = dir.path().join("4x4.png");
    upscale(&run, &small, "--steps 3")
        .assert()
        .failure()
        .stderr(contains("--force"));
    let out = dir.path().join("large");
    let mut several = upscale(&run, &small, "--steps 3 --tile 16 --condition-noise 0.05");
    several
        .arg(dir.path().join("9x5.png"))
        .arg("--out")
        .arg(&out);
    several.assert().success();
    assert!(out.join("9x5-2x.png").is_file() && out.join("4x4-2x.png").is_file());
    let mut twice = upscale(&run, &small, "--steps 3 --force");
    let copy = dir.path().join("other");
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(&small, copy.join("4x4.png")).unwrap();
    let twice = twice
        .arg(copy.join("4x4.png"))
        .arg("--out")
        .arg(dir.path().join("new"));
    twice
        .assert()
        .failure()
        .stderr(contains("would both become"));
    assert!(!dir.path().join("new").exists());
    for (flags, said) in [
        ("--sampler analytic", "choose another sampler"),
        ("--out x.jpg", "want a name ending in .png"),
        ("--tile 7", "want a multiple of 2 from 8"),
        ("--condition-noise 1", "less than 1"),
        ("--sampler ddcm", "codebooks"),
        ("--guidance 2", "nothing to be guided away from"),
        ("--class 1", "not class-conditional"),
    ] {
        upscale(&run, &small, &format!("{flags} --force"))
            .assert()
            .failure()
            .stderr(contains(said));
    }
    upscale(&run, &dir.path().join("none.png"), "")
        .assert()
        .failure();
}

#[test]
fn tiles_are_blended_at_each_step() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let run = dir.path().join("run");
    train(&data, &run, "--upscale 2 --steps 2")
        .assert()
        .success();
    let network = Pretrained::load_with(&run, &Default::default(), Device::Cpu).unwrap();
    let upscaler = || {
        let options = SamplerOptions {
            steps: Some(3),
            ..SamplerOptions::new(SamplerKind::Ddim)
        };
        let sampler = options.choose(network.config(), || network.measured());
        let guided = Guided::upscaling(&network, Guidance::NONE, None).unwrap();
        Upscaler::new(guided, sampler.unwrap()).unwrap()
    };
    let draw = || Tensor::rand([2, 3, 4, 4], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
    let low = ddpm::rng::seeded(1, draw);
    let of = |low: &Tensor, numbers: &[u64], batch: u64| {
        let upscaler = upscaler().with_batch(batch);
        upscaler
            .upscale(low, None, 3, numbers, &mut |_| ())
            .unwrap()
    };
    let both = of(&low, &[0, 1], 16);
    assert_eq!(both.size(), [2, 3, 8, 8]);
    // An image is the same whatever is beside it, but for rounding; its number is its noise.
    let second = of(&low.narrow(0, 1, 1), &[1], 1);
    assert!(error(&second, &both.narrow(0, 1, 1)) < 1e-4);
    assert!(error(&of(&low.narrow(0, 1, 1), &[0], 1), &second) > 1e-2);
    // Several tiles: so many at a time changes nothing but the rounding.
    let wide = Tensor::cat(&[&low, &low.flip([3])], 3);
    let (one, many) = (of(&wide, &[0, 1], 1), of(&wide, &[0, 1], 16));
    assert_eq!(one.size(), [2, 3, 8, 16]);
    assert!(error(&one, &many) < 1e-4);
    // Other colours are refused.
    let grey = upscaler().upscale(&low.narrow(1, 0, 1), None, 3, &[0, 1], &mut |_| ());
    assert!(
        grey.unwrap_err()
            .to_string()
            .contains("images of 1 channel,")
    );
}

#[test]
fn a_cascade_makes_the_images_of_one_network_larger() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let [base, larger, grown] = ["base", "larger", "grown"].map(|name| dir.path().join(name));
    train(&data, &base, "--size 4 --min-pixel 2 --steps 2")
        .assert()
        .success();
    train(&data, &larger, "--upscale 2 --steps 2")
        .assert()
        .success();
    let out = dir.path().join("out.png");
    let sample = |network: &Path, flags: &str| {
        let mut command = ddpm(&format!(
            "sample {PLACE} --sampler ddim --steps 3 --force {flags}"
        ));
        command.arg(network).arg("--out").arg(&out);
        command
    };
    let then = |flags: &str| {
        let mut command = sample(&base, flags);
        command.arg("--then").arg(&larger);
        command
    };
    then("-n 4").assert().success();
    let grid = read_png(&out, 3).unwrap();
    assert_eq!(grid.dim(), (16, 16, 3));
    // A batch of another size is rounded otherwise, so this is of the same.
    then("-n 4").assert().success();
    assert_eq!(read_png(&out, 3).unwrap(), grid);
    // Twice, and the second time in tiles.
    then("-n 1").arg("--then").arg(&larger).assert().success();
    assert_eq!(read_png(&out, 3).unwrap().dim(), (16, 16, 3));

    let separate = dir.path().join("separate");
    let mut command = then("-n 2");
    command.arg("--separate").arg(&separate).assert().success();
    assert_eq!(
        read_png(&separate.join("00001.png"), 3).unwrap().dim(),
        (8, 8, 3)
    );

    for (command, said) in [
        (&mut sample(&larger, ""), "needs some to begin with"),
        (&mut sample(&base, "--tile 16"), "are about --then"),
        (&mut then("--strip 3"), "show the work of one network"),
        (
            sample(&base, "").arg("--then").arg(&base),
            "makes images from noise alone",
        ),
        (
            &mut upscale(&base, &out, ""),
            "makes images from noise alone",
        ),
    ] {
        command.assert().failure().stderr(contains(said));
    }
    let mut fid = ddpm(&format!("evaluate swd {PLACE} -n 4"));
    let refused = fid.arg(&larger).arg(&data).assert().failure();
    refused.stderr(contains("needs some to begin with"));

    // A network without a condition grows one.
    let mut command = ddpm(&format!(
        "train {PLACE} --upscale 4 --steps 3 --sample-every 0"
    ));
    command.arg("--data").arg(&data).arg("--run").arg(&grown);
    let plain = dir.path().join("plain");
    train(&data, &plain, "--steps 2").assert().success();
    command.arg("--init-from").arg(&plain);
    let said = "conv_in.weight grows from [16, 3, 3, 3] to [16, 6, 3, 3]";
    command.assert().success().stderr(contains(said));
    let mut resume = ddpm(&format!("train {PLACE} --upscale 2 --steps 4"));
    resume.arg("--run").arg(&grown).assert().failure();
}

#[test]
fn files_of_other_programs_are_known_by_their_first_layer() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let run = dir.path().join("run");
    let mut command = ddpm(&format!(
        "train --preset ddpm-cifar10 --size 8 --base-width 32 --multipliers 1,1 --attention 4 --timesteps 20 --batch 4 \
         --sample-every 0 --steps 1 --upscale 2 {PLACE}"
    ));
    command.arg("--data").arg(&data).arg("--run").arg(&run);
    command.assert().success();
    let small = dir.path().join("small.png");
    let pixels = Array3::from_shape_fn((4, 4, 3), |(y, x, c)| (20 * y + 10 * x + 50 * c) as u8);
    write_png(&small, pixels.view()).unwrap();
    let made = |network: &Path, flags: &str| {
        let out = dir.path().join("large.png");
        let mut command = upscale(network, &small, &format!("--steps 3 --force {flags}"));
        let said = command
            .arg("--out")
            .arg(&out)
            .assert()
            .success()
            .get_output()
            .clone();
        let said = String::from_utf8(said.stderr).unwrap();
        (read_png(&out, 3).unwrap(), said)
    };
    let (own, _) = made(&run, "");
    let folder = dir.path().join("pipeline");
    let mut export = ddpm("export --layout diffusers");
    export.arg(&run).arg("--to").arg(&folder).assert().success();
    let hints = "--upscale 2";
    let (theirs, said) = made(&folder, hints);
    assert!(said.contains("bicubic interpolation"), "{said}");
    let most = own.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(most <= Some(1), "{most:?}");
    let (large, said) = made(&folder, "");
    assert!(
        large.dim() == (16, 16, 3) && said.contains("4 times"),
        "{said}"
    );

    for layout in ["lucidrains", "keras-ddpm"] {
        let mut export = ddpm(&format!("export --layout {layout}"));
        export.arg(&run).arg("--to").arg(dir.path().join("x.pt"));
        export.assert().failure();
    }
}

#[test]
fn an_upscaler_can_be_told_the_class_too() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("images");
    for (class, first) in [("bright", 8), ("dark", 0)] {
        let folder = data.join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for name in (first..first + 8).map(|i| format!("{i:02}.png")) {
            let whole = images(dir.path().join("all").as_path()).join(&name);
            std::fs::copy(whole, folder.join(&name)).unwrap();
        }
    }
    let [base, larger] = ["base", "larger"].map(|name| dir.path().join(name));
    // Grids and evaluations make images of small ones, of their classes.
    let flags = "--conditional --upscale 2 --steps 2 --sample-every 2 --sample-images 3 --sample-steps 2 --hold-out 4 \
                 --evaluate-every 2 --evaluate-metrics loss,fid --evaluate-images 3";
    train(&data, &larger, flags).assert().success();
    let flags = "--conditional --size 4 --min-pixel 2 --steps 2";
    train(&data, &base, flags).assert().success();
    let small = dir.path().join("small.png");
    let pixels = Array3::from_shape_fn((4, 4, 3), |(y, x, _)| (20 * y + 10 * x) as u8);
    write_png(&small, pixels.view()).unwrap();
    let out = dir.path().join("out.png");
    let made = |flags: &str| {
        let mut command = upscale(&larger, &small, &format!("--steps 3 --force {flags}"));
        command.arg("--out").arg(&out).assert().success();
        read_png(&out, 3).unwrap()
    };
    // A network of two steps hardly heeds the class; guidance away from the other one makes it plain.
    assert_ne!(
        made("--class bright --guidance 50"),
        made("--class dark --guidance 50")
    );
    upscale(&larger, &small, "--force")
        .assert()
        .failure()
        .stderr(contains("choose a class"));
    let mut cascade = ddpm(&format!(
        "sample {PLACE} --sampler ddim --steps 2 -n 2 --class dark --force"
    ));
    cascade.arg(&base).arg("--then").arg(&larger);
    let done = cascade.arg("--out").arg(&out).assert().success();
    let said = String::from_utf8(done.get_output().stderr.clone()).unwrap();
    assert!(!said.contains("is told none"), "{said}");
}
