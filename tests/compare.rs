//! `ddpm compare`: tables of runs hold what their files hold, and those of samplers what `ddpm evaluate` measures.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use ddpm::checkpoint::RunFolder;
use ddpm::config::{EvaluationConfig, HoldOut, Metric, Preset, RunConfig};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::{Value, json};

const TINY: &str = "train --device cpu --preset demo --size 16 --base-width 8 --norm-groups 2 --multipliers 1 \
                    --timesteps 4 --builtin-images 12 --batch 4 --steps 2 --save-every 2 --sample-every 0 --run";

fn ddpm(words: &str) -> Command {
    let mut command = cargo_bin_cmd!("ddpm");
    // Threads that wait for one another take long on busy cores.
    command
        .args(words.split_whitespace())
        .env("OMP_NUM_THREADS", "1");
    command
}

fn stdout(command: &mut Command) -> String {
    let out = command.assert().success().get_output().stdout.clone();
    String::from_utf8(out).unwrap()
}

fn json_of(command: &mut Command) -> Value {
    serde_json::from_str(&stdout(command)).unwrap()
}

/// The cells of the rows of a Markdown table, without the bold.
fn cells(table: &str) -> Vec<Vec<String>> {
    let rows = table.lines().filter(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells = line.trim_matches('|').split('|');
        cells
            .map(|cell| cell.trim().trim_matches('*').to_owned())
            .collect()
    };
    rows.map(row).collect()
}

fn settings(edit: impl FnOnce(&mut RunConfig)) -> RunConfig {
    let mut config = Preset::Demo.config();
    config.train.batch = 4;
    config.data.hold_out = Some(HoldOut::Number(2));
    config.evaluation = Some(EvaluationConfig {
        metrics: vec![Metric::Loss, Metric::Fid],
        best: Some(Metric::Fid),
        ..EvaluationConfig::new(10)
    });
    edit(&mut config);
    config
}

fn step(step: u64, secs: f64) -> String {
    let line = json!({"step": step, "loss": 1.0, "lr": 1e-3, "grad_norm": 1.0, "images_per_sec": 4.0, "secs": secs});
    format!("{line}\n")
}

fn evaluation(step: u64, fid: f64, loss: f64) -> String {
    format!(
        "{}\n",
        json!({"step": step, "evaluation": {"fid": fid, "loss": loss}})
    )
}

/// A run with these lines, whose held-out images have these hashes.
fn run(
    dir: &Path,
    name: &str,
    config: &RunConfig,
    lines: &[String],
    held_out: [u64; 2],
) -> PathBuf {
    let run = dir.join(name);
    fs::create_dir_all(&run).unwrap();
    let folder = RunFolder::new(run.clone());
    folder.write_config(config).unwrap();
    fs::write(folder.metrics_path(), lines.concat()).unwrap();
    let [a, b] = held_out;
    let list = format!("ddpm pictures 1 2\n{a:016x}\ta.png\n{b:016x}\tb.png\n");
    fs::write(folder.held_out_path(), list).unwrap();
    run
}

/// The lines of a run of three evaluations, the second the best by fid and the third by loss.
fn three(secs: f64) -> Vec<String> {
    vec![
        step(10, secs),
        evaluation(10, 3.25, 0.5),
        step(20, 2.0 * secs),
        evaluation(20, 1.0625, 0.25),
        step(30, 3.0 * secs),
        evaluation(30, 1.5, 0.015625),
    ]
}

fn files(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(run)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

#[test]
fn a_table_of_runs_has_the_numbers_of_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let a = run(dir.path(), "a", &settings(|_| ()), &three(5.0), [1, 2]);
    let mut lines = three(7.0);
    // The line of a step is lost; and one is being written.
    lines.remove(2);
    lines.push(step(31, 25.0));
    lines.push("{\"step\":32,\"lo".to_owned());
    let larger = settings(|config| config.train.batch = 8);
    // Somebody trains it.
    let _lock = RunFolder::new(dir.path().join("b")).create().unwrap();
    let b = run(dir.path(), "b", &larger, &lines, [1, 2]);
    let before = files(&b);

    let text = stdout(ddpm("compare").current_dir(dir.path()).args(["a", "b"]));
    let wanted = [
        ["run", "step", "images", "time", "fid", "loss"],
        ["a", "10", "40", "5 s", "3.2500", "0.5000"],
        ["a", "20", "80", "10 s", "1.0625", "0.2500"],
        ["a", "30", "120", "15 s", "1.5000", "0.01562"],
        ["b", "10", "80", "7 s", "3.2500", "0.5000"],
        ["b", "20", "160", "", "1.0625", "0.2500"],
        ["b", "30", "240", "21 s", "1.5000", "0.01562"],
    ];
    let mut found = cells(&text);
    found.remove(1);
    assert_eq!(found, wanted);
    for line in [
        "**1.0625**",
        "**0.01562**",
        "a: best fid 1.0625 at step 20, after 80 images and 10 s; 3 evaluations, now at step 30",
        "b: best fid 1.0625 at step 20, after 160 images; 3 evaluations, now at step 31",
        "best fid of all: a",
    ] {
        assert!(text.contains(line), "want {line} in\n{text}");
    }
    assert_eq!(files(&b), before);

    let words = "compare --json --metric loss --against time --plot";
    let plot = dir.path().join("loss.svg");
    let found = json_of(ddpm(words).arg(&plot).args([&a, &b]));
    assert_eq!(found["metric"], "loss");
    assert_eq!(found["comparable"], true);
    assert_eq!(found["remarks"], json!([]));
    assert_eq!(found["runs"][0]["best"]["step"], 30);
    let of_b = &found["runs"][1];
    assert_eq!(of_b["last_step"], 31);
    assert_eq!(
        of_b["evaluations"][2],
        json!({"step": 30, "images": 240, "secs": 21.0, "values": {"fid": 1.5, "loss": 0.015625}})
    );
    assert_eq!(of_b["evaluations"][1]["secs"], Value::Null);
    let svg = fs::read_to_string(&plot).unwrap();
    // Three points of one and two of the other.
    let points: Vec<usize> = (svg.lines().filter(|line| line.starts_with("<polyline")))
        .map(|line| line.matches(',').count())
        .collect();
    assert_eq!(points, [3, 2], "{svg}");
}

#[test]
fn runs_that_were_measured_otherwise_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let base = settings(|_| ());
    let a = run(dir.path(), "a", &base, &three(5.0), [1, 2]);
    let compare = |name: &str, config: &RunConfig, held_out, metric: &str| {
        let other = run(dir.path(), name, config, &three(5.0), held_out);
        let mut command = ddpm("compare --json --metrics");
        json_of(command.arg(metric).args([&a, &other]))
    };
    let edited = |edit: &dyn Fn(&mut EvaluationConfig)| {
        settings(|config| edit(config.evaluation.as_mut().unwrap()))
    };
    let steps = edited(&|evaluation| evaluation.steps = 9);
    let by_fid = compare("steps", &steps, [1, 2], "fid,loss");
    assert_eq!(by_fid["comparable"], false);
    let said = by_fid["remarks"].to_string();
    assert!(said.contains("fid of"), "{said}");
    assert!(
        said.contains("`evaluation.steps` = 9 instead of 20"),
        "{said}"
    );
    let by_loss = compare("steps2", &steps, [1, 2], "loss");
    assert_eq!(
        (&by_loss["comparable"], &by_loss["remarks"]),
        (&json!(true), &json!([]))
    );
    let images = edited(&|evaluation| evaluation.images = 9);
    let found = compare("images", &images, [1, 2], "loss");
    let said = found["remarks"].to_string();
    assert!(
        said.contains("--evaluate-images 9 instead of 256"),
        "{said}"
    );
    let found = compare("other", &base, [1, 3], "fid");
    let said = found["remarks"].to_string();
    assert!(said.contains("other images held out"), "{said}");
    assert_eq!(found["comparable"], false);
    // Other noise is no other measure.
    let found = compare(
        "seed",
        &settings(|config| config.train.seed = 5),
        [1, 2],
        "fid",
    );
    assert!(
        found["remarks"].to_string().contains("other seeds"),
        "{found}"
    );
    assert_eq!(found["comparable"], true);
}

#[test]
fn runs_without_evaluations_and_damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let never = settings(|config| config.evaluation = None);
    run(dir.path(), "never", &never, &[step(10, 1.0)], [1, 2]);
    run(
        dir.path(),
        "young",
        &settings(|_| ()),
        &[step(7, 1.0)],
        [1, 2],
    );
    let mut lines = three(5.0);
    lines.insert(1, "\0\0not a line\n".to_owned());
    let odd = run(dir.path(), "odd", &settings(|_| ()), &lines, [1, 2]);
    fs::remove_file(odd.join("config.toml")).unwrap();
    let compare = |names: &str| {
        let mut command = ddpm("compare");
        command.current_dir(dir.path()).args(names.split(' '));
        command
    };
    compare("never young")
        .assert()
        .failure()
        .stdout("")
        .stderr(
            contains("never has no evaluations").and(contains("--run never --evaluate-every N")),
        )
        .stderr(contains(
            "young has no evaluation yet: it is at step 7, and there is one every 10 steps",
        ));
    compare("odd never")
        .assert()
        .success()
        .stderr(contains("never has no evaluations"))
        .stderr(contains("1 line of odd/metrics.jsonl cannot be read"))
        .stderr(contains("odd/config.toml"))
        // Without the settings no images are known.
        .stdout(contains("odd: best fid 1.0625 at step 20, after 10 s;"));
    compare("odd --metric bpd")
        .assert()
        .failure()
        .stderr(contains(
            "--metrics bpd: these runs have measured fid, loss",
        ));
    compare("nevr")
        .assert()
        .failure()
        .stderr(contains("did you mean never?"));
    compare("").assert().failure();
}

/// A trained network of 16 by 16 pixels and T = 4.
fn tiny(dir: &Path, flags: &str) -> PathBuf {
    let run = dir.join("run");
    let mut train = ddpm(TINY);
    train
        .arg(&run)
        .args(flags.split_whitespace())
        .assert()
        .success();
    run
}

fn rows(found: &Value) -> &Vec<Value> {
    found["rows"].as_array().unwrap()
}

#[test]
fn samplers_are_measured_as_evaluate_measures_them() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path(), "--hold-out 5");
    let real = dir.path().join("real");
    let mut sample = ddpm("sample --device cpu --seed 9 -n 8 --separate");
    sample.arg(&real).arg(&run).assert().success();

    let same = "--device cpu --precision f32 --seed 3 --batch 4 -n 6 --json";
    let words = "compare samplers --samplers heun,dpmpp-2m-sde --steps 2,3 --spacings karras --metrics fid,swd,kid,pr,answer \
                 --features random --answer-images 3 --plot";
    let plot = dir.path().join("fid.svg");
    let mut command = ddpm(words);
    command
        .arg(&plot)
        .args(same.split_whitespace())
        .arg("--data")
        .arg(&real)
        .arg(&run);
    let found = json_of(&mut command);
    assert_eq!(
        [
            &found["images"],
            &found["answer_images"],
            &found["real_images"]
        ],
        [6, 3, 8]
    );
    assert_eq!(rows(&found).len(), 4);
    for (row, (sampler, steps, evaluations)) in rows(&found).iter().zip([
        ("heun", 2, 3),
        ("heun", 3, 5),
        ("dpmpp-2m-sde", 2, 2),
        ("dpmpp-2m-sde", 3, 3),
    ]) {
        assert_eq!(
            (&row["sampler"], &row["steps"]),
            (&json!(sampler), &json!(steps))
        );
        assert_eq!(row["evaluations"], evaluations);
        assert_eq!(row["answer"].is_number(), sampler == "heun");
        assert!(row["secs_per_image"].as_f64().unwrap() > 0.0);
        let flags = format!("{same} --sampler {sampler} --steps {steps} --spacing karras");
        let of = |measure: &str| {
            let mut command = ddpm(&format!("evaluate {measure} {flags}"));
            json_of(command.arg(&run).arg(&real))
        };
        if steps == 2 {
            let fid = of("fid --features random");
            for name in ["fid", "kid", "kid_std", "precision", "recall"] {
                assert_eq!(row[name], fid[name], "{sampler} {name}");
            }
            assert_eq!(found["features"], fid["features"]);
        } else {
            let swd = of("swd");
            assert_eq!(row["swd"], swd["mean"], "{sampler}");
            assert_eq!(found["swd_of_halves"], swd["baseline"]);
        }
    }
    let svg = fs::read_to_string(&plot).unwrap();
    assert_eq!(svg.matches("<polyline").count(), 2, "{svg}");
    assert!(svg.contains(">heun, karras</text>"), "{svg}");
}

#[test]
fn the_answer_is_that_of_all_steps_and_real_images_are_those_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path(), "--hold-out 5");
    let words = "compare samplers --device cpu --steps 4,2 --batch 4 --answer-images 6 --metrics answer,swd -n 10 --json \
                 --samplers ddim,ddim:eta=1,dpmpp-2m --check-answer";
    let found = json_of(ddpm(words).arg(&run));
    let answers: Vec<Option<f64>> = rows(&found)
        .iter()
        .map(|row| row["answer"].as_f64())
        .collect();
    // Whatever the batches: 6 images of a sampling of 10 in fours.
    assert_eq!(answers[0], Some(0.0), "{found}");
    assert!(answers[1].unwrap() > 1e-4);
    assert_eq!(answers[2..4], [None, None]);
    // Its first step and its last are DDIM's.
    assert!(
        (answers[5].unwrap() - answers[1].unwrap()).abs() < 1e-5,
        "{found}"
    );
    assert!(found["answer_check"].as_f64().unwrap() > 0.0);
    assert_eq!(found["real_images"], 5);
    assert_eq!(found["real"], "5 images held out");
}

#[test]
fn what_cannot_be_compared_is_said_before_any_sampling() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path(), "");
    let compare = |flags: &str| {
        let mut command = ddpm("compare samplers --device cpu -n 4");
        command.args(flags.split_whitespace()).arg(&run);
        command
    };
    for (flags, said) in [
        (
            "--samplers ddim --steps 2,9",
            "ddim: 9 steps: this model has T = 4",
        ),
        ("--samplers ddcm", "codebooks"),
        ("--samplers analytic --steps 2", "ddpm calibrate"),
        (
            "--samplers ddim:order=3 --steps 2",
            "expected the sampler unipc",
        ),
        (
            "--samplers ddpm --steps 2 --metrics answer",
            "no answer to be near to",
        ),
        ("--samplers euler", "no sampler is called"),
        ("--metrics fid --steps 2", "needs a file of its weights"),
        ("--class 1 --steps 2", "not class-conditional"),
    ] {
        compare(flags)
            .assert()
            .failure()
            .stdout("")
            .stderr(contains(said));
    }
    let found = compare("--samplers all --steps 2,9 --metrics answer,swd --json")
        .assert()
        .success();
    let text = String::from_utf8(found.get_output().stdout.clone()).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    let names: Vec<&str> = rows(&found)
        .iter()
        .map(|row| row["sampler"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["ddpm", "ddim", "dpmpp-2m", "dpmpp-2m-sde", "heun", "unipc"]
    );
    let remarks = found["remarks"].to_string();
    assert!(
        remarks.contains("left out: analytic: ") && remarks.contains("heun, unipc: 9 steps"),
        "{remarks}"
    );
    let table = stdout(&mut compare("--steps 2 --metrics answer --samplers all"));
    assert_eq!(cells(&table).len(), 2 + 4, "{table}");
    assert!(table.contains("ddim with all T = 4 steps"), "{table}");
}
