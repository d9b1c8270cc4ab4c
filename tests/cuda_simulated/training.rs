//! Training: waits, saves beside it, exact resume, signals, and the settings that change a step.

use std::process::{Command, Stdio};

use crate::lab::{Lab, assert_sound, outcome};
use crate::tiny::{assert_same_end, metrics, wait_until};

const SMALL: &str = "--preset demo --size 16 --base-width 8 --norm-groups 2 --batch 4 \
                     --builtin-images 16 --device cuda";

/// What a step adds to the waits, and to those after which the device idles, from runs of 40 and 20 steps without a
/// save between.
fn a_step(flags: &str) -> [f64; 2] {
    let lab = Lab::new();
    let run = |steps: u64| {
        let run = format!("--steps {steps} --save-every 1000 --sample-every 0 --run run-{steps}");
        lab.ok(&format!("train {SMALL} {flags} {run}"))
    };
    let (short, long) = (run(20), run(40));
    ["waits", "idle"].map(|of| (long.count(of) as f64 - short.count(of) as f64) / 20.0)
}

/// Numbers of ten steps are read at once, while the next one is computed.
#[test]
fn a_step_hardly_waits_for_the_device() {
    for flags in [
        "--precision f32 --flip --optimizer lamb",
        "--precision f32 --upscale 4 --optimizer lamb",
        "--precision bf16 --flip --optimizer adamw --clip-norm 1 --accumulate 2 --dropout 0.1 --checkpoint-blocks",
    ] {
        let [waits, idle] = a_step(flags);
        println!("{flags}: {waits} waits a step, {idle} of which leave nothing to do");
        assert_eq!(idle, 0.0, "{flags}");
        assert!(waits <= 0.1, "{flags}: {waits} waits a step");
    }
}

#[test]
fn a_run_with_saves_and_grids_beside_it_resumes_exactly() {
    let lab = Lab::new();
    let train = |run: &str, steps: u64, more: &str| {
        lab.ok(&format!(
            "train --deterministic --precision bf16 --run {run} --steps {steps} {more}"
        ))
    };
    let settings = format!(
        "{SMALL} --dropout 0.1 --flip --timesteps 20 --save-every 2 --sample-every 4 --sample-images 2"
    );
    train("once", 10, &settings);
    train("twice", 5, &settings);
    let resumed = train("twice", 10, "--device cuda");
    assert_same_end(&lab.path("once"), &lab.path("twice"), 10);
    assert!(lab.path("twice/samples").read_dir().unwrap().count() >= 2);
    // What is to be looked at comes from the device too.
    assert!(lab.path("twice/report.html").is_file());
    let files = lab
        .path("twice")
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let events = files.filter(|file| file.to_string_lossy().contains("events.out.tfevents"));
    let peak = b"memory/cuda_peak_allocated_bytes";
    for file in events {
        let bytes = std::fs::read(file).unwrap();
        assert!(bytes.windows(peak.len()).any(|window| window == peak));
    }
    assert!(
        !resumed.said.contains("note: the run was on"),
        "{}",
        resumed.said
    );
}

#[test]
fn a_run_that_is_interrupted_saves_and_goes_on() {
    let lab = Lab::new();
    let settings = format!("{SMALL} --precision f32 --sample-every 0 --deterministic");
    // It ends by itself should the signal not reach it.
    let arguments = format!("train {settings} --steps 3000 --run run");
    let (mut command, report) = lab.on_device(&arguments);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let run = lab.path("run");
    wait_until("a step", || {
        let text = std::fs::read_to_string(run.join("metrics.jsonl"));
        text.is_ok_and(|text| text.contains('\n'))
    });
    let process = child.id().to_string();
    let sent = Command::new("kill").args(["-s", "INT", &process]).status();
    assert!(sent.unwrap().success());
    let ended = outcome(&child.wait_with_output().unwrap(), &report, &arguments);
    assert_eq!(ended.code, Some(130), "{}", ended.said);
    assert_sound(&ended, &arguments);

    let end = metrics(&run).last().unwrap().0 + 3;
    lab.ok(&format!(
        "train --run run --steps {end} --device cuda --precision f32 --deterministic"
    ));
    lab.ok(&format!("train {settings} --steps {end} --run whole"));
    assert_same_end(&lab.path("whole"), &run, end);
}

/// A step can be computed again alone, with the same bits.
#[test]
fn a_step_is_replayed_bit_for_bit() {
    let lab = Lab::new();
    let settings =
        format!("{SMALL} --precision tf32 --sample-every 0 --save-every 2 --dropout 0.1");
    lab.ok(&format!("train {settings} --steps 5 --run run"));
    let again = lab.ok("replay run --step 4 --device cuda --precision tf32 --json");
    let again: serde_json::Value = serde_json::from_str(&again.printed).unwrap();
    let (_, loss, norm) = metrics(&lab.path("run"))[3];
    assert_eq!(again["loss"].as_f64(), Some(loss));
    assert_eq!(again["grad_norm"].as_f64(), Some(norm));
}

#[test]
fn bench_times_each_kind_of_work() {
    let lab = Lab::new();
    let settings =
        "--preset demo --size 16 --base-width 8 --norm-groups 2 --batch 4 --builtin-images 16";
    for what in [
        "train --precision f32",
        "train --precision bf16 --layout nhwc",
        "sample --precision bf16",
        "sample --precision f32 --layout nhwc",
        "optimizer",
    ] {
        let said = lab.ok(&format!(
            "bench --what {what} {settings} --warmup 1 --iters 2 --device cuda --json"
        ));
        let said: serde_json::Value = serde_json::from_str(&said.printed).unwrap();
        assert_eq!(said["device"], "Simulated CUDA device", "{said}");
        assert!(said["peak_bytes"].as_u64().unwrap() > 0, "{said}");
    }
}

/// Steps wait no more for the device in a run that is evaluated, and the numbers are a CPU's.
#[test]
fn a_run_that_is_evaluated_waits_for_evaluations_alone() {
    let lab = Lab::new();
    let train = |run: &str, steps: u64, device: &str| {
        let settings = SMALL.replace("--device cuda", device);
        format!(
            "train {settings} --timesteps 8 --precision f32 --save-every 1000 --sample-every 0 --hold-out 4 \
             --evaluate-every 20 --evaluate-images 4 --steps {steps} --run {run}"
        )
    };
    let [short, long] =
        [29, 39].map(|steps| lab.ok(&train(&format!("run-{steps}"), steps, "--device cuda")));
    // Numbers of ten steps are read at once.
    assert!(long.waits() <= short.waits() + 1);
    lab.on_cpu(&train("cpu", 29, "--device cpu"));
    let [cpu, device] = ["cpu", "run-29"].map(|run| {
        let text = std::fs::read_to_string(lab.path(run).join("metrics.jsonl")).unwrap();
        let line = text.lines().find(|line| line.contains("evaluation"));
        let line: serde_json::Value = serde_json::from_str(line.unwrap()).unwrap();
        line["evaluation"]["loss"].as_f64().unwrap()
    });
    assert!((cpu - device).abs() < 1e-4 * cpu, "{cpu} {device}");
}
