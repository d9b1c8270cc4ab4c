//! Schedule and objective from the buffers, and a file that the package wrote.

use std::collections::BTreeMap;
use std::path::Path;

use tch::Tensor;

use super::super::{Buffers, infer, trainer};
use super::keys;
use super::of_schedule;
use super::plain;
use super::refusal;
use super::size_hint;
use super::stored;
use crate::config::{Prediction, ScheduleKind};
use crate::diffusion::Schedule;
use crate::formats::weights_file::WeightsFile;
use crate::interop::{Keys, Report};

#[test]
fn every_schedule_and_objective_is_told_from_its_buffers() {
    for schedule in [
        ScheduleKind::Linear,
        ScheduleKind::Cosine,
        ScheduleKind::Sigmoid,
    ] {
        for timesteps in [50, 1000, 4000] {
            for prediction in [Prediction::Eps, Prediction::X0, Prediction::V] {
                let want = of_schedule(schedule, timesteps, prediction);
                let mut report = Report::default();
                let found = infer(&keys(&plain()), &stored(&want), &size_hint(), &mut report);
                assert_eq!(found.unwrap().diffusion, want);
                assert_eq!(report.missing, []);
            }
        }
    }
}

#[test]
fn min_snr_weights_show_the_objective_too() {
    for prediction in [Prediction::Eps, Prediction::X0, Prediction::V] {
        let config = of_schedule(ScheduleKind::Cosine, 1000, prediction);
        let mut buffers = stored(&config);
        let snr = Schedule::new(&config)
            .alphas_cumprod
            .into_iter()
            .map(|a| a / (1.0 - a));
        let weight = snr.map(|snr| {
            let divisor = match prediction {
                Prediction::Eps => snr,
                Prediction::X0 => 1.0,
                Prediction::V => snr + 1.0,
            };
            (snr.min(5.0) / divisor) as f32
        });
        buffers.loss_weight = Some(weight.collect());
        let mut report = Report::default();
        let found = infer(&keys(&plain()), &buffers, &size_hint(), &mut report).unwrap();
        assert_eq!(found.diffusion.prediction, prediction);
        assert!(
            report
                .facts
                .iter()
                .any(|f| f.what == "min-SNR gamma" && f.value == "5.000")
        );
    }
}

#[test]
fn other_betas_are_kept_as_they_are() {
    let betas: Vec<f32> = (0..100).map(|t| 1e-3 + 1e-4 * t as f32).collect();
    let buffers = Buffers {
        betas: Some(betas.clone()),
        loss_weight: Some(vec![1.0; 100]),
        version: None,
    };
    let found = infer(
        &keys(&plain()),
        &buffers,
        &size_hint(),
        &mut Report::default(),
    )
    .unwrap();
    let diffusion = found.diffusion;
    assert_eq!(diffusion.schedule, ScheduleKind::Explicit);
    assert_eq!(diffusion.prediction, Prediction::Eps);
    assert!(
        diffusion
            .betas
            .iter()
            .zip(&betas)
            .all(|(a, b)| *a == f64::from(*b))
    );
    for bad in [1.0, -0.1, f32::NAN] {
        let mut buffers = buffers.clone();
        buffers.betas.as_mut().unwrap()[7] = bad;
        let message = refusal(&keys(&plain()), &buffers, &size_hint());
        assert!(message.contains("betas[7]"), "{message}");
    }
}

/// `model` or `ema` of a file that the package wrote.
fn real(entry: &str) -> Vec<(String, Tensor)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/peers/lucidrains-model-1.pt");
    let file = WeightsFile::open(&path).unwrap();
    file.state_dict(file.root.get(entry).unwrap()).unwrap()
}

#[test]
fn a_real_file_is_read_and_its_layout_is_ours() {
    let model = real("model");
    let get = |name: &str| {
        let (_, t) = model.iter().find(|(key, _)| key == name).unwrap();
        Vec::<f32>::try_from(t).unwrap()
    };
    let weights: Vec<(String, Tensor)> = model
        .iter()
        .filter_map(|(key, t)| Some((key.strip_prefix("model.")?.to_owned(), t.shallow_clone())))
        .collect();
    let found: Keys = weights
        .iter()
        .map(|(key, t)| (key.clone(), t.size()))
        .collect();
    let stored = Buffers {
        betas: Some(get("betas")),
        loss_weight: Some(get("loss_weight")),
        version: Some("2.3.1".to_owned()),
    };
    let settings = infer(&found, &stored, &size_hint(), &mut Report::default()).unwrap();
    assert_eq!(settings.diffusion.schedule, ScheduleKind::Sigmoid);
    assert_eq!(settings.diffusion.prediction, Prediction::V);

    let ours = trainer::model(&settings.diffusion, &weights);
    assert!(
        ours.iter()
            .map(|(key, _)| key)
            .eq(model.iter().map(|(key, _)| key))
    );
    for ((key, ours), (_, theirs)) in ours.iter().zip(&model).take(13) {
        // The last bit of f32: exp and log of other libraries.
        let error = ((ours - theirs) / theirs.abs().clamp_min(1e-30))
            .abs()
            .max();
        assert!(f64::try_from(error).unwrap() < 1.3e-7, "{key}");
    }

    let kinds = |entries: &[(String, Tensor)]| {
        let kind = |(key, t): &(String, Tensor)| (key.clone(), (t.kind(), t.size()));
        entries.iter().map(kind).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(kinds(&trainer::ema(1, &ours)), kinds(&real("ema")));
}
