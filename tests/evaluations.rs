//! Evaluations while training: their numbers, and what becomes of them when a run stops, goes on or ends early.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use assert_cmd::cargo::cargo_bin_cmd;
use ddpm::checkpoint::{BEST, Evaluations, RunFolder, read_checkpoint};
use ddpm::config::{
    EvaluationConfig, HoldOut, Metric, ModelConfig, OptimizerKind, Preset, RunConfig,
};
use ddpm::data;
use ddpm::device::{DeviceChoice, Precision, choose};
use ddpm::evaluate::bound::{Bound, BoundSettings, BoundSums};
use ddpm::evaluate::features::FeatureExtractor;
use ddpm::evaluate::features::random::RandomPyramid;
use ddpm::evaluate::loss_by_t::{LossByT, LossSums};
use ddpm::evaluate::moments::{Moments, Sums};
use ddpm::evaluate::sliced::{Patches, SlicedOptions, sliced};
use ddpm::evaluate::{Stored, frechet};
use ddpm::images::to_pixels;
use ddpm::pretrained::Pretrained;
use ddpm::report::{EvaluationMetrics, evaluations};
use ddpm::sample::SamplerKind;
use ddpm::train::{End, Observer, Reason, Start, Stop, train};
use tch::{Device, Kind, Tensor};

/// A network of 16 by 16 pixels that is trained in a second, on ten images of which three or so are held out.
fn tiny(metrics: &[Metric], every: u64) -> RunConfig {
    let mut config = Preset::Demo.config();
    if let ModelConfig::Unet(unet) = &mut config.model {
        (unet.height, unet.width) = (16, 16);
        (unet.base_width, unet.norm_groups, unet.multipliers) = (8, 2, vec![1]);
    }
    config.diffusion.timesteps = 8;
    config.data.builtin_images = 10;
    config.data.hold_out = Some(HoldOut::Number(3));
    (config.train.batch, config.train.steps) = (4, 6);
    config.train.save_every_steps = 100;
    config.sample.every_steps = 0;
    config.evaluation = Some(EvaluationConfig {
        metrics: metrics.to_vec(),
        images: 6,
        every_t: 2,
        steps: 3,
        ..EvaluationConfig::new(every)
    });
    config
}

fn start(config: &RunConfig, run: &Path) -> Start {
    let new = match run.join("config.toml").exists() {
        true => Start::resume(RunFolder::new(run.to_owned())).unwrap(),
        false => Start::new(config.clone()),
    };
    Start {
        folder: RunFolder::new(run.to_owned()),
        config: config.clone(),
        chosen: Some(choose(DeviceChoice::Cpu, Precision::F32, false).unwrap()),
        strict: true,
        ..new
    }
}

fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}.safetensors"))
}

fn lines(run: &Path) -> Vec<EvaluationMetrics> {
    evaluations(&run.join("metrics.jsonl")).unwrap()
}

fn state(run: &Path, step: u64) -> Evaluations {
    let meta = read_checkpoint(&checkpoint(run, step)).unwrap().meta;
    meta.history.evaluations.unwrap()
}

fn moments(images: &Tensor) -> Moments {
    let network = RandomPyramid::new(Device::Cpu).unwrap();
    let mut sums = Sums::new(network.dims() as i64);
    sums.add(&network.features(images).unwrap().pooled).unwrap();
    sums.moments().unwrap()
}

fn patches(images: &Tensor, seed: u64) -> Patches {
    let set = Stored {
        pixels: images.shallow_clone(),
        origin: String::new(),
        batch: images.size()[0],
    };
    let options = SlicedOptions {
        seed,
        ..SlicedOptions::default()
    };
    Patches::of(&set, &options).unwrap()
}

#[test]
fn values_are_those_of_the_library_for_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let all = [Metric::Fid, Metric::Loss, Metric::Bpd, Metric::Swd];
    let config = tiny(&all, 4);
    assert_eq!(train(start(&config, &run)).unwrap(), End::Finished);
    let found = lines(&run);
    assert_eq!([found[0].step, found[1].step], [4, 6]);
    assert_eq!(found.len(), 2);

    let mut network = Pretrained::load(checkpoint(&run, 6)).unwrap();
    network.set_precision(Precision::F32);
    let seed = config.train.seed;
    let (data, model) = (&config.data, &config.model);
    let loaded = data::load(data, model, seed, None, Device::Cpu, &|_, _| ()).unwrap();
    let held_out = loaded.held_out.unwrap();
    let real = held_out.pixels(0..held_out.len()).unwrap();
    let numbers: Vec<u64> = (0..held_out.len() as u64).collect();
    let x_0 = real.to_kind(Kind::Float) / 255.0 * 2.0 - 1.0;
    let denoiser = |x: &Tensor, t: &Tensor| network.predict(x, t, None);

    let loss = LossByT::new(&config.diffusion, 2, seed, Device::Cpu).unwrap();
    let mut losses = LossSums::new(&loss);
    losses.add(&loss.losses(&denoiser, &x_0, &numbers, &mut || ()).unwrap());
    let settings = BoundSettings {
        prediction: config.diffusion.prediction,
        sigma: config.sample.sigma,
        every: 2,
        seed,
    };
    let bound = Bound::new(&network.schedule(), settings, Device::Cpu).unwrap();
    let mut bounds = BoundSums::new(&bound);
    bounds.add(&bound.terms(&denoiser, &x_0, &numbers, &mut || ()).unwrap());
    let sampling = network.sampler(SamplerKind::DpmPp2mSde).steps(3).batch(4);
    let sampled = to_pixels(&sampling.sample_tensor(6, seed, &mut |_| ()).unwrap());
    let of_real = moments(&real);
    let root = frechet::sqrt(&of_real.cov).unwrap();
    let fid = frechet::distance(&moments(&sampled), &of_real, &root).unwrap();
    let swd = sliced(&patches(&sampled, seed), &patches(&real, seed)).unwrap();

    let wanted = [
        ("bpd", bounds.report().clipped.total.mean),
        ("fid", fid.distance),
        ("loss", losses.report(3 * 16 * 16).mean.mse.mean),
        ("swd", swd.mean),
    ];
    assert_eq!(found[1].evaluation.len(), 4);
    for ((name, value), (wanted_name, wanted)) in found[1].evaluation.iter().zip(wanted) {
        assert_eq!(name, wanted_name);
        // Other batches: other kernels, whose last bits differ.
        assert!(
            (value - wanted).abs() < 1e-4 * wanted.abs(),
            "{name}: {value}, {wanted}"
        );
    }
    // The first of the metrics decides.
    let fids = found.iter().map(|line| line.evaluation["fid"]);
    let best = fids.fold(f64::INFINITY, f64::min);
    assert_eq!(state(&run, 6).best, best);
}

/// Asks to stop after a step, or at the first network evaluation of the evaluation after it.
#[derive(Debug)]
struct StopsAt {
    stop: Stop,
    step: u64,
    in_evaluation: bool,
    now: AtomicU64,
}

impl Observer for StopsAt {
    fn step(&self, metrics: &ddpm::report::StepMetrics, _secs: f64) {
        self.now.store(metrics.step, Ordering::Relaxed);
        // It is heard of after the next step.
        if !self.in_evaluation && metrics.step + 1 == self.step {
            self.stop.ask();
        }
    }

    fn evaluating(&self, _done: u64, _total: u64) {
        if self.in_evaluation && self.now.load(Ordering::Relaxed) == self.step {
            self.stop.ask();
        }
    }
}

fn stopped_at(config: &RunConfig, run: &Path, step: u64, in_evaluation: bool) {
    let mut start = start(config, run);
    start.stop = Stop::default();
    start.observer = Arc::new(StopsAt {
        stop: start.stop.clone(),
        step,
        in_evaluation,
        now: AtomicU64::new(0),
    });
    let stopped = End::Stopped {
        reason: Reason::Asked,
        step,
    };
    assert_eq!(train(start).unwrap(), stopped);
}

#[test]
fn a_run_that_was_stopped_has_the_same_evaluations_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    let mut config = tiny(&[Metric::Loss, Metric::Fid], 3);
    config.train.steps = 10;
    train(start(&config, &whole)).unwrap();
    // At a step that is to be evaluated; in an evaluation; between two.
    stopped_at(&config, &parts, 3, false);
    assert_eq!(lines(&parts), []);
    stopped_at(&config, &parts, 6, true);
    assert_eq!(lines(&parts), lines(&whole)[..1]);
    assert_eq!(state(&parts, 6).last, 3);
    stopped_at(&config, &parts, 8, false);
    assert_eq!(lines(&parts), lines(&whole)[..2]);
    assert_eq!(train(start(&config, &parts)).unwrap(), End::Finished);
    assert_eq!(lines(&parts).len(), 4);
    assert_eq!(lines(&parts), lines(&whole));
    let bytes = |run: &Path| std::fs::read(checkpoint(run, 10)).unwrap();
    assert!(bytes(&parts) == bytes(&whole));
    let best = state(&whole, 10).best_step;
    let link = |run: &Path| std::fs::read_link(run.join("checkpoints").join(BEST)).unwrap();
    assert_eq!(
        link(&whole),
        Path::new(&format!("step-{best:08}.safetensors"))
    );
    assert_eq!(link(&parts), link(&whole));
}

#[test]
fn an_evaluation_whose_state_was_not_saved_is_taken_from_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let config = tiny(&[Metric::Loss], 2);
    stopped_at(&config, &run, 2, false);
    // As if killed between the line and the checkpoint.
    let path = run.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = "{\"step\":2,\"evaluation\":{\"loss\":0.0625}}\n";
    std::fs::write(&path, text + line).unwrap();
    train(start(&config, &run)).unwrap();
    let found = lines(&run);
    let steps: Vec<u64> = found.iter().map(|line| line.step).collect();
    assert_eq!(
        (steps, found[0].evaluation["loss"]),
        (vec![2, 4, 6], 0.0625)
    );
    assert_eq!(state(&run, 6).best, 0.0625);
}

/// Settings with which a network stays what it is, so that its first evaluation is the best.
fn still(patience: Option<u64>) -> RunConfig {
    let mut config = tiny(&[Metric::Loss], 1);
    config.optim.optimizer = OptimizerKind::Adam;
    (config.optim.lr, config.optim.ema) = (1e-30, 0.0);
    config.optim.lr_schedule = vec![(0, 1.0)];
    (config.train.save_every_steps, config.train.keep) = (1, 1);
    config.evaluation.as_mut().unwrap().patience = patience;
    config
}

fn checkpoints(run: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(run.join("checkpoints")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_best_step_is_kept_and_patience_ends_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let kept = |newest: u64| {
        let newest = format!("step-{newest:08}.safetensors");
        [
            "best.safetensors",
            "latest",
            "step-00000001.best.pin",
            "step-00000001.safetensors",
            &newest,
        ]
        .map(str::to_owned)
    };
    // Again and again, as it has not become better.
    for _ in 0..2 {
        let end = train(start(&still(Some(2)), &run)).unwrap();
        assert_eq!(end, End::NoLongerBetter { step: 3 });
        assert_eq!(
            (checkpoints(&run), lines(&run).len()),
            (kept(3).to_vec(), 3)
        );
    }
    let end = train(start(&still(Some(4)), &run)).unwrap();
    assert_eq!(end, End::NoLongerBetter { step: 5 });
    assert_eq!(train(start(&still(None), &run)).unwrap(), End::Finished);
    assert_eq!(checkpoints(&run), kept(6));
    let best = Pretrained::load(run.join("checkpoints").join(BEST)).unwrap();
    assert_eq!(best.meta.step, 1);
    let log = std::fs::read_to_string(run.join("log.txt")).unwrap();
    for said in [
        "ended at step 3: no better value in 2 evaluations since step 1",
        "% of the time: ",
        "kept as ",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
}

#[test]
fn another_measure_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut config = still(None);
    config.train.steps = 2;
    train(start(&config, &run)).unwrap();
    assert_eq!(state(&run, 2).best_step, 1);
    config.train.steps = 3;
    config.evaluation.as_mut().unwrap().metrics = vec![Metric::Bpd];
    train(start(&config, &run)).unwrap();
    let now = state(&run, 3);
    assert_eq!((now.best_step, now.since), (3, 0));
    assert_eq!(now.best, lines(&run).last().unwrap().evaluation["bpd"]);
    assert!(!checkpoints(&run).contains(&"step-00000001.best.pin".to_owned()));
    // And a run that was never evaluated has no trace of it.
    config.evaluation = None;
    let other = dir.path().join("other");
    train(start(&config, &other)).unwrap();
    let text = std::fs::read(checkpoint(&other, 3)).unwrap();
    let head = String::from_utf8_lossy(&text[..8000]);
    assert!(
        head.contains("lr_factor") && !head.contains("evaluation"),
        "{head}"
    );
    assert_eq!(checkpoints(&other), ["latest", "step-00000003.safetensors"]);
}

/// The end of `ddpm train` with these flags.
fn program(run: &Path, flags: &str) -> (Option<i32>, String) {
    let mut command = cargo_bin_cmd!("ddpm");
    let tiny = "train --preset demo --size 16 --base-width 8 --norm-groups 2 --multipliers 1 --timesteps 4 \
                --builtin-images 10 --batch 4 --sample-every 0 --device cpu --threads 1 --run";
    command.args(tiny.split_whitespace()).arg(run);
    let out = command.args(flags.split_whitespace()).output().unwrap();
    (
        out.status.code(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    )
}

#[test]
fn the_program_ends_early_in_success_and_refuses_what_cannot_be_measured() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let (code, said) = program(
        &run,
        "--steps 9 --hold-out 3 --evaluate-every 1 --evaluate-images 4 --patience 2 --lr 1e-30 --ema 0 \
         --optimizer adam --lr-schedule 0:1",
    );
    assert_eq!(code, Some(0), "{said}");
    for wanted in [
        "raise --patience to go on",
        "best step: 1 with ",
        "3 steps done, ",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    for (flags, wanted) in [
        ("--evaluate-every 2", "hold some out with --hold-out"),
        (
            "--evaluate-every 2 --evaluate-metrics fid,bpd",
            "(--evaluate-metrics)",
        ),
        ("--patience 2", "give --evaluate-every N too"),
    ] {
        let (code, said) = program(&dir.path().join("new"), &format!("--steps 9 {flags}"));
        assert!(code != Some(0) && said.contains(wanted), "{flags}: {said}");
    }
}
