//! The layout of a run's maps on CUDA (`train.layout`): measured on the device at hand, where nothing else decides.

use std::time::{Duration, Instant};

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::memory::{Fit, OutOfMemory};
use super::{Start, Stop, Trainer, plan};
use crate::config::{MapLayout, ModelKind, RunConfig};
use crate::data::Store;
use crate::device::{Chosen, synchronize};
use crate::memory::{catch_shortage, return_cached};

/// Steps before those that are timed: cuDNN looks for its fastest kernels in the first.
const WARM_UP: usize = 3;
/// Steps that are timed, unless patience runs out.
const TIMED: usize = 5;
/// Time for the steps of one layout, after which the one that is timed is the last.
const PATIENCE: Duration = Duration::from_secs(10);
/// A run of fewer steps would spend a good part of its time here.
const FEWEST_STEPS: u64 = 200;
/// Share of nchw's time that nhwc must save to be chosen: less is within what two timings differ by.
const WORTH_IT: f64 = 0.03;

/// Chooses the layout of a new run on CUDA that names none: nhwc if it is clearly faster than nchw. A run that has a
/// checkpoint keeps what it has; a short one takes nchw, and so do one that is to give the same bits every time and a
/// network without convolutions.
///
/// What is timed are networks of their own, made by the same settings and gone afterwards, one at a time.
///
/// # Errors
/// What would end the run too, except that memory runs out: a layout that does not fit is not chosen.
pub(super) fn settle(start: &mut Start, data: &Store, chosen: &Chosen) -> Result<()> {
    if !is_open(start, chosen) {
        return Ok(());
    }
    start
        .observer
        .message("timing a few steps in the layouts nchw and nhwc");
    let nchw = milliseconds(start, MapLayout::Nchw, data, chosen)?;
    let nhwc = milliseconds(start, MapLayout::Nhwc, data, chosen)?;
    if start.stop.reason().is_some() {
        let said = "stopped while timing layouts; this run takes nchw, unless it is told otherwise (`train.layout`)";
        start.observer.message(said);
        return Ok(());
    }
    if let Some((layout, said)) = faster(nchw, nhwc) {
        start.config.train.layout = Some(layout);
        start.observer.message(&said);
    }
    Ok(())
}

/// True if measuring is to decide.
pub(super) fn is_open(start: &Start, chosen: &Chosen) -> bool {
    let train = &start.config.train;
    chosen.device.is_cuda()
        && !chosen.deterministic
        && start.resume.is_none()
        && train.layout.is_none()
        && train.steps >= FEWEST_STEPS
        && start.config.model.kind() != ModelKind::Gau
}

/// The layout to take, and the line that says so. `None` stands for a layout that does not fit into memory; if neither
/// does, the start itself will say what to do.
fn faster(nchw: Option<f64>, nhwc: Option<f64>) -> Option<(MapLayout, String)> {
    let (chosen, other) = match (nchw, nhwc) {
        (None, None) => return None,
        (Some(nchw), Some(nhwc)) if nhwc > nchw * (1.0 - WORTH_IT) => {
            (MapLayout::Nchw, MapLayout::Nhwc)
        }
        (Some(_), None) => (MapLayout::Nchw, MapLayout::Nhwc),
        _ => (MapLayout::Nhwc, MapLayout::Nchw),
    };
    let said = match (nchw, nhwc) {
        (Some(nchw), Some(nhwc)) => {
            let (ours, theirs) = match chosen {
                MapLayout::Nchw => (nchw, nhwc),
                MapLayout::Nhwc => (nhwc, nchw),
            };
            format!("{ours:.1} ms a step, forward and backward, against {theirs:.1} with {other}")
        }
        _ => format!("with {other} memory ran out"),
    };
    Some((chosen, format!("layout {chosen}: {said}")))
}

/// Time of a step's forward and backward pass, all its microbatches; `None` if it does not fit into memory.
fn milliseconds(
    start: &Start,
    layout: MapLayout,
    data: &Store,
    chosen: &Chosen,
) -> Result<Option<f64>> {
    let mut config = start.config.clone();
    config.train.layout = Some(layout);
    let fit = Fit {
        auto: start.auto_accumulate,
        force: start.force,
        // Each rank times by itself.
        group: None,
        reduce: start.reduce,
    };
    let timed = catch_shortage(|| {
        let mut trainer = Trainer::new(&config, data.len(), chosen.device)?;
        trainer.net.set_precision(chosen.precision);
        // The run's own start repeats what this has to say.
        plan::settle(&mut config, &mut trainer, data, fit, &())?;
        median_of_steps(&config, &trainer, data, &start.stop)
    });
    return_cached(chosen.device);
    match timed {
        Ok(Ok(timed)) => Ok(Some(timed)),
        Ok(Err(_)) => Ok(None),
        Err(error) if error.is::<OutOfMemory>() => Ok(None),
        Err(error) => Err(error),
    }
}

fn median_of_steps(
    config: &RunConfig,
    trainer: &Trainer,
    data: &Store,
    stop: &Stop,
) -> Result<f64> {
    let indices: Vec<i64> = (0..config.train.batch)
        .map(|i| i % data.len() as i64)
        .collect();
    let x_0 = data.batch(&indices, None)?;
    let t = Tensor::zeros([config.train.batch], (Kind::Int64, Device::Cpu));
    let classes = trainer.any_classes(config.train.batch);
    let began = Instant::now();
    let mut all = Vec::new();
    for step in 0..WARM_UP + TIMED {
        let started = Instant::now();
        let _loss = trainer.backward(&x_0, &t, classes.as_ref(), 0)?;
        synchronize(trainer.arena.device());
        if step >= WARM_UP {
            all.push(started.elapsed().as_secs_f64() * 1e3);
        }
        // The first step alone says enough of a network that takes so long.
        let late = began.elapsed() > PATIENCE;
        if late && all.is_empty() {
            all.push(started.elapsed().as_secs_f64() * 1e3);
        }
        if late || stop.reason().is_some() {
            break;
        }
    }
    all.sort_by(f64::total_cmp);
    Ok(all.get(all.len() / 2).copied().unwrap_or(f64::INFINITY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_layout_is_taken_and_both_times_are_said() {
        let said = |nchw, nhwc| faster(nchw, nhwc).map(|(_, said)| said);
        for (nchw, nhwc, wanted) in [
            (
                Some(47.9),
                Some(41.2),
                "layout nhwc: 41.2 ms a step, forward and backward, against 47.9 with nchw",
            ),
            (
                Some(41.2),
                Some(47.9),
                "layout nchw: 41.2 ms a step, forward and backward, against 47.9 with nhwc",
            ),
            (
                Some(5.0),
                Some(4.9),
                "layout nchw: 5.0 ms a step, forward and backward, against 4.9 with nhwc",
            ),
            (Some(5.0), None, "layout nchw: with nhwc memory ran out"),
            (None, Some(5.0), "layout nhwc: with nchw memory ran out"),
        ] {
            assert_eq!(said(nchw, nhwc).as_deref(), Some(wanted));
        }
        assert_eq!(said(None, None), None);
    }
}
