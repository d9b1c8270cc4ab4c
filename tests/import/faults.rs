//! Files of other programs that were once misread: wrappers, averages, objects beside the weights, values that are not
//! finite.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ddpm::formats::{read_state_dict, safetensors, write_state_dict};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use tch::{Kind, Tensor};

use super::{ddpm, peer, repo};

fn fault(name: &str) -> PathBuf {
    repo("tests/faults").join(name)
}

fn run(command: &str, file: &Path, flags: &str) -> Command {
    let mut program = ddpm();
    program
        .arg(command)
        .arg(file)
        .args(flags.split_whitespace());
    program
}

const DIFFUSERS: &str = "--schedule linear --timesteps 1000 --prediction eps --sigma posterior";
const LDM: &str = "--head-channels 16 --attention-order legacy --image-size 16 --schedule linear --timesteps 1000";

#[test]
fn a_diffusers_folder_is_read_in_any_wrapping() {
    for place in [
        "diffusers-module-prefix",
        "diffusers-module-prefix/diffusion_pytorch_model.bin",
        "diffusers-nested",
        "diffusers-nested/ck.pt",
    ] {
        let import = run("import", &fault(place), DIFFUSERS).assert().success();
        let path = if place.contains("nested") {
            "model"
        } else {
            "module"
        };
        import.stderr(contains("142 tensors").and(contains(format!("weights at: {path} "))));
    }
    let keyed = |key: &str| {
        run("import", &fault("diffusers-nested"), DIFFUSERS)
            .args(["--key", key])
            .assert()
    };
    keyed("model").success();
    let listed = contains("key = \"nothing\"").and(contains("key = \"model\""));
    keyed("nothing").failure().code(1).stderr(listed);
}

#[test]
fn the_average_of_latent_diffusion_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let file = fault("ldm-ema/ldm.ckpt");
    let first = |flags: &str| {
        let to = dir.path().join("ldm.safetensors");
        let mut import = run("import", &file, LDM);
        import.args(flags.split_whitespace()).arg("--force");
        import.arg("--to").arg(&to);
        let said = import.assert().success().get_output().stderr.clone();
        let weights = ddpm::checkpoint::read_checkpoint(&to).unwrap().tensors;
        let (_, weight) = weights
            .into_iter()
            .find(|(name, _)| name == "conv_in.weight")
            .unwrap();
        (String::from_utf8(said).unwrap(), weight.copy())
    };
    let theirs = ddpm::formats::weights_file::WeightsFile::open(&file).unwrap();
    let of = |name: &str| {
        let slot = match theirs.root.at(&format!("state_dict.{name}")) {
            Some(ddpm::formats::weights_file::Node::Tensor(slot)) => slot,
            other => panic!("no tensor {name}: {other:?}"),
        };
        theirs.tensor(name, slot).unwrap().to_kind(Kind::Float)
    };
    let (said, average) = first("");
    assert!(said.contains("weights at: state_dict.model_ema"), "{said}");
    assert!(said.contains("average: taken"), "{said}");
    assert_eq!(average, of("model_ema.diffusion_modelinput_blocks00weight"));
    for flags in ["--raw", "--key state_dict.model.diffusion_model"] {
        let (said, raw) = first(flags);
        assert!(
            said.contains("average: passed over, at state_dict.model_ema"),
            "{said}"
        );
        assert_eq!(raw, of("model.diffusion_model.input_blocks.0.0.weight"));
    }
}

#[test]
fn weights_beside_objects_are_read_and_the_objects_shown() {
    for (file, object) in [
        ("MultiStepLR.pt", "other.milestones: collections.Counter"),
        ("numpy-scalar.pt", "other: numpy._core.multiarray.scalar"),
        ("set.pt", "other: builtins.set"),
    ] {
        let inspect = run("inspect", &fault("side-objects").join(file), "")
            .assert()
            .success();
        inspect.stdout(contains(object).and(contains("108 tensors")));
    }
}

#[test]
fn objects_of_every_kind_in_every_protocol_are_names_beside_the_weights() {
    for protocol in 2..=5 {
        let file = fault(&format!("side-objects/protocol-{protocol}.pt"));
        let output = run("inspect", &file, "--json")
            .assert()
            .success()
            .get_output()
            .stdout
            .clone();
        let told: serde_json::Value = serde_json::from_slice(&output).unwrap();
        let tensors = told["tensors"].as_array().unwrap();
        let has = |name: &str| tensors.iter().any(|tensor| tensor["name"] == name);
        // Weights, a parameter with attributes, and what an OrderedDict's subclass holds.
        assert!(
            ["model.0.weight", "model.1.bias", "attributes", "my_dict.a"]
                .iter()
                .all(|n| has(n))
        );
        assert!(
            !tensors
                .iter()
                .any(|tensor| tensor["name"].as_str().unwrap().contains("stateful"))
        );
        let objects = told["objects"].as_array().unwrap();
        let class = |key: &str| {
            let object = objects.iter().find(|object| object[0] == key);
            object.map_or("", |object| object[1].as_str().unwrap())
        };
        for (key, wanted) in [
            ("counter", "collections.Counter"),
            ("scheduler.milestones", "collections.Counter"),
            ("numpy_float64", "numpy._core.multiarray.scalar"),
            ("numpy_array", "numpy.ndarray"),
            ("dtype", "torch.float16"),
            ("device", "torch.device"),
            ("complex", "torch.ComplexFloatStorage"),
            ("deque", "collections.deque"),
            ("point", "__main__.Point"),
            ("namespace", "argparse.Namespace"),
            ("path", "pathlib.PurePosixPath"),
            ("datetime", "datetime.datetime"),
            ("fraction", "fractions.Fraction"),
            ("enum", "__main__.Colour"),
            ("plain", "__main__.Plain"),
            ("slots", "__main__.Slots"),
            ("stateful", "__main__.Stateful"),
            ("partial", "functools.partial"),
            ("function", "torch.nn.functional.relu"),
            ("module", "torch.nn.modules.linear.Linear"),
        ] {
            assert_eq!(class(key), wanted, "protocol {protocol}: {key}");
        }
        for (key, wanted) in [
            ("set", "set"),
            ("frozenset", "frozenset"),
            ("big", "int"),
            ("huge", "int"),
        ] {
            assert!(
                class(key).ends_with(wanted),
                "protocol {protocol}: {key} {}",
                class(key)
            );
        }
        let top = told["top_level"].to_string();
        for plain in [
            "[\"step\",\"int 5\"]",
            "[\"long\",\"int 1099511627776\"]",
            "[\"size\",\"tuple of 2\"]",
        ] {
            assert!(top.contains(plain), "{top}");
        }
    }
}

#[test]
fn weights_that_are_in_an_object_are_refused_by_its_name() {
    let file = fault("side-objects/in-an-object.pt");
    let import = run("import", &file, "").assert().failure().code(1);
    let named = contains("ema (torch.nn.modules.linear.Linear)");
    import.stderr(contains("no weights of a known network").and(named));
}

/// A U-Net's folder in which the first values of the tensors `names` are `value`.
fn with_values(dir: &Path, names: &[&str], value: f64) -> PathBuf {
    let folder = dir.join("unet-folder");
    std::fs::create_dir_all(&folder).unwrap();
    let from = peer("diffusers");
    for (file, to) in [
        ("unet/config.json", "config.json"),
        ("scheduler/scheduler_config.json", "scheduler_config.json"),
    ] {
        std::fs::copy(from.join(file), folder.join(to)).unwrap();
    }
    let mut state =
        read_state_dict(&from.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    for (key, tensor) in &mut state {
        *tensor = tensor.copy();
        if names.contains(&key.as_str()) {
            let _ = tensor.view([-1]).get(0).fill_(value);
        }
    }
    write_state_dict(&folder.join("diffusion_pytorch_model.bin"), &state).unwrap();
    folder
}

#[test]
fn weights_that_are_not_finite_are_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = fault("diffusers-nan");
    let image = repo("docs/demo.png").display().to_string();
    let out = |name: &str| dir.path().join(name).display().to_string();
    for (command, flags) in [
        ("sample", format!("-n 1 --out {}", out("x.png"))),
        ("invert", format!("{image} --out {}", out("x.png"))),
        (
            "interpolate",
            format!("{image} {image} --out {}", out("x.png")),
        ),
        (
            "interpolate",
            format!("--latent --sampler ddim --steps 2 --out {}", out("x.png")),
        ),
        ("encode", format!("{image} --out {}", out("x.ddcm"))),
        ("import", format!("--to {}", out("x.safetensors"))),
        ("export", format!("--to {}", out("x.pt"))),
        (
            "predict",
            format!("--input {image} --output {}", out("x.safetensors")),
        ),
    ] {
        let failed = run(command, &file, &flags).assert().failure().code(1);
        failed.stderr(contains(
            "tensor conv_in.weight is not finite: 1 of its 216 values is NaN or infinite",
        ));
    }
    let mut train = ddpm();
    train
        .args(["train", "--init-from"])
        .arg(&file)
        .arg("--run")
        .arg(dir.path().join("run"));
    let failed = train
        .args(["--builtin-images", "2"])
        .assert()
        .failure()
        .code(1);
    failed.stderr(contains("tensor conv_in.weight is not finite"));
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.iter().all(|name| name == "run"), "{left:?}");
    // Looking at it is no use of it.
    let inspect = run("inspect", &file, "").assert().success();
    inspect.stdout(contains("not finite").and(contains("conv_in.weight: 1\n")));
}

#[test]
fn a_network_that_overflows_is_told_with_the_first_time_step() {
    let dir = tempfile::tempdir().unwrap();
    // Finite weights, whose product is not.
    let folder = with_values(dir.path(), &["conv_norm_out.bias", "conv_out.weight"], 3e38);
    let out = dir.path().join("x.png");
    let sample = |flags: &str| {
        let mut sample = run("sample", &folder, "-n 1 --sampler ddim --steps 3 --out");
        sample.arg(&out).args(flags.split_whitespace()).assert()
    };
    let named = contains("the network's output is not finite").and(contains("evaluation 1, "));
    sample("")
        .failure()
        .code(1)
        .stderr(named.and(contains("--precision f32")));
    assert!(!out.exists());
    let input = dir.path().join("in.safetensors");
    let about = || ("about".to_owned(), String::new());
    let size = [2, 3, 16, 16];
    let tensors = [
        (
            "x".to_owned(),
            Tensor::ones(size, (Kind::Float, tch::Device::Cpu)),
        ),
        ("t".to_owned(), Tensor::from_slice(&[5i64, 7])),
    ];
    safetensors::write(&input, about(), &tensors).unwrap();
    let mut predict = run("predict", &folder, "--input");
    predict
        .arg(&input)
        .arg("--output")
        .arg(dir.path().join("out.safetensors"));
    predict
        .assert()
        .failure()
        .stderr(contains("not finite").and(contains("image 0, at time step 5")));
}
