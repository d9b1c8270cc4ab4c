//! Checkpoints of other programs, one small random model each (weights/README.md says how they were made):
//! the network's output agrees with theirs, and a round trip keeps every bit.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::{Golden, max_abs, repo};
use ddpm::checkpoint::{AttentionOrder, Family};
use ddpm::checkpoint::{Contents, Weights, read_checkpoint, write_checkpoint};
use ddpm::config::{ModelKind, Prediction, ScheduleKind, Sigma};
use ddpm::diffusion::Schedule;
use ddpm::formats::safetensors;
use ddpm::formats::weights_file::{Node, WeightsFile};
use ddpm::interop::{Foreign, Hints, MissingHint, Request, in_layout};
use ddpm::model::Model;
use ddpm::sample::{Ddpm, Process, Respaced, ddpm};
use tch::{Kind, Tensor};

/// Largest difference from the program's own output, relative to its largest value. Both compute in f32
/// with other kernels and orders of summation; an implementation in f64 is some 3e-6 away from both.
const TOLERANCE: f64 = 2e-5;

fn peer(name: &str) -> PathBuf {
    repo("weights/peers").join(name)
}

fn openai() -> Hints {
    Hints {
        attention_order: Some(AttentionOrder::Legacy),
        schedule: Some(ScheduleKind::Linear),
        timesteps: Some(1000),
        ..sized()
    }
}

fn sized() -> Hints {
    Hints {
        image_size: Some((16, 16)),
        ..Hints::default()
    }
}

struct Case {
    family: Family,
    file: &'static str,
    /// Path of the network in the file, keys joined by dots.
    key: &'static str,
    io: &'static str,
    hints: Hints,
}

fn cases() -> Vec<Case> {
    let case = |family, file, key, io, hints| Case {
        family,
        file,
        key,
        io,
        hints,
    };
    vec![
        case(
            Family::Diffusers,
            "diffusers",
            "",
            "diffusers",
            Hints::default(),
        ),
        case(
            Family::Pesser,
            "pesser.ckpt",
            "",
            "pesser",
            Hints {
                sigma: Some(Sigma::Beta),
                ..sized()
            },
        ),
        case(
            Family::W86763777,
            "w86763777.pt",
            "ema_model",
            "w86763777",
            Hints::default(),
        ),
        case(
            Family::Openai,
            "improved_ema_0.9999_000001.pt",
            "",
            "improved",
            Hints {
                num_heads: Some(4),
                ..openai()
            },
        ),
        case(
            Family::Openai,
            "guided.pt",
            "",
            "guided",
            Hints {
                head_channels: Some(16),
                ..openai()
            },
        ),
        case(
            Family::Lucidrains,
            "lucidrains-model-1.pt",
            "ema.ema_model.model",
            "lucidrains",
            sized(),
        ),
    ]
}

fn examine(case: &Case) -> Foreign {
    let request = Request {
        hints: case.hints.clone(),
        ..Request::default()
    };
    let foreign = Foreign::examine(&peer(case.file), &request).unwrap();
    assert_eq!(foreign.family, case.family, "{}", case.file);
    foreign
}

fn error_against(net: &Model, io: &str) -> f64 {
    error_of(net, io, "out")
}

fn error_of(net: &Model, io: &str, wanted: &str) -> f64 {
    let io = safetensors::open(&peer(&format!("{io}.io.safetensors"))).unwrap();
    let find = |name: &str| io.tensors.iter().find(|(n, _)| n == name);
    let get = |name: &str| find(name).unwrap().1.copy();
    let (want, classes) = (get(wanted), find("classes").map(|(_, c)| c.copy()));
    let out = tch::no_grad(|| net.forward(&get("x"), &get("t"), classes.as_ref(), false));
    assert_eq!(out.size(), want.size());
    f64::try_from((out - &want).abs().max() / want.abs().max()).unwrap()
}

#[test]
fn every_program_s_network_computes_what_it_should() {
    for case in cases() {
        let net = examine(&case).network().unwrap();
        let error = error_against(&net, case.io);
        assert!(error < TOLERANCE, "{}: {error:e}", case.file);
        println!("{}: {error:.1e}", case.file);
    }
}

/// The program's own images, drawn from the same noise by its own sampler.
#[test]
fn images_from_the_same_noise_are_the_same() {
    for case in cases() {
        let io = safetensors::open(&peer(&format!("{}.io.safetensors", case.io))).unwrap();
        let find = |name: &str| io.tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t);
        let (Some(noise), Some(images)) = (find("noise"), find("pictures")) else {
            continue;
        };
        let foreign = examine(&case);
        let (net, config) = (foreign.network().unwrap(), foreign.config().unwrap());
        let steps = Respaced::all(&Schedule::new(&config.diffusion));
        let denoiser = |x: &Tensor, t: &Tensor| net.forward(x, t, None, false);
        let process = Process::new(&denoiser, &steps, &config.diffusion, config.sample.clip_x0);
        let out = ddpm(
            &process,
            Ddpm::new(&config.sample),
            noise.get(0),
            &mut |k| noise.get(k as i64),
            &mut |_| (),
        );
        let error = (out.clamp(-1.0, 1.0) - images).abs().max();
        // They keep their tables in f32: an eighth of a grey level.
        assert!(f64::try_from(error).unwrap() < 1e-3, "{}", case.file);
    }
}

/// All tensors at a place in a file, under their keys there.
fn tensors_at(path: &str, key: &str) -> BTreeMap<String, Tensor> {
    let path = match path {
        "diffusers" => peer("diffusers/unet/diffusion_pytorch_model.safetensors"),
        path => peer(path),
    };
    let file = WeightsFile::open(&path).unwrap();
    let (group, prefix) = match key.strip_prefix("ema.") {
        Some(prefix) => (file.root.get("ema").unwrap(), format!("{prefix}.")),
        None => (file.root.at(key).unwrap(), String::new()),
    };
    let Node::Group(entries) = group else {
        panic!("{path:?} holds no dict at {key}");
    };
    let read = |(name, node): &(String, Node)| match node {
        Node::Tensor(slot) => {
            let name = name.strip_prefix(&prefix)?.to_owned();
            Some((name.clone(), file.tensor(&name, slot).unwrap()))
        }
        _ => None,
    };
    entries.iter().filter_map(read).collect()
}

#[test]
fn there_and_back_every_bit_is_the_same() {
    for case in cases() {
        let foreign = examine(&case);
        let weights: Vec<_> = foreign
            .network()
            .unwrap()
            .params()
            .into_iter()
            .map(|p| (p.name, p.tensor))
            .collect();
        let back = in_layout(case.family, &foreign.meta().unwrap(), &weights).unwrap();
        let back: BTreeMap<String, Tensor> = back.into_iter().collect();
        let original = tensors_at(case.file, case.key);
        let keys = |map: &BTreeMap<String, Tensor>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&back), keys(&original), "{}", case.file);
        for (key, theirs) in &original {
            let ours = &back[key];
            assert_eq!(ours.size(), theirs.size(), "{} {key}", case.file);
            // guided.pt holds f16, which f32 represents exactly.
            assert_eq!(*ours, theirs.to_kind(ours.kind()), "{} {key}", case.file);
        }
    }
}

/// Keras-DDPM's three networks: the golden numbers of each, and the side of its images.
const KERAS: [(&str, i64); 3] = [("keras_C", 16), ("keras_Dt", 16), ("keras_G", 32)];

fn examine_keras(name: &str, side: i64) -> Foreign {
    let request = Request {
        hints: Hints {
            image_size: Some((side, side)),
            ..Hints::default()
        },
        ..Request::default()
    };
    let foreign = Foreign::examine(&peer(&format!("{name}_model.weights")), &request).unwrap();
    assert_eq!(foreign.family, Family::KerasDdpm);
    foreign
}

#[test]
fn keras_weights_become_the_golden_ones() {
    for (name, side) in KERAS {
        let foreign = examine_keras(name, side);
        let golden = Golden::open(name);
        let config = foreign.config().unwrap();
        assert_eq!(config.model, golden.config());
        assert_eq!(config.diffusion.schedule, ScheduleKind::KerasDdpm);
        assert_eq!(
            (config.sample.sigma, config.sample.last_noise),
            (Sigma::Beta, true)
        );
        let net = foreign.network().unwrap();
        let params = net.params();
        assert_eq!(params.len(), golden.section("w.").len());
        for p in params {
            assert_eq!(
                p.tensor.detach(),
                *golden.get(&format!("w.{}", p.name)),
                "{name} {}",
                p.name
            );
        }
        let y = tch::no_grad(|| net.forward(golden.get("x"), golden.get("t"), None, false));
        // The original in f32 differs from itself in f64 by up to 4.6e-6.
        let error = max_abs(&y, golden.get("y"));
        assert!(error <= 2e-5, "{name}: {error}");
    }
}

#[test]
fn keras_weights_there_and_back() {
    for (name, side) in KERAS {
        let foreign = examine_keras(name, side);
        let params = foreign.network().unwrap().params().into_iter();
        let weights: Vec<_> = params.map(|p| (p.name, p.tensor)).collect();
        let back = in_layout(Family::KerasDdpm, &foreign.meta().unwrap(), &weights).unwrap();
        let file = WeightsFile::open(&peer(&format!("{name}_model.weights"))).unwrap();
        let Node::Group(entries) = &file.root else {
            panic!("{name} is no dict");
        };
        assert_eq!(back.len(), entries.len(), "{name}");
        for (key, ours) in &back {
            let Some(Node::Tensor(slot)) = file.root.get(key) else {
                panic!("{name} has no {key}");
            };
            let theirs = file.tensor(key, slot).unwrap();
            if name == "keras_Dt" && key.starts_with("embedding") {
                // Its sines and cosines are computed anew; f32 angles of up to 999 are 6e-5 off.
                assert!(max_abs(ours, &theirs) < 1e-4);
            } else {
                assert_eq!(*ours, theirs, "{name} {key}");
            }
        }
    }
}

#[test]
fn settings_are_the_families_own() {
    let settings: BTreeMap<&str, _> = cases()
        .iter()
        .map(|case| (case.io, examine(case).config().unwrap()))
        .collect();
    let told = |name: &str| {
        let c = &settings[name];
        let chosen = (c.diffusion.schedule, c.diffusion.prediction, c.sample.sigma);
        (chosen, c.sample.clip_x0)
    };
    use {Prediction::Eps, ScheduleKind::Linear};
    assert_eq!(told("pesser"), ((Linear, Eps, Sigma::Beta), true));
    // Its sampler computes the mean from x_0 before clipping.
    // Its linear betas do not scale with T, which is 100 here.
    assert_eq!(
        told("w86763777"),
        ((ScheduleKind::Explicit, Eps, Sigma::Beta), false)
    );
    let betas = &settings["w86763777"].diffusion.betas;
    assert_eq!((betas.len(), betas[0], betas[99]), (100, 1e-4, 0.02));
    assert_eq!(told("improved"), ((Linear, Eps, Sigma::Learned), true));
    assert_eq!(told("guided"), ((Linear, Eps, Sigma::Learned), true));
    assert_eq!(
        told("diffusers").0,
        (ScheduleKind::Cosine, Eps, Sigma::Beta)
    );
    let (schedule, prediction, sigma) = told("lucidrains").0;
    assert_eq!((schedule, sigma), (ScheduleKind::Sigmoid, Sigma::Posterior));
    assert_eq!(prediction, Prediction::V);
    assert!(settings.values().all(|c| !c.sample.last_noise));
    assert_eq!(settings["lucidrains"].model.kind(), ModelKind::Lucidrains);
}

#[test]
fn an_imported_file_needs_no_hints_again() {
    let dir = tempfile::tempdir().unwrap();
    for case in cases() {
        let foreign = examine(&case);
        let net = foreign.network().unwrap();
        let weights: Vec<_> = net
            .params()
            .into_iter()
            .map(|p| (p.name, p.tensor))
            .collect();
        let path = dir.path().join("imported.safetensors");
        write_checkpoint(&path, &foreign.meta().unwrap(), &weights).unwrap();
        let read = read_checkpoint(&path).unwrap();
        assert_eq!(read.meta.origin.as_ref().unwrap().family, case.family);
        let again = Model::new(
            &read.meta.config.model,
            read.meta.config.diffusion.timesteps,
            1,
        );
        let state = read.weights(Weights::Ema).unwrap();
        ddpm::model::load_state_dict(&again.params(), &state).unwrap();
        assert!(error_against(&again, case.io) < TOLERANCE);
        let averaged = matches!(case.family, Family::W86763777 | Family::Lucidrains);
        assert_eq!(read.meta.contents == Contents::EmaWeights, averaged);
    }
}

#[test]
fn what_a_file_does_not_say_is_asked_for_by_name() {
    let asked = |file: &str| {
        let foreign = Foreign::examine(&peer(file), &Request::default()).unwrap();
        let error = foreign.config().unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
        let missing = &foreign.report.missing;
        let settings: Vec<String> = missing.iter().map(MissingHint::setting).collect();
        assert!(
            settings.iter().all(|s| error.contains(s.as_str())),
            "{error}"
        );
        settings.join(" ")
    };
    let improved = asked("improved_ema_0.9999_000001.pt");
    for setting in [
        "num_heads",
        "attention_order",
        "schedule",
        "timesteps",
        "image_size",
    ] {
        assert!(improved.contains(setting), "{improved}");
    }
    assert!(asked("pesser.ckpt").contains("sigma"));
    assert!(asked("lucidrains-model-1.pt").contains("image_size"));
    assert!(asked("keras_C_model.weights").contains("image_size"));
}

#[test]
fn raw_weights_and_keys_choose_among_networks() {
    let open_file = |file: &str, raw, key: Option<&str>| {
        let request = Request {
            raw,
            key: key.map(str::to_owned),
            hints: sized(),
            ..Request::default()
        };
        Foreign::examine(&peer(file), &request)
    };
    for (file, io) in [
        ("w86763777.pt", "w86763777"),
        ("lucidrains-model-1.pt", "lucidrains"),
    ] {
        let net = open_file(file, true, None).unwrap().network().unwrap();
        assert!(error_of(&net, io, "out_raw") < TOLERANCE, "{file}");
    }
    let open = |raw, key| open_file("w86763777.pt", raw, key);
    let weights = |foreign: Foreign| {
        let first = foreign.network().unwrap().params().remove(0).tensor;
        first.detach().to_kind(Kind::Double)
    };
    let (ema, raw) = (
        weights(open(false, None).unwrap()),
        weights(open(true, None).unwrap()),
    );
    assert_ne!(ema, raw);
    assert_eq!(raw, weights(open(false, Some("net_model")).unwrap()));
    let error = format!("{:#}", open(false, Some("nothing")).unwrap_err());
    assert!(
        error.contains("ema_model") && error.contains("net_model"),
        "{error}"
    );
}
