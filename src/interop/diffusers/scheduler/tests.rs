//! Schedules against the betas that diffusers' own classes print, and every refusal.
//!
//! `fixtures/betas.json` holds settings of diffusers 0.42.1's schedulers and some of their betas, in
//! single precision.

use serde_json::{Value, json};

use super::super::betas::betas_of;
use super::super::to_scheduler::to_scheduler_config;
use super::*;

const BETAS: &str = include_str!("../fixtures/betas.json");
const DDPM: &str = include_str!("../fixtures/peer_scheduler_config.json");

fn read(
    text: &str,
    learned: bool,
    hints: &Hints,
) -> Result<(DiffusionConfig, SampleConfig, Report)> {
    let mut report = Report::default();
    let (diffusion, sample) = parse(text, learned, hints, &mut report)?;
    Ok((diffusion, sample, report))
}

fn with(knobs: Value) -> String {
    let mut config: Value = serde_json::from_str(DDPM).unwrap();
    for (knob, value) in knobs.as_object().unwrap() {
        config[knob] = value.clone();
    }
    config.to_string()
}

fn taken(knobs: Value) -> (DiffusionConfig, SampleConfig, Report) {
    read(&with(knobs), false, &Hints::default()).unwrap()
}

fn refused(knobs: Value) -> String {
    match read(&with(knobs.clone()), false, &Hints::default()) {
        Ok(_) => panic!("{knobs} was taken"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn betas_are_those_of_the_real_classes() {
    let cases: Vec<Value> = serde_json::from_str(BETAS).unwrap();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let text = case["config"].to_string();
        let (diffusion, ..) = read(&text, false, &Hints::default()).unwrap();
        let betas = betas_of(&diffusion);
        let timesteps = case["config"]["num_train_timesteps"].as_u64().unwrap();
        assert_eq!(betas.len() as u64, timesteps);
        for point in case["betas"].as_array().unwrap() {
            let (t, theirs) = (point[0].as_u64().unwrap(), point[1].as_f64().unwrap());
            let ours = betas[t as usize];
            // Theirs went through a few operations in single precision.
            assert!(
                (ours - theirs).abs() <= 5e-7 * theirs,
                "{text} t = {t}: {ours}, want {theirs}"
            );
        }
    }
}

#[test]
fn our_names_are_found_where_the_betas_are_ours() {
    let name = |knobs: Value| taken(knobs).0.schedule;
    assert_eq!(name(json!({})), ScheduleKind::Linear);
    assert_eq!(
        name(json!({"beta_schedule": "squaredcos_cap_v2"})),
        ScheduleKind::Cosine
    );
    assert_eq!(name(json!({"beta_start": 2e-5})), ScheduleKind::KerasDdpm);
    // Ours keeps the noise at the end for another T, theirs does not.
    assert_eq!(
        name(json!({"num_train_timesteps": 500})),
        ScheduleKind::Explicit
    );
    let scaled = json!({"num_train_timesteps": 500, "beta_start": 2e-4, "beta_end": 0.04});
    assert_eq!(name(scaled), ScheduleKind::Linear);
    // Theirs is a sigmoid of beta, ours one of alpha_bar.
    let (diffusion, _, report) = taken(json!({"beta_schedule": "sigmoid"}));
    assert_eq!(
        (diffusion.schedule, diffusion.betas.len()),
        (ScheduleKind::Explicit, 1000)
    );
    assert!(
        report
            .facts
            .iter()
            .any(|f| f.what == "schedule" && f.value.contains("sigmoid"))
    );
}

#[test]
fn sampler_knobs_are_read() {
    let sigma = |kind: &str| taken(json!({"variance_type": kind})).1.sigma;
    assert_eq!(sigma("fixed_small"), Sigma::Posterior);
    assert_eq!(sigma("fixed_small_log"), Sigma::Posterior);
    assert_eq!(sigma("fixed_large"), Sigma::Beta);
    assert_eq!(sigma("fixed_large_log"), Sigma::Beta);
    let learned = with(json!({"variance_type": "learned_range"}));
    let (_, sample, _) = read(&learned, true, &Hints::default()).unwrap();
    assert_eq!(sample.sigma, Sigma::Learned);
    assert!(
        !taken(json!({"clip_sample": false, "clip_sample_range": 2.0}))
            .1
            .clip_x0
    );
    let prediction = |kind: &str| taken(json!({"prediction_type": kind})).0.prediction;
    assert_eq!(prediction("sample"), Prediction::X0);
    assert_eq!(prediction("v_prediction"), Prediction::V);
}

#[test]
fn old_files_are_read() {
    let read = |text: &str| read(text, false, &Hints::default()).unwrap();
    let (diffusion, sample, _) = read(
        r#"{"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02,
            "beta_schedule": "linear", "beta_start": 0.0001, "clip_sample": true,
            "num_train_timesteps": 1000, "trained_betas": null, "variance_type": "fixed_large"}"#,
    );
    assert_eq!(diffusion.schedule, ScheduleKind::Linear);
    assert_eq!((sample.sigma, sample.clip_x0), (Sigma::Beta, true));
    let (diffusion, ..) = read(
        r#"{"_class_name": "DDPMScheduler", "timesteps": 20, "beta_schedule": "squaredcos_cap_v2",
            "predict_epsilon": false}"#,
    );
    assert_eq!(
        (diffusion.timesteps, diffusion.prediction),
        (20, Prediction::X0)
    );
}

#[test]
fn other_classes_give_their_schedule_and_the_rest_is_said() {
    let text = with(
        json!({"_class_name": "PNDMScheduler", "variance_type": null, "steps_offset": 1,
        "timestep_spacing": "trailing"}),
    );
    let (diffusion, sample, report) = read(&text, false, &Hints::default()).unwrap();
    assert_eq!(
        (diffusion.schedule, sample.sigma),
        (ScheduleKind::Linear, Sigma::Posterior)
    );
    for said in [
        "PNDMScheduler has its own sampler",
        "steps_offset = 1",
        "\"trailing\"",
        "eta 1",
    ] {
        assert!(
            report.assumptions.iter().any(|a| a.contains(said)),
            "{said}: {report:?}"
        );
    }
    let hints = Hints {
        sigma: Some(Sigma::Beta),
        ..Hints::default()
    };
    assert_eq!(read(&text, false, &hints).unwrap().1.sigma, Sigma::Beta);
    assert_eq!(
        read(&text, true, &Hints::default()).unwrap().1.sigma,
        Sigma::Learned
    );
}

#[test]
fn what_we_have_not_is_refused_by_knob_and_value() {
    for (knob, value) in [
        ("beta_schedule", json!("exponential")),
        ("beta_start", json!(0)),
        ("beta_end", json!(1)),
        ("beta_end", json!("0.02")),
        ("trained_betas", json!([0.1, 0.2])),
        ("trained_betas", json!("all")),
        ("num_train_timesteps", json!(1)),
        ("num_train_timesteps", json!(1_000_000_000)),
        ("prediction_type", json!("flow_prediction")),
        ("variance_type", json!("learned")),
        ("variance_type", json!("learned_range")),
        ("clip_sample_range", json!(2.0)),
        ("thresholding", json!(true)),
        ("rescale_betas_zero_snr", json!(true)),
        ("use_flow_sigmas", json!(true)),
        ("snr_shift_scale", json!(3.0)),
    ] {
        let message = refused(json!({ knob: value }));
        let shown = format!("scheduler_config.json: {knob} = {value}");
        assert!(message.contains(&shown), "{message}");
    }
    for bad in [0.0, 1.0, -0.1] {
        let message = refused(json!({"num_train_timesteps": 3, "trained_betas": [0.1, bad, 0.2]}));
        assert!(message.contains("the beta at t = 1"), "{message}");
    }
    let edm = r#"{"_class_name": "EDMEulerScheduler", "num_train_timesteps": 1000}"#;
    let message = read(edm, false, &Hints::default()).unwrap_err().to_string();
    assert!(
        message.contains("EDMEulerScheduler, which has no beta_schedule"),
        "{message}"
    );
    // Other classes have other defaults.
    let lcm =
        r#"{"_class_name": "LCMScheduler", "beta_schedule": "linear", "num_train_timesteps": 9}"#;
    let message = read(lcm, false, &Hints::default()).unwrap_err().to_string();
    assert!(message.contains("beta_start = (not there)"), "{message}");
}

#[test]
fn hints_may_repeat_the_file_and_not_contradict_it() {
    let agreeing = Hints {
        timesteps: Some(1000),
        schedule: Some(ScheduleKind::Linear),
        prediction: Some(Prediction::Eps),
        sigma: Some(Sigma::Posterior),
        clip_x0: Some(true),
        ..Hints::default()
    };
    assert!(read(DDPM, false, &agreeing).is_ok());
    type Edit = fn(&mut Hints);
    let edits: [(&str, Edit); 3] = [
        ("`hints.timesteps` =", |h| h.timesteps = Some(500)),
        ("`hints.schedule` =", |h| {
            h.schedule = Some(ScheduleKind::Cosine)
        }),
        ("`hints.prediction` =", |h| {
            h.prediction = Some(Prediction::V)
        }),
    ];
    for (flag, edit) in edits {
        let mut hints = Hints::default();
        edit(&mut hints);
        let message = read(DDPM, false, &hints).unwrap_err().to_string();
        assert!(message.starts_with(flag), "{message}");
    }
}

#[test]
fn without_a_file_the_hints_are_needed() {
    let flags = |learned: bool, hints: &Hints| {
        let mut report = Report::default();
        let read = from_hints(learned, hints, &mut report);
        (
            read,
            report
                .missing
                .iter()
                .map(|m| m.flag.clone())
                .collect::<Vec<_>>(),
        )
    };
    let all = [
        "--schedule NAME",
        "--timesteps T",
        "--prediction WHAT",
        "--sigma KIND",
    ];
    let ((_, sample), missing) = flags(false, &Hints::default());
    assert_eq!(missing, all);
    assert!(sample.clip_x0 && !sample.last_noise);
    let ((_, sample), missing) = flags(true, &Hints::default());
    assert_eq!((missing.len(), sample.sigma), (3, Sigma::Learned));
    let hints = Hints {
        schedule: Some(ScheduleKind::Cosine),
        timesteps: Some(50),
        prediction: Some(Prediction::X0),
        sigma: Some(Sigma::Beta),
        clip_x0: Some(false),
        ..Hints::default()
    };
    let ((diffusion, sample), missing) = flags(false, &hints);
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(
        (diffusion.schedule, diffusion.timesteps),
        (ScheduleKind::Cosine, 50)
    );
    assert_eq!(
        (diffusion.prediction, sample.sigma),
        (Prediction::X0, Sigma::Beta)
    );
    assert!(!sample.clip_x0);
}

#[test]
fn settings_survive_the_way_there_and_back() {
    let kinds = [
        (ScheduleKind::Linear, "linear"),
        (ScheduleKind::KerasDdpm, "linear"),
        (ScheduleKind::Cosine, "squaredcos_cap_v2"),
        (ScheduleKind::Sigmoid, "linear"),
        (ScheduleKind::Explicit, "linear"),
    ];
    let samplers = [
        (Prediction::Eps, Sigma::Posterior),
        (Prediction::X0, Sigma::Beta),
        (Prediction::V, Sigma::Learned),
    ];
    for (schedule, name) in kinds {
        for (prediction, sigma) in samplers {
            let explicit = schedule == ScheduleKind::Explicit;
            let diffusion = DiffusionConfig {
                timesteps: 40,
                schedule,
                betas: if explicit {
                    (1..=40).map(|t| f64::from(t) / 100.0).collect()
                } else {
                    vec![]
                },
                prediction,
                loss: LossKind::Mse,
            };
            let sample = SampleConfig {
                sigma,
                clip_x0: explicit,
                last_noise: false,
                images: 16,
                every_steps: 0,
            };
            let json = to_scheduler_config(&diffusion, &sample).unwrap();
            assert_eq!(json["beta_schedule"], name);
            let listed = matches!(schedule, ScheduleKind::Sigmoid | ScheduleKind::Explicit);
            assert_eq!(json["trained_betas"].is_array(), listed);
            let learned = sigma == Sigma::Learned;
            let (back, back_sample, _) =
                read(&json.to_string(), learned, &Hints::default()).unwrap();
            assert_eq!((back, back_sample), (diffusion, sample));
        }
    }
}

#[test]
fn betas_and_timesteps_that_disagree_are_not_written() {
    let (mut diffusion, sample, _) = taken(json!({"beta_schedule": "sigmoid"}));
    diffusion.betas.pop();
    let message = to_scheduler_config(&diffusion, &sample)
        .unwrap_err()
        .to_string();
    assert!(message.contains("999 numbers, want 1000"), "{message}");
}
