//! Class-conditional runs: labels, training, resuming, sampling by class, guidance.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use ddpm::checkpoint::read_checkpoint;
use ddpm::config::{ModelConfig, RunConfig};
use ddpm::pretrained::{Guided, Pretrained};
use ddpm::report::{read_png, write_png};
use ddpm::sample::Guidance;
use ndarray::Array3;
use predicates::str::contains;
use tch::{Device, Kind, Tensor};

/// Images of one colour each, 8 pixels a side, in a folder a class: dark, bright and, where asked for, a few grey ones.
fn images(dir: &Path, classes: &[(&str, u8, usize)]) -> PathBuf {
    let data = dir.join("images");
    for (name, level, count) in classes {
        let folder = data.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..*count {
            // Not all the same, so that none is a copy.
            let image = Array3::from_shape_fn((8, 8, 3), |(y, x, _)| {
                level.saturating_add(((y * 8 + x + i) % 13) as u8)
            });
            write_png(&folder.join(format!("{i}.png")), image.view()).unwrap();
        }
    }
    data
}

const TWO: [(&str, u8, usize); 2] = [("bright", 220, 12), ("dark", 10, 12)];

fn ddpm() -> Command {
    let mut command = cargo_bin_cmd!("ddpm");
    command.env("OMP_NUM_THREADS", "1");
    command
}

const TINY: &str = "--size 8 --base-width 16 --norm-groups 4 --multipliers 1 --min-pixel 4 --timesteps 20 --batch 8 \
                    --device cpu --precision f32 --sample-every 0 --preset demo";

/// A command that trains a tiny network on `data`.
fn train(data: &Path, run: &Path, flags: &str) -> Command {
    let mut command = ddpm();
    command
        .arg("train")
        .arg("--data")
        .arg(data)
        .arg("--run")
        .arg(run);
    command
        .args(TINY.split_whitespace())
        .args(flags.split_whitespace());
    command
}

/// Images are made by the program, and so a folder of them alone is a data set.
fn sample(network: &Path, out: &Path, flags: &str) -> Command {
    let mut command = ddpm();
    command.arg("sample").arg(network).arg("--out").arg(out);
    command.args("--force --device cpu --precision f32".split(' '));
    command.args(flags.split_whitespace());
    command
}

fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}.safetensors"))
}

/// Mean level of each of four images in a grid, which may have names to the left.
fn levels(grid: &Path) -> Vec<f64> {
    let image = read_png(grid, 3).unwrap();
    let names = image.dim().1 - 16;
    let mean = |place: usize| {
        let (top, left) = (8 * (place / 2), names + 8 * (place % 2));
        let part = image.slice(ndarray::s![top..top + 8, left..left + 8, ..]);
        part.mapv(f64::from).mean().unwrap()
    };
    (0..4).map(mean).collect()
}

#[test]
fn a_network_makes_images_of_the_class_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path(), &TWO);
    let run = dir.path().join("run");
    let flags = "--conditional --steps 200 --lr 1e-2 --lr-schedule 0:1 --ema 0.9 --prediction x0";
    let said = "the classes of 10 % of the images";
    train(&data, &run, flags)
        .assert()
        .success()
        .stderr(contains(said));
    let meta = read_checkpoint(&checkpoint(&run, 200)).unwrap().meta;
    assert_eq!(meta.config.model.classes(), Some(2));
    assert_eq!(meta.config.model.null_class(), Some(2));
    let conditional = meta.config.conditional.unwrap();
    assert_eq!(conditional.classes, ["bright", "dark"]);
    assert_eq!(conditional.images, [12, 12]);

    let out = dir.path().join("out.png");
    let of = |flags: &str| {
        sample(&run, &out, &format!("-n 4 --seed 3 {flags}"))
            .assert()
            .success();
        levels(&out)
    };
    let bright = of("--class bright");
    assert!(bright.iter().all(|level| *level > 170.0), "{bright:?}");
    let dark = of("--class 1");
    assert!(dark.iter().all(|level| *level < 90.0), "{dark:?}");
    // A row a class that is asked for; else in turn.
    for (levels, is_bright) in [
        (of("--class all"), [true, true, false, false]),
        (of("--class dark,0"), [false, false, true, true]),
        (of(""), [true, false, true, false]),
        (of("--class data"), [true, false, true, false]),
    ] {
        for (level, is_bright) in levels.iter().zip(is_bright) {
            assert_eq!(*level > 128.0, is_bright, "{levels:?}");
        }
    }
    let plain = std::fs::read(&out).unwrap();
    of("--class data --guidance 1");
    assert_eq!(
        std::fs::read(&out).unwrap(),
        plain,
        "guidance 1 is the network as it is"
    );
    of("--class none");
    sample(&run, &out, "-n 4 --class bright --guidance 2")
        .assert()
        .success()
        .stderr(contains("guidance 2 (w = 1)"));

    sample(&run, &out, "--class grey")
        .assert()
        .failure()
        .stderr(contains("0 to 1, or one of bright, dark"));
    sample(&run, &out, "--class none --guidance 2")
        .assert()
        .failure()
        .stderr(contains("nothing to guide without a class"));
    let evaluate = |data: &Path| {
        let mut command = ddpm();
        command
            .args(["evaluate", "loss"])
            .arg(&run)
            .arg("--data")
            .arg(data);
        command.args("-n 8 --every 10 --device cpu".split(' '));
        command.assert()
    };
    evaluate(&data).success();
    let others = images(
        &dir.path().join("others"),
        &[("black", 10, 3), ("white", 220, 3)],
    );
    let unknown =
        "none of the classes of these images (black, white) is one of the network's (bright, dark)";
    evaluate(&others).failure().stderr(contains(unknown));
    let some = images(
        &dir.path().join("some"),
        &[("dark", 10, 3), ("white", 220, 2)],
    );
    let warning = "warning: 2 images of none of the network's classes (bright, dark): measured as of no class";
    evaluate(&some).success().stderr(contains(warning));
    let mut inspect = ddpm();
    inspect
        .arg("inspect")
        .arg(&run)
        .assert()
        .success()
        .stdout(contains("bright"));
}

#[test]
fn separate_images_come_with_their_classes() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path(), &TWO);
    let [run, made, grid] = ["run", "made", "x.png"].map(|name| dir.path().join(name));
    train(&data, &run, "--steps 1 --conditional")
        .assert()
        .success();
    let list = made.join("labels.csv");
    let sample = |flags: &str| {
        let mut command = ddpm();
        command.arg("sample").arg(&run).arg("--separate").arg(&made);
        command.args("--device cpu --precision f32 --sampler ddim --steps 2".split(' '));
        command.args(flags.split_whitespace());
        command.assert()
    };
    sample("-n 3 --class dark,bright").success();
    let text = "file,class\n00000.png,dark\n00001.png,bright\n00002.png,dark\n";
    assert_eq!(std::fs::read_to_string(&list).unwrap(), text);
    // It is what --labels reads.
    let labels = format!("--steps 1 --labels {}", list.display());
    train(&made, &dir.path().join("again"), &labels)
        .assert()
        .success()
        .stderr(contains("2 classes: bright 1, dark 2"));
    // As one that is interrupted leaves it, and before it wrote the list.
    sample("-n 4 --batch 2 --force --out /dev/full").failure();
    assert!(made.join("sampling.json").is_file());
    for file in [&list, &made.join("00002.png")] {
        std::fs::remove_file(file).unwrap();
    }
    sample("-n 4 --batch 2")
        .success()
        .stderr(contains("going on: 3 of 4 images"))
        .stderr(contains("classes in turn: bright, dark"));
    let text = std::fs::read_to_string(&list).unwrap();
    assert!(
        text.ends_with("00002.png,bright\n00003.png,dark\n"),
        "{text}"
    );
    // One that is there is no other's.
    for i in 0..4 {
        std::fs::remove_file(made.join(format!("0000{i}.png"))).unwrap();
    }
    sample("-n 4")
        .failure()
        .stderr(contains("labels.csv exists"));
    assert_eq!(std::fs::read_to_string(&list).unwrap(), text);
    sample("-n 4 --force --class none")
        .success()
        .stderr(contains("labels.csv is not of these images"));
    let grid = grid.to_str().unwrap();
    sample(&format!("-n 4 --force --class all --out {grid}")).success();
    let (height, width, _) = read_png(Path::new(grid), 3).unwrap().dim();
    assert_eq!((height, width), (16, 6 * 8 + 4 + 16));
}

#[test]
fn what_is_asked_for_in_vain_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path(), &[("bright", 220, 4), ("none", 10, 4)]);
    let out = dir.path().join("x.png");
    let [run, gaps] = ["run", "gaps"].map(|name| dir.path().join(name));
    train(&data, &run, "--steps 1 --conditional")
        .assert()
        .success();
    let few = "-n 2 --sampler ddim --steps 2";
    sample(&run, &out, &format!("{few} --class none"))
        .assert()
        .success()
        .stderr(contains(
            "--class none is not the class of that name, which is name:none",
        ));
    let guided = format!("{few} --class name:none --guidance 2 --guidance-interval 1:3");
    sample(&run, &out, &guided)
        .assert()
        .success()
        .stderr(contains("--guidance-interval 1:3: nothing is guided"));
    // Class 1 has no image.
    let list = dir.path().join("a.csv");
    let rows = (0..4).map(|i| format!("bright/{i}.png,0\nnone/{i}.png,2\n"));
    std::fs::write(&list, rows.collect::<String>()).unwrap();
    let flags = format!("--steps 1 --conditional --labels {}", list.display());
    train(&data, &gaps, &flags).assert().success();
    let untrained = "trained on no image of 1: what it makes of it tells nothing";
    for class in ["all", "1", "2,1"] {
        sample(
            &gaps,
            &out,
            &format!("-n 3 --sampler ddim --steps 2 --class {class}"),
        )
        .assert()
        .success()
        .stderr(contains(untrained));
    }
    // Of two networks, which has no such class.
    let mut command = ddpm();
    command.args(["evaluate", "fid"]).arg(&gaps).arg(&run);
    command.args("-n 2 --features random --class 2 --device cpu".split(' '));
    let said = format!("error: {}: --class 2: ", run.display());
    command.assert().failure().stderr(contains(said));
}

#[test]
fn a_run_with_label_dropout_goes_on_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path(), &[TWO[0], TWO[1], ("grey", 100, 5)]);
    let [whole, parts, accumulated] =
        ["whole", "parts", "accumulated"].map(|name| dir.path().join(name));
    let flags = "--conditional --label-dropout 0.4 --flip --save-every 3";
    train(&data, &whole, &format!("{flags} --steps 6"))
        .assert()
        .success();
    train(&data, &parts, &format!("{flags} --steps 3"))
        .assert()
        .success();
    let mut resume = ddpm();
    resume
        .arg("train")
        .arg("--run")
        .arg(&parts)
        .args(["--steps", "6"]);
    resume
        .args(["--device", "cpu", "--precision", "f32"])
        .assert()
        .success();
    let tensors = |run: &Path| read_checkpoint(&checkpoint(run, 6)).unwrap().tensors;
    for ((name, a), (_, b)) in tensors(&whole).iter().zip(&tensors(&parts)) {
        assert_eq!(a, b, "{name}");
    }
    let mut replay = ddpm();
    replay
        .arg("replay")
        .arg(&whole)
        .args(["--step", "5"])
        .args(["--device", "cpu", "--precision", "f32"]);
    replay.assert().success().stdout(contains("step 5: loss"));
    train(
        &data,
        &accumulated,
        &format!("{flags} --steps 6 --accumulate 2"),
    )
    .assert()
    .success();
    for ((name, a), (_, b)) in tensors(&whole).iter().zip(&tensors(&accumulated)) {
        let error = f64::try_from((a - b).abs().max()).unwrap();
        assert!(error < 1e-3, "{name}: {error}");
    }
}

#[test]
fn a_labelled_folder_trains_without_classes_unless_asked() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path(), &TWO);
    let flat = dir.path().join("flat");
    std::fs::create_dir(&flat).unwrap();
    for (class, i) in [("bright", 0), ("dark", 0), ("dark", 1)] {
        std::fs::copy(
            data.join(format!("{class}/{i}.png")),
            flat.join(format!("{class}{i}.png")),
        )
        .unwrap();
    }
    let run = dir.path().join("run");
    train(&data, &run, "--steps 1")
        .assert()
        .success()
        .stderr(contains("--conditional"));
    let config: RunConfig = read_checkpoint(&checkpoint(&run, 1)).unwrap().meta.config;
    assert!(config.conditional.is_none() && config.model.classes().is_none());
    train(&flat, &dir.path().join("none"), "--steps 1 --conditional")
        .assert()
        .failure()
        .stderr(contains("have no labels"));
    // One image beside the folders has no label; where most lie beside them, folders are no classes unless asked for.
    std::fs::copy(flat.join("dark0.png"), data.join("stray.png")).unwrap();
    train(&data, &dir.path().join("stray"), "--steps 1 --conditional")
        .assert()
        .success()
        .stderr(contains("2 classes of 12 images each: bright, dark"))
        .stderr(contains("1 image is without a label: stray.png"));
    for (class, i) in [("bright", 0), ("dark", 0)] {
        let to = flat.join(class);
        std::fs::create_dir(&to).unwrap();
        let from = data.join(format!("{class}/{i}.png"));
        std::fs::copy(from, to.join("0.png")).unwrap();
    }
    train(&flat, &dir.path().join("most"), "--steps 1 --conditional")
        .assert()
        .failure()
        .stderr(contains("--labels folder takes them"))
        .stderr(contains(
            "have no labels, as most of them lie beside the folders",
        ));
    train(
        &data,
        &dir.path().join("share"),
        "--steps 1 --label-dropout 0.2",
    )
    .assert()
    .failure()
    .stderr(contains("give --conditional too"));
    let sampled = dir.path().join("x.png");
    for (flags, said) in [
        ("--class dark", "not class-conditional"),
        ("--guidance 2", "not class-conditional"),
        ("--guidance-interval 1:2", "--guidance"),
    ] {
        sample(&run, &sampled, flags)
            .assert()
            .failure()
            .stderr(contains(said));
    }
}

#[test]
fn guidance_is_two_outputs_in_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path(), &TWO);
    let [run, weak] = ["run", "weak"].map(|name| dir.path().join(name));
    train(
        &data,
        &run,
        "--steps 6 --conditional --lr 1e-2 --lr-schedule 0:1",
    )
    .assert()
    .success();
    train(&data, &weak, "--steps 2 --prediction v --seed 5")
        .assert()
        .success();
    let (network, other) = (
        Pretrained::load(&run).unwrap(),
        Pretrained::load(&weak).unwrap(),
    );
    let draw = || Tensor::randn([3, 3, 8, 8], (Kind::Float, Device::Cpu));
    let x = ddpm::rng::seeded(1, draw);
    let at = |t: i64| Tensor::full([3], t, (Kind::Int64, Device::Cpu));
    let (some, none) = (
        Tensor::from_slice(&[0i64, 1, 0]),
        Tensor::full([3], 2, (Kind::Int64, Device::Cpu)),
    );
    let error = |a: &Tensor, b: &Tensor| f64::try_from((a - b).abs().max()).unwrap();
    let guidance = Guidance {
        interval: Some((5, 12)),
        ..Guidance::of_scale(3.0)
    };
    let guided = Guided::new(&network, guidance, None).unwrap();
    let (strong, weaker) = (
        network.predict(&x, &at(7), Some(&some)),
        network.predict(&x, &at(7), Some(&none)),
    );
    let want = &weaker + (&strong - &weaker) * 3.0;
    let got = guided.predict(&x, &at(7), Some(&some));
    // A batch of another size is rounded otherwise.
    assert!(error(&got, &want) < 1e-4 && error(&got, &strong) > 1e-2);
    let outside = guided.predict(&x, &at(4), Some(&some));
    assert_eq!(outside, network.predict(&x, &at(4), Some(&some)));

    // Another network that predicts v: eps = noise x_t + signal v.
    let guided = Guided::new(&network, Guidance::of_scale(2.0), Some(&other)).unwrap();
    let alpha_bar = network.schedule().alphas_cumprod[7];
    let v = other.predict(&x, &at(7), None);
    let eps = &x * (1.0 - alpha_bar).sqrt() + v * alpha_bar.sqrt();
    let want = &strong * 2.0 - eps;
    assert!(error(&guided.predict(&x, &at(7), Some(&some)), &want) < 1e-4);
    // And it guides networks without classes.
    assert!(Guided::new(&other, Guidance::of_scale(2.0), Some(&other)).is_ok());
    assert!(Guided::new(&other, Guidance::of_scale(2.0), None).is_err());

    let out = dir.path().join("x.png");
    sample(
        &run,
        &out,
        "-n 2 --guidance 2 --class dark --sampler dpmpp-2m --steps 4 --guide-with",
    )
    .arg(&weak)
    .assert()
    .success();
    if let ModelConfig::Unet(unet) = &network.config().model {
        assert!(unet.null_class);
    }
}

#[test]
fn a_network_without_classes_grows_them() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path(), &TWO);
    let [plain, grown] = ["plain", "grown"].map(|name| dir.path().join(name));
    train(&data, &plain, "--steps 2").assert().success();
    let mut command = ddpm();
    command
        .arg("train")
        .arg("--data")
        .arg(&data)
        .arg("--run")
        .arg(&grown);
    command.arg("--init-from").arg(&plain);
    command.args("--conditional --steps 3 --save-every 3 --device cpu --precision f32".split(' '));
    command
        .assert()
        .success()
        .stderr(contains("class_embedding.weight [3, 16] is new"));
    let network = Pretrained::load(&grown).unwrap();
    assert_eq!(network.config().model.classes(), Some(2));
    // It learned from both classes, and from none.
    let state = network.state_dict();
    let (_, rows) = state
        .iter()
        .find(|(name, _)| name == "class_embedding.weight")
        .unwrap();
    let largest = rows.abs().amax([1i64].as_slice(), false);
    assert!(f64::try_from(largest.narrow(0, 0, 2).min()).unwrap() > 0.0);
}
