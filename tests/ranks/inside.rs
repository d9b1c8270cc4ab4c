//! Ranks as threads of this process: what only the library shows.

use std::sync::Arc;
use std::time::Duration;

use ddpm::checkpoint::RunFolder;
use ddpm::config::{ModelConfig, OnBadStep, Preset, RunConfig};
use ddpm::device::{DeviceChoice, Precision, choose};
use ddpm::distributed::{Group, Launcher, Place, Reduce, Reducer};
use ddpm::native::CpuTally;
use ddpm::train::{End, Observer, Reason, Start, Stop, train};
use tch::{Device, Kind, Tensor};

use super::team::free_port;

/// What two ranks come to.
fn two<T: Send>(work: impl Fn(&Arc<Group>) -> T + Sync) -> Vec<T> {
    let port = free_port();
    let rank = |rank: u32| {
        let place = Place {
            launcher: Launcher::Environment,
            rank,
            size: 2,
            local_rank: rank,
            master: "127.0.0.1".to_owned(),
            port,
            by_agent: false,
            serves: rank == 0,
            attempt: 0,
        };
        let limit = Duration::from_secs(30);
        let group = Group::join(place, limit, Device::Cpu, &|_| ()).unwrap();
        let result = work(&group);
        group.leave();
        result
    };
    std::thread::scope(|scope| {
        let ranks = [0, 1].map(|number| scope.spawn(move || rank(number)));
        ranks.map(|rank| rank.join().unwrap()).into()
    })
}

#[test]
fn what_adding_up_gradients_takes_is_estimated() {
    const VALUES: u64 = 3 << 20;
    let like = (Kind::Float, Device::Cpu);
    let peak = |group: &Arc<Group>, reduce| {
        let half = VALUES as i64 / 2;
        let grads = Tensor::zeros([2 * half], like);
        let weights = [0, half].map(|_| Tensor::zeros([half], like).set_requires_grad(true));
        let tally = CpuTally::begin().unwrap();
        let group = Arc::clone(group);
        let reducer = Reducer::new(group, reduce, &grads, &weights, &[0, half]).unwrap();
        reducer.before_round(true).unwrap();
        let losses = reducer.after_round(Tensor::zeros([1], like)).unwrap();
        let _ = reducer
            .finish(Tensor::stack(&losses, 0).sum(Kind::Float))
            .unwrap();
        tally.now_and_peak_bytes().1 as u64
    };
    for reduce in [Reduce::F32, Reduce::Bf16, Reduce::Ordered] {
        let estimate = reduce.bytes(VALUES, 2);
        for peak in two(|group| peak(group, reduce)) {
            assert!(
                peak.abs_diff(estimate) < 1 << 16,
                "{reduce}: {peak}, estimated {estimate}"
            );
        }
    }
}

/// Asks to stop when all is ready for the first step.
#[derive(Debug)]
struct StopsAtOnce(Stop);

impl Observer for StopsAtOnce {
    fn training(&self, _step: u64, _steps: u64) {
        self.0.ask();
    }
}

fn tiny_that_goes_back() -> RunConfig {
    let mut config = Preset::Demo.config();
    if let ModelConfig::Unet(unet) = &mut config.model {
        (unet.height, unet.width) = (8, 8);
        (unet.base_width, unet.norm_groups, unet.multipliers) = (8, 2, vec![1]);
    }
    config.data.builtin_images = 4;
    (config.train.batch, config.train.steps) = (2, 3);
    config.train.on_bad_step = OnBadStep::Rollback;
    config.sample.every_steps = 0;
    config
}

#[test]
fn a_stop_before_the_first_step_finds_what_rank_0_has_saved_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = RunFolder::new(dir.path().join("run"));
    let ends = two(|group| {
        let mut start = Start::new(tiny_that_goes_back());
        if !group.leads() {
            start.observer = Arc::new(StopsAtOnce(start.stop.clone()));
        }
        start.folder = folder.clone();
        start.group = Some(Arc::clone(group));
        let chosen = choose(DeviceChoice::Cpu, Precision::F32, false);
        start.chosen = Some(chosen.unwrap());
        train(start).unwrap()
    });
    let stopped = End::Stopped {
        reason: Reason::Asked,
        step: 0,
    };
    assert_eq!(ends, [stopped; 2]);
    assert!(folder.dir().join("checkpoints/latest").exists());
}
