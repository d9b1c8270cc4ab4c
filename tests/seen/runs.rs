//! `ddpm runs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::common::repo;
use crate::tiny::{Watched, checkpoint, ddpm, stderr, train, train_to, wait_until};

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A run of an earlier version with 4 steps done, of as many as are named.
fn old_run(dir: &Path, format: &str, steps: u64) {
    copy_folder(&repo("tests/runs").join(format).join("stopped"), dir);
    let path = dir.join("config.toml");
    let mut config: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    config["train"]["steps"] = i64::try_from(steps).unwrap().into();
    fs::write(&path, config.to_string()).unwrap();
}

/// Has a run seem to have been trained so many hours ago.
fn age(run: &Path, hours: u64) {
    for file in ["metrics.jsonl", "checkpoints/latest", "config.toml"] {
        let Ok(file) = fs::File::open(run.join(file)) else {
            continue;
        };
        let time = SystemTime::now() - Duration::from_secs(3600 * hours + 60);
        file.set_times(fs::FileTimes::new().set_modified(time))
            .unwrap();
    }
}

fn runs(arguments: &[&str], dir: &Path) -> String {
    let out = ddpm()
        .arg("runs")
        .args(arguments)
        .arg(dir)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    String::from_utf8(out.stdout).unwrap()
}

fn rows(dir: &Path) -> Vec<Value> {
    serde_json::from_str(&runs(&["--json"], dir)).unwrap()
}

fn row(dir: &Path, name: &str) -> Value {
    let run = dir.join(name);
    let found = rows(dir)
        .into_iter()
        .find(|row| row["run"] == run.to_str().unwrap());
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn each_run_is_a_row_whatever_is_wrong_with_others() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let all = ["done", "half", "new", "torn", "lost", "odd"];
    old_run(&at("done"), "format-1", 4);
    old_run(&at("half"), "format-2", 6);
    old_run(&at("new"), "format-2", 6);
    fs::remove_dir_all(at("new/checkpoints")).unwrap();
    fs::create_dir(at("new/checkpoints")).unwrap();
    fs::remove_file(at("new/metrics.jsonl")).unwrap();
    old_run(&at("torn"), "format-2", 6);
    let torn = fs::OpenOptions::new()
        .write(true)
        .open(checkpoint(&at("torn"), 4))
        .unwrap();
    torn.set_len(1000).unwrap();
    old_run(&at("lost"), "format-2", 6);
    fs::remove_dir_all(at("lost/checkpoints")).unwrap();
    old_run(&at("odd"), "format-2", 6);
    fs::write(at("odd/config.toml"), "\u{1b}[31m").unwrap();
    for (hours, name) in (1..).zip(all) {
        age(&at(name), hours);
    }
    let found = rows(dir.path());
    let of = |key: &str| -> Vec<Value> { found.iter().map(|row| row[key].clone()).collect() };
    // The one trained last comes first.
    let names: Vec<PathBuf> = all.iter().map(|name| at(name)).collect();
    assert_eq!(
        of("run"),
        names
            .iter()
            .map(|n| json!(n.to_str().unwrap()))
            .collect::<Vec<_>>()
    );
    let states = [
        "finished",
        "stopped",
        "not begun",
        "damaged",
        "damaged",
        "damaged",
    ];
    assert_eq!(of("state"), states.map(Value::from));
    assert_eq!(of("step"), [4, 4, 0, 4, 4, 4].map(Value::from));
    let damage = of("damage");
    assert_eq!(damage[..3], [Value::Null, Value::Null, Value::Null]);
    for (damage, wanted) in
        damage[3..]
            .iter()
            .zip(["no checkpoint of", "checkpoints is missing", "config.toml"])
    {
        let damage = damage.as_str().unwrap();
        assert!(
            damage.contains(wanted) && !damage.contains('\u{1b}'),
            "{damage}"
        );
    }
    // The mean and the median of the four lines of its metrics.jsonl.
    let lines = fs::read_to_string(at("half/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let numbers = |key: &str| -> Vec<f64> {
        lines
            .iter()
            .map(|line| line[key].as_f64().unwrap())
            .collect()
    };
    let mean = numbers("loss").iter().sum::<f64>() / 4.0;
    assert!((found[1]["loss"].as_f64().unwrap() - mean).abs() < 1e-9 * mean);
    let mut speeds = numbers("images_per_sec");
    speeds.sort_by(f64::total_cmp);
    assert_eq!(found[1]["images_per_sec"].as_f64(), Some(speeds[2]));
    assert!(found[1]["bytes"].as_u64().unwrap() > 10_000);
    let secs = found[1]["changed_secs_ago"].as_u64().unwrap();
    assert!((7200..14_400).contains(&secs), "{secs}");

    let table = runs(&[], dir.path());
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 1 + all.len(), "{table}");
    assert!(
        lines[0].starts_with("run ") && lines[0].contains("last change (UTC)"),
        "{table}"
    );
    assert!(
        lines[2].contains(" stopped ")
            && lines[2].contains(" 4 of 6 ")
            && lines[2].contains("(2 h ago)"),
        "{table}"
    );
    assert!(
        lines[4].contains(" damaged ") && lines[4].contains("no checkpoint of"),
        "{table}"
    );
}

#[test]
fn a_run_that_is_trained_is_seen_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 2, &[]);
    assert_eq!(row(dir.path(), "run")["state"], "finished");
    fs::write(run.join("log.old.txt"), "old").unwrap();
    let latest = || fs::read_to_string(run.join("checkpoints/latest")).unwrap();
    let first = latest();
    let mut child = Watched::spawn(train(&run, 1_000_000, &[]));
    wait_until("another checkpoint", || latest() != first);
    let seen = row(dir.path(), "run");
    assert_eq!(
        (&seen["state"], &seen["steps"]),
        (&json!("training"), &json!(1_000_000))
    );
    assert!(seen["step"].as_u64().unwrap() > 2, "{seen}");
    let by = format!("process {} on ", child.child.id());
    assert!(
        seen["trained_by"].as_str().unwrap().starts_with(&by),
        "{seen}"
    );
    for flags in [&["--prune"][..], &["--prune", "--yes", "--empty"]] {
        let said = runs(flags, dir.path());
        assert!(
            said.contains("run: passed over: ") && said.contains(&by),
            "{said}"
        );
    }
    assert!(run.join("log.old.txt").exists());
    child.signal("INT");
    assert_eq!(child.code(), Some(130));
    assert_eq!(row(dir.path(), "run")["state"], "stopped");
}

/// The files below a folder, without their folder.
fn files(dir: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(dir)
        .sort_by_file_name()
        .into_iter()
        .map(|e| e.unwrap());
    let files = entries.filter(|entry| !entry.file_type().is_dir());
    let name = |path: &Path| path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
    files.map(|entry| name(entry.path())).collect()
}

/// Has a file, or a link itself, seem two hours old.
fn make_old(path: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    let secs = long_ago
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let time = rustix::fs::Timespec {
        tv_sec: i64::try_from(secs).unwrap(),
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}

#[test]
fn only_what_is_not_needed_is_removed_and_only_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let more = "--keep 9 --hold-out 3 --evaluate-every 4 --evaluate-images 4";
    train_to(&run, 8, &more.split(' ').collect::<Vec<_>>());
    let best = fs::read_link(run.join("checkpoints/best.safetensors")).unwrap();
    let at = |name: &str| run.join(name);
    let outside = dir.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    let pinned = [
        "step-00000002.1f3a09c2.pin",
        "step-00000003.pinned.safetensors",
    ];
    fs::write(at("checkpoints").join(pinned[0]), "{}").unwrap();
    // A checkpoint that was set aside and released; what was measured of one that is needed, and of one that is not.
    fs::write(at("checkpoints").join(pinned[1]), "x").unwrap();
    for step in [6, 8] {
        fs::write(
            at(&format!(
                "checkpoints/step-0000000{step}.safetensors.ema.analytic.json"
            )),
            "{}",
        )
        .unwrap();
    }
    for name in [
        "log.old.txt",
        "metrics-bad.jsonl",
        "metrics-after-step-00000002.jsonl",
        "notes.txt",
        ".tmp-young",
    ] {
        fs::write(at(name), "x").unwrap();
    }
    // A link is removed, and not what it points to.
    std::os::unix::fs::symlink(&outside, at("checkpoints/.tmp-best")).unwrap();
    fs::write(at("samples/.tmp-old"), "half").unwrap();
    for old in ["checkpoints/.tmp-best", "samples/.tmp-old"] {
        make_old(&at(old));
    }
    let before = files(&run);

    let said = runs(&["--prune"], dir.path());
    assert_eq!(files(&run), before, "a dry run");
    let mut gone = vec![
        "checkpoints/.tmp-best",
        "checkpoints/step-00000003.pinned.safetensors",
        "checkpoints/step-00000006.safetensors",
        "checkpoints/step-00000006.safetensors.ema.analytic.json",
        "log.old.txt",
        "metrics-after-step-00000002.jsonl",
        "metrics-bad.jsonl",
        "samples/.tmp-old",
    ];
    if best.to_str() != Some("step-00000004.safetensors") {
        gone.insert(2, "checkpoints/step-00000004.safetensors");
    }
    for name in &gone {
        assert!(said.contains(&format!("  {name} ")), "{name}: {said}");
    }
    assert!(
        said.contains(&format!("can be removed: {} files, ", gone.len())),
        "{said}"
    );
    assert!(said.contains("add --yes"), "{said}");

    let said = runs(&["--prune", "--yes"], dir.path());
    assert!(
        said.contains(&format!("removed: {} files, ", gone.len())),
        "{said}"
    );
    let left: Vec<String> = before
        .iter()
        .filter(|name| !gone.contains(&name.as_str()))
        .cloned()
        .collect();
    assert_eq!(files(&run), left);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
    assert!(runs(&["--prune", "--yes"], dir.path()).contains("there is nothing to remove"));
    // It goes on as if nothing had happened.
    train_to(&run, 10, &[]);
}

#[test]
fn checkpoints_stay_where_the_newest_cannot_be_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_to(&run, 6, &["--keep", "9"]);
    // One number of its weights: the file is as long as it was.
    let mut bytes = fs::read(checkpoint(&run, 6)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(checkpoint(&run, 6), bytes).unwrap();
    let said = runs(&["--prune", "--yes"], dir.path());
    assert!(
        said.contains("step-00000006.safetensors cannot be used"),
        "{said}"
    );
    let there: Vec<u64> = (0..=6)
        .filter(|step| checkpoint(&run, *step).exists())
        .collect();
    assert_eq!(
        there,
        [4, 6],
        "the newest that can be read, and the damaged one"
    );
    for step in [4, 6] {
        fs::write(checkpoint(&run, step), "rubbish").unwrap();
    }
    let said = runs(&["--prune", "--yes"], dir.path());
    assert!(said.contains("its checkpoints stay"), "{said}");
    assert!(checkpoint(&run, 4).exists() && checkpoint(&run, 6).exists());
}

#[test]
fn links_lead_nowhere_and_empty_runs_go_when_named() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, elsewhere) = (dir.path().join("runs"), dir.path().join("elsewhere"));
    let at = |name: &str| folder.join(name);
    // The checkpoints of one lie on another disk, and one run as a whole.
    train_to(&at("a"), 4, &["--keep", "9"]);
    fs::rename(at("a/checkpoints"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, at("a/checkpoints")).unwrap();
    let far = dir.path().join("far");
    train_to(&far, 4, &["--keep", "9"]);
    std::os::unix::fs::symlink(&far, at("b")).unwrap();
    // One that never came to a checkpoint, one that lost its checkpoints, and one with something of the user's.
    train_to(&at("c"), 4, &[]);
    copy_folder(&at("c"), &at("d"));
    copy_folder(&at("c"), &at("lost"));
    for name in ["c", "d", "lost"] {
        for part in [
            "latest",
            "step-00000002.safetensors",
            "step-00000004.safetensors",
        ] {
            fs::remove_file(at(name).join("checkpoints").join(part)).unwrap();
        }
        let lines = fs::read_to_string(at(name).join("metrics.jsonl")).unwrap();
        let first = lines.lines().next().unwrap();
        fs::write(at(name).join("metrics.jsonl"), format!("{first}\n")).unwrap();
    }
    fs::remove_dir(at("lost/checkpoints")).unwrap();
    fs::write(at("d/notes.txt"), "mine").unwrap();
    assert_eq!(row(&folder, "c")["state"], "not begun");

    let said = runs(&["--prune", "--yes"], &folder);
    assert!(said.contains("b: a link, passed over"), "{said}");
    assert!(said.contains("there is nothing to remove"), "{said}");
    let said = runs(&["--prune", "--empty"], &folder);
    assert!(
        said.contains("of a run without a checkpoint") && at("c/config.toml").exists(),
        "{said}"
    );
    let said = runs(&["--prune", "--yes", "--empty"], &folder);
    assert!(said.contains("its folder stays"), "{said}");
    assert!(!at("c").exists());
    assert_eq!(files(&at("d")), ["notes.txt"]);
    assert!(at("lost/metrics.jsonl").exists(), "{said}");
    for folder in [&elsewhere, &far.join("checkpoints")] {
        assert!(folder.join("step-00000002.safetensors").exists());
    }
    // Named itself, the run behind a link is pruned.
    runs(&["--prune", "--yes"], &far);
    assert!(!far.join("checkpoints/step-00000002.safetensors").exists());
}
