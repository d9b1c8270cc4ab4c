//! The program end to end, on eight tiny images, and its error messages.

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use common::Golden;
use ddpm::formats::safetensors;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use tch::{Device, Kind, Tensor};

fn ddpm() -> Command {
    cargo_bin_cmd!("ddpm")
}

/// Eight images of several kinds and sizes.
fn images(dir: &Path) -> PathBuf {
    let folder = dir.join("images with a space");
    std::fs::create_dir_all(folder.join("below")).unwrap();
    for i in 0..8u32 {
        let image = image::RgbImage::from_fn(9 + i, 12 + i % 3, |x, y| {
            image::Rgb([(x * 20) as u8, (y * 15) as u8, (i * 30) as u8])
        });
        let name = [
            "a.png",
            "b.jpg",
            "c.bmp",
            "d.webp",
            "e.gif",
            "f.PNG",
            "below/g.jpeg",
            "h.png",
        ];
        image.save(folder.join(name[i as usize])).unwrap();
    }
    folder
}

const TINY: &str = "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1,2 \
                    --timesteps 4 --batch 4 --sample-images 4 --lr-schedule 0:1 --device cpu";

fn train_tiny(dir: &Path) -> PathBuf {
    let run = dir.join("run");
    ddpm()
        .args(["train", "--steps", "3", "--data"])
        .arg(images(dir))
        .arg("--run")
        .arg(&run)
        .args(TINY.split_whitespace())
        .assert()
        .success()
        .stderr(
            contains("8 images from")
                .and(contains("3 steps to go"))
                .and(contains("parameters on CPU")),
        );
    run
}

#[test]
fn a_cpu_says_that_it_does_not_compute_in_nchw() {
    let dir = tempfile::tempdir().unwrap();
    for (layout, noted) in [("nchw", true), ("nhwc", false), ("auto", false)] {
        let mut train = ddpm();
        train
            .args(["train", "--steps", "1", "--builtin-images", "4"])
            .args(["--sample-every", "0", "--layout", layout, "--run"])
            .arg(dir.path().join(layout))
            .args(TINY.split_whitespace());
        let out = train.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}");
        let note = said.contains("note: --layout nchw is for CUDA");
        assert_eq!(note, noted, "{said}");
    }
}

fn size_of_png(path: &Path) -> (u32, u32) {
    image::image_dimensions(path).unwrap()
}

#[test]
fn a_run_needs_no_import() {
    let dir = tempfile::tempdir().unwrap();
    let run = train_tiny(dir.path());
    let import = ddpm().arg("import").arg(&run).assert();
    import.failure().code(1).stderr(contains(
        "is of this program and needs no import; use it as it is, or `ddpm export`",
    ));
}

#[test]
fn train_sample_predict_export_import_inspect() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let run = train_tiny(dir.path());
    assert_eq!(
        size_of_png(&run.join("samples/step-00000003-ema.png")),
        (16, 16)
    );

    // Sampling needs only the run, and its result is a function of the seed.
    for out in ["one.png", "two.png"] {
        let sample = ddpm()
            .arg("sample")
            .arg(&run)
            .args(["-n", "5", "--out"])
            .arg(at(out))
            .assert();
        sample.success();
    }
    assert_eq!(size_of_png(&at("one.png")), (24, 16));
    assert_eq!(
        std::fs::read(at("one.png")).unwrap(),
        std::fs::read(at("two.png")).unwrap()
    );
    let mut sample = ddpm();
    sample
        .arg("sample")
        .arg(&run)
        .args(["-n", "3", "--batch", "2", "--raw", "--separate"]);
    sample.arg(at("separate")).assert().success();
    assert_eq!(std::fs::read_dir(at("separate")).unwrap().count(), 3);

    // An exported and imported state_dict predicts the same bits as the checkpoint.
    for name in ["model.pt", "model.safetensors"] {
        ddpm()
            .arg("export")
            .arg(&run)
            .arg("--to")
            .arg(at(name))
            .assert()
            .success();
    }
    let mut import = ddpm();
    import
        .arg("import")
        .arg(at("model.pt"))
        .arg("--config")
        .arg(run.join("config.toml"));
    import
        .arg("--to")
        .arg(at("back.safetensors"))
        .assert()
        .success();
    let x = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
    let t = Tensor::from_slice(&[0i64, 3]);
    let about = ("about".to_owned(), "test".to_owned());
    safetensors::write(
        &at("in.safetensors"),
        about,
        &[("x".into(), x), ("t".into(), t)],
    )
    .unwrap();
    let predict = |model: &Path| {
        let out = at("out.safetensors");
        let mut command = ddpm();
        command
            .arg("predict")
            .arg(model)
            .arg("--input")
            .arg(at("in.safetensors"));
        command.arg("--force").arg("--output").arg(&out);
        command.assert().success();
        Golden::open_path(&out).get("out").copy()
    };
    let want = predict(&run);
    assert_eq!(want.size(), [2, 3, 8, 8]);
    assert_eq!(want, predict(&at("model.safetensors")));
    assert_eq!(want, predict(&at("back.safetensors")));
    ddpm()
        .arg("sample")
        .arg(at("back.safetensors"))
        .arg("--out")
        .arg(at("back.png"))
        .assert()
        .success();

    ddpm()
        .arg("inspect")
        .arg(&run)
        .assert()
        .success()
        .stdout(contains("step: 3").and(contains("model.conv_in.weight")));
    let json = ddpm()
        .args(["inspect", "--json"])
        .arg(at("model.pt"))
        .assert()
        .success();
    let json: serde_json::Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    assert_eq!(json["container"], "PyTorch file");
    assert_eq!(json["tensors"][0]["name"], "time_embedding.weight");
}

#[test]
fn a_cache_is_used_and_noticed_to_be_stale() {
    let dir = tempfile::tempdir().unwrap();
    let folder = images(dir.path());
    let cache = dir.path().join("cache.safetensors");
    let train = |run: &str| {
        let mut command = ddpm();
        command
            .args(["train", "--steps", "1", "--sample-every", "0", "--data"])
            .arg(&folder);
        command
            .arg("--cache")
            .arg(&cache)
            .arg("--run")
            .arg(dir.path().join(run));
        command.args(TINY.split_whitespace()).assert().success()
    };
    train("a").stderr(contains("8 images from"));
    train("b").stderr(contains("8 images cached in"));
    std::fs::remove_file(folder.join("a.png")).unwrap();
    train("c").stderr(contains("7 images from"));
    // A cache never overwrites some other file.
    let other = dir.path().join("other.safetensors");
    let tensors = [("x".to_owned(), Tensor::from_slice(&[1u8]))];
    safetensors::write(&other, ("k".into(), "v".into()), &tensors).unwrap();
    ddpm()
        .args(["train", "--steps", "1", "--data"])
        .arg(&folder)
        .arg("--cache")
        .arg(&other)
        .arg("--run")
        .arg(dir.path().join("d"))
        .args(TINY.split_whitespace())
        .assert()
        .failure()
        .stderr(contains("is not an image cache"));
}

#[test]
fn bad_folders_and_images() {
    let dir = tempfile::tempdir().unwrap();
    let train = |data: &Path| {
        let mut command = ddpm();
        command
            .args(["train", "--steps", "1", "--sample-every", "0", "--data"])
            .arg(data);
        command
            .arg("--run")
            .arg(dir.path().join("run"))
            .args(TINY.split_whitespace())
            .assert()
    };
    train(&dir.path().join("nowhere"))
        .failure()
        .stderr(contains("nowhere"));
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    train(&empty)
        .failure()
        .stderr(contains("empty").and(contains("png")));
    let corrupt = dir.path().join("corrupt");
    std::fs::create_dir(&corrupt).unwrap();
    std::fs::write(corrupt.join("bad.png"), b"\x89PNG\r\n\x1a\nrubbish").unwrap();
    train(&corrupt).failure().stderr(contains("bad.png"));
    assert!(
        !dir.path().join("run").exists(),
        "nothing is left of a run that never started"
    );

    let folder = images(dir.path());
    std::fs::write(folder.join("bad.png"), b"rubbish").unwrap();
    train(&folder)
        .success()
        .stderr(contains("1 file could not be read").and(contains("bad.png")));
}

#[test]
fn broken_and_foreign_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let run = train_tiny(dir.path());
    let whole = std::fs::read(run.join("checkpoints/step-00000003.safetensors")).unwrap();
    let cut = dir.path().join("cut.safetensors");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    ddpm()
        .arg("sample")
        .arg(&cut)
        .assert()
        .failure()
        .stderr(contains("cut.safetensors").and(contains("truncated")));
    let missing = dir.path().join("no.safetensors");
    ddpm()
        .arg("sample")
        .arg(missing)
        .assert()
        .failure()
        .stderr(contains("no such file"));
    ddpm()
        .arg("sample")
        .arg(dir.path())
        .assert()
        .failure()
        .stderr(contains("without checkpoints"));

    // Another model's weights: every key that does not fit is named.
    let model = dir.path().join("model.pt");
    ddpm()
        .arg("export")
        .arg(&run)
        .arg("--to")
        .arg(&model)
        .assert()
        .success();
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    let other = dir.path().join("other.toml");
    std::fs::write(
        &other,
        config
            .replace("blocks = 1", "blocks = 2")
            .replace("channels = 3", "channels = 1"),
    )
    .unwrap();
    ddpm()
        .arg("import")
        .arg(&model)
        .arg("--config")
        .arg(&other)
        .arg("--to")
        .arg(dir.path().join("x.safetensors"))
        .assert()
        .failure()
        .stderr(contains("missing: down.0.1.conv1.weight").and(contains(
            "wrong shape: conv_in.weight [8, 3, 3, 3], want [8, 1, 3, 3]",
        )));
    assert!(!dir.path().join("x.safetensors").exists());

    // A wrong channel count for the network.
    let x = Tensor::zeros([1, 1, 8, 8], (Kind::Float, Device::Cpu));
    let input = dir.path().join("in.safetensors");
    let tensors = [
        ("x".to_owned(), x),
        ("t".to_owned(), Tensor::from_slice(&[9i64])),
    ];
    safetensors::write(&input, ("k".into(), "v".into()), &tensors).unwrap();
    let mut predict = ddpm();
    predict
        .arg("predict")
        .arg(&run)
        .arg("--input")
        .arg(&input)
        .arg("--output")
        .arg(dir.path().join("o.safetensors"));
    predict
        .assert()
        .failure()
        .stderr(contains("x has 1 channel, want 3 for this model"));
}

#[test]
fn a_disk_that_refuses_writes_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let run = train_tiny(dir.path());
    let before = std::fs::read(run.join("checkpoints/step-00000003.safetensors")).unwrap();
    // A file where a folder is needed is an error for every user, root too.
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let inside = dir.path().join("file/grid.png");
    ddpm()
        .arg("sample")
        .arg(&run)
        .arg("--out")
        .arg(&inside)
        .assert()
        .failure()
        .stderr(contains("grid.png"));
    let inside = dir.path().join("file/run");
    ddpm()
        .arg("train")
        .arg("--run")
        .arg(&inside)
        .args(TINY.split_whitespace())
        .assert()
        .failure();
    // The disk is full when the next checkpoint is written: a limit on file sizes stands in for it.
    Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 40; exec \"$@\"", "bash"])
        .arg(ddpm().get_program())
        .args(["train", "--steps", "5", "--sample-every", "0", "--run"])
        .arg(&run)
        .assert()
        .failure()
        .stderr(
            contains("step-00000005.safetensors")
                .and(contains("earlier checkpoints are untouched")),
        );
    assert_eq!(
        std::fs::read(run.join("checkpoints/step-00000003.safetensors")).unwrap(),
        before
    );
    assert_eq!(
        std::fs::read_to_string(run.join("checkpoints/latest")).unwrap(),
        "step-00000003.safetensors"
    );
    let rubbish = std::fs::read_dir(run.join("checkpoints")).unwrap().count();
    assert_eq!(rubbish, 2, "no temporary files are left");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_saves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    ddpm()
        .args([
            "train",
            "--steps",
            "50",
            "--optimizer",
            "adam",
            "--lr",
            "1e30",
            "--save-every",
            "1",
            "--run",
        ])
        .arg(&run)
        .args(["--sample-every", "0", "--builtin-images", "8"])
        .args(TINY.split_whitespace())
        .assert()
        .failure()
        .stderr(
            contains("not finite")
                .and(contains("incidents/step-"))
                .and(contains("ddpm replay")),
        );
    let latest = std::fs::read_to_string(run.join("checkpoints/latest")).unwrap();
    let step: u64 = latest
        .trim_start_matches("step-")
        .trim_end_matches(".safetensors")
        .parse()
        .unwrap();
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(
        metrics.lines().count() as u64,
        step,
        "the last good step is the last saved one"
    );
}

#[test]
fn nonsense_flags() {
    for (flags, said) in [
        ("train --norm batch", "batch norm is refused"),
        ("train --size 30", "model.height = 30: want a multiple of 8"),
        (
            "train --size 28",
            "24 and 32 are the nearest, or halve this one less often with --min-pixel 7",
        ),
        ("train --size big", "is not a valid size"),
        ("train --batch 32 --accumulate 5", "train.accumulate = 5"),
        (
            "train --preset keras-gau --checkpoint-blocks",
            "train.checkpoint_blocks = true: only unet has blocks",
        ),
        ("train --steps 0", "train.steps = 0"),
        ("train --seed 18446744073709551615", "train.seed"),
        (
            "train --batch 4000000000000000000",
            "want auto, or 1 to 65536",
        ),
        (
            "train --builtin-images 4000000000000000",
            "data.builtin_images",
        ),
        ("train --cache x.safetensors", "give --data too"),
        ("train --lr -1", "optim.lr = -1"),
        ("train --lr-schedule 5", "is not a valid point"),
        ("train --device gpu", "want auto, cpu, cuda or cuda:INDEX"),
        ("train --config nowhere.toml", "nowhere.toml"),
        ("train --background purple", "purple"),
        (
            "train --precision tf32 --device cpu",
            "tf32 exists on CUDA only",
        ),
        ("sample nowhere --sigma gamma", "beta, posterior"),
    ] {
        let flags = flags.replace("--lr -1", "--lr=-1");
        ddpm()
            .args(flags.split_whitespace())
            .assert()
            .failure()
            .stderr(contains(said));
    }
}

#[test]
fn small_norm_groups_cause_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    ddpm()
        .args("train --steps 1 --sample-every 0 --builtin-images 4 --run".split_whitespace())
        .arg(dir.path().join("run"))
        .args(
            TINY.replace("--norm-groups 2", "--norm-groups 8")
                .split_whitespace(),
        )
        .assert()
        .success()
        .stderr(contains("warning: norm groups of 1 channel at"));
}

#[test]
fn doctor_prints_versions_and_devices() {
    ddpm()
        .arg("doctor")
        .assert()
        .success()
        .stdout(contains("libtorch   2.11.0").and(contains("CUDA")));
}

#[test]
fn cuda_is_never_replaced_silently() {
    if ddpm::device::cuda_unusable(0).is_none() {
        return;
    }
    ddpm()
        .args(["train", "--device", "cuda"])
        .assert()
        .failure()
        .stderr(contains("--device cuda:0 cannot be used"));
}

#[test]
fn bench_prints_the_share_of_each_part() {
    let bench = |what: &str| {
        let mut command = ddpm();
        let network =
            "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1,2 --batch 2";
        command.args([
            "bench", "--json", "--phases", "--iters", "2", "--device", "cpu", "--what", what,
        ]);
        let said = command.args(network.split_whitespace()).assert().success();
        serde_json::from_slice::<serde_json::Value>(&said.get_output().stdout).unwrap()
    };
    let parts = |said: &serde_json::Value| -> Vec<String> {
        let ms = said["phases"]["ms"].as_array().unwrap();
        ms.iter()
            .map(|part| part[0].as_str().unwrap().to_owned())
            .collect()
    };
    let update = ["optimizer", "average"];
    let step = ["images", "noise", "forward", "backward"];
    let train = bench("train");
    let train_parts = [&step[..], &update, &["waiting for images"]].concat();
    assert_eq!(parts(&train), train_parts);
    assert_eq!(train["phases"]["ms"][6][1], 0.0, "images in memory");
    assert!(train["phases"]["gflops"].as_f64() > Some(0.0));
    let optimizer = bench("optimizer");
    assert_eq!(parts(&optimizer), update);
    assert!(optimizer["phases"]["gb_per_sec"].as_f64() > Some(0.0));
    assert!(optimizer["phases"].get("gflops").is_none());
    let sample = bench("sample");
    assert_eq!(parts(&sample), ["forward", "noise and sampler"]);
}
