//! `ddpm report`: one file with all of a run in it, of runs of any age, and small however long they were.
//! `scripts/browser/check.py` opens them in a browser.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use predicates::str::contains;
use serde_json::{Value, json};

const TINY: &str = "train --device cpu --preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 --timesteps 12 \
                    --builtin-images 12 --batch 8 --save-every 10 --sample-every 10 --sample-images 2";

fn ddpm(dir: &Path, words: &str) -> Command {
    let mut command = cargo_bin_cmd!("ddpm");
    // Threads that wait for one another take long on busy cores.
    command
        .args(words.split_whitespace())
        .current_dir(dir)
        .env("OMP_NUM_THREADS", "1");
    command
}

/// What a report shows.
fn data_of(html: &str) -> Value {
    let (_, rest) = html
        .split_once("<script type=\"application/json\" id=\"data\">")
        .unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(json).unwrap()
}

fn read(path: &Path) -> Value {
    data_of(&fs::read_to_string(path).unwrap())
}

fn facts(run: &Value) -> Vec<(&str, &str)> {
    let pairs = run["facts"].as_array().unwrap().iter();
    pairs
        .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect()
}

#[test]
fn training_leaves_a_report_that_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let words = format!("{TINY} --hold-out 4 --evaluate-every 10 --steps 20 --run run");
    ddpm(dir.path(), &words)
        .assert()
        .success()
        .stderr(contains("report: run/report.html"));
    let html = fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    // Nothing is loaded from elsewhere.
    // The name of SVG's elements is no address, and parts of a drawing name each other.
    let bare = html
        .replace("http://www.w3.org/2000/svg", "")
        .replace("url(#", "");
    for outside in ["http://", "https://", "src=\"", "@import", "url("] {
        assert!(!bare.contains(outside), "{outside}");
    }
    let page = data_of(&html);
    let run = &page["runs"][0];
    assert_eq!(
        (&run["state"], &run["step"]),
        (&json!("finished"), &json!(20))
    );
    assert_eq!(
        run["go_on"][0]["command"],
        "ddpm train --run run --steps 40"
    );
    // The curves are those of metrics.jsonl.
    let lines = fs::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps: Vec<&Value> = lines
        .iter()
        .filter(|line| !line["loss"].is_null())
        .collect();
    assert_eq!(steps.len(), 20);
    for (place, line) in steps.iter().enumerate() {
        assert_eq!(run["curves"]["step"][place], line["step"]);
        let [shown, loss] =
            [&run["curves"]["loss"][place], &line["loss"]].map(|v| v.as_f64().unwrap());
        assert!(
            (shown - loss).abs() <= 1e-4 * loss,
            "five digits: {shown} {loss}"
        );
        // With t in 0..12 each t is a part of its own; the batch is the mean over its images.
        let parts = line["loss_by_t"].as_array().unwrap();
        let known: Vec<f64> = parts.iter().filter_map(Value::as_f64).collect();
        let (least, most) = known
            .iter()
            .fold((f64::MAX, 0f64), |(a, b), v| (a.min(*v), b.max(*v)));
        assert!(parts.len() == 12 && !known.is_empty());
        assert!(
            least * 0.999 <= loss && loss <= most * 1.001,
            "{least} {loss} {most}"
        );
    }
    assert_eq!(run["grids"].as_array().unwrap().len(), 2);
    let grid = run["grids"][0]["ema"].as_str().unwrap();
    assert!(grid.starts_with("data:image/jpeg;base64,"));
    assert_eq!(run["evaluation"][0]["steps"], json!([10, 20]));
    assert_eq!(run["by_t"].as_array().unwrap().len(), 3);
    assert_eq!(run["checkpoints"][0]["name"], "step-00000020.safetensors");
    assert_eq!(run["remarks"], json!([]));
    let data = run["data"]["facts"].as_array().unwrap();
    assert_eq!(data[0], json!(["Images", "8"]));
    assert!(data.contains(&json!(["Held out", "4"])));
    assert!(
        run["data"]["sheet"]
            .as_str()
            .unwrap()
            .starts_with("data:image/jpeg")
    );
    let differs = |setting: &str| {
        let all = run["settings"].as_array().unwrap();
        let found = all.iter().find(|s| s["setting"] == setting).unwrap();
        found["value"] != found["preset"]
    };
    assert!(differs("train.batch") && differs("evaluation.every_steps") && !differs("optim.lr"));

    ddpm(
        dir.path(),
        &format!("{TINY} --report false --steps 1 --run silent"),
    )
    .assert()
    .success();
    assert!(!dir.path().join("silent/report.html").exists());
    // Asked for, it is there all the same; another place must be free.
    ddpm(dir.path(), "report silent")
        .assert()
        .success()
        .stderr(contains("silent/report.html, "));
    assert_eq!(
        read(&dir.path().join("silent/report.html"))["runs"][0]["steps"],
        1
    );
    ddpm(dir.path(), "report run silent -o both.html")
        .assert()
        .success();
    ddpm(dir.path(), "report run -o both.html")
        .assert()
        .failure()
        .stderr(contains("--force"));
    ddpm(dir.path(), "report run -o run/metrics.jsonl")
        .assert()
        .failure();
    let both = read(&dir.path().join("both.html"));
    let differences = both["differences"].as_array().unwrap();
    let steps = differences
        .iter()
        .find(|row| row["setting"] == "train.steps")
        .unwrap();
    assert_eq!(steps["values"], json!(["20", "1"]));
    let names: Vec<&Value> = both["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| &run["name"])
        .collect();
    assert_eq!(names, ["run", "silent"]);
}

#[test]
fn runs_of_before_and_damaged_ones_are_shown_as_far_as_they_can_be() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runs");
    let dir = tempfile::tempdir().unwrap();
    let old = fixtures.join("format-1/stopped");
    let out = dir.path().join("old.html");
    let words = format!("report {} -o {}", old.display(), out.display());
    ddpm(dir.path(), &words).assert().success();
    let page = read(&out);
    let run = &page["runs"][0];
    assert!(
        run["curves"]["step"]
            .as_array()
            .is_some_and(|steps| !steps.is_empty())
    );
    assert_eq!(run["by_t"], json!([]), "it was not measured then");

    let hurt = dir.path().join("hurt");
    fs::create_dir_all(hurt.join("samples")).unwrap();
    fs::create_dir_all(hurt.join("incidents")).unwrap();
    fs::copy(old.join("config.toml"), hurt.join("config.toml")).unwrap();
    fs::write(hurt.join("metrics.jsonl"), "what\n{\"step\":1\n").unwrap();
    fs::write(hurt.join("pictures.tsv"), "odd").unwrap();
    fs::write(hurt.join("samples/step-00000001-ema.png"), "no image").unwrap();
    fs::write(hurt.join("incidents/step-00000001.json"), "{}").unwrap();
    ddpm(dir.path(), "report hurt").assert().success();
    let page = read(&hurt.join("report.html"));
    let remarks = page["runs"][0]["remarks"].to_string();
    for what in [
        "2 lines of metrics.jsonl",
        "step-00000001-ema.png",
        "pictures.tsv",
        "step-00000001.json",
    ] {
        assert!(remarks.contains(what), "{what}: {remarks}");
    }
    ddpm(dir.path(), "report nowhere")
        .assert()
        .failure()
        .stderr(contains("is not a run folder"));
}

#[test]
fn a_run_of_500_grids_stays_below_5_mb() {
    let dir = tempfile::tempdir().unwrap();
    let words = format!("{TINY} --steps 1 --report false --run run");
    ddpm(dir.path(), &words).assert().success();
    let run = dir.path().join("run");
    // Noise, the worst that JPEG can be given.
    let mut bits = 1u32;
    let noise = image::RgbImage::from_fn(512, 512, |_, _| {
        bits ^= bits << 13;
        bits ^= bits >> 17;
        bits ^= bits << 5;
        image::Rgb([bits as u8, (bits >> 8) as u8, (bits >> 16) as u8])
    });
    let source = dir.path().join("noise.png");
    noise.save(&source).unwrap();
    for step in 1..=500 {
        for which in ["raw", "ema"] {
            let grid = run.join(format!("samples/step-{:08}-{which}.png", 1000 * step));
            fs::hard_link(&source, grid).unwrap();
        }
    }
    ddpm(dir.path(), "report run").assert().success();
    let path = run.join("report.html");
    let bytes = path.metadata().unwrap().len();
    assert!(bytes < 5_000_000, "{bytes}");
    let page = read(&path);
    let grids = page["runs"][0]["grids"].as_array().unwrap();
    let images = grids.iter().flat_map(|grid| [&grid["ema"], &grid["raw"]]);
    assert_eq!(images.filter(|image| image.is_string()).count(), 48);
    assert_eq!(
        (&grids[0]["step"], &grids[23]["step"]),
        // The run has one of its own step.
        (&json!(1), &json!(500_000))
    );
}

#[test]
fn what_a_name_holds_stays_text() {
    let dir = tempfile::tempdir().unwrap();
    let name = "<script>alert(1)<script>";
    let words = format!("{TINY} --steps 10 --run");
    ddpm(dir.path(), &words).arg(name).assert().success();
    let html = fs::read_to_string(dir.path().join(name).join("report.html")).unwrap();
    assert!(!html.contains("<script>alert"));
    let page = data_of(&html);
    assert_eq!(page["runs"][0]["name"], name);
    let machine = facts(&page["runs"][0])
        .into_iter()
        .find(|(name, _)| *name == "Machine");
    assert!(machine.is_some_and(|(_, machine)| machine.contains("thread")));
}
