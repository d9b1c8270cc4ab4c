//! Runs of earlier versions can be resumed.

use std::path::Path;

use crate::common::{Golden, max_abs, repo};

use super::tiny::{ddpm, metrics, stderr};

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Resumes the run of `golden` at `run`, which was stopped at step 4, and compares step 6.
fn assert_resumes(golden: &Path, run: &Path) {
    let name = golden.display();
    let out = ddpm()
        // As in the original run: the default is bf16 where the processor supports it.
        .args("train --steps 6 --device cpu --precision f32 --threads 1 --run".split(' '))
        .arg(run)
        .output()
        .unwrap();
    assert!(out.status.success(), "{name}: {}", stderr(&out));
    let ours = Golden::open_path(&run.join("checkpoints/step-00000006.safetensors"));
    let theirs = Golden::open_path(&golden.join("step-00000006.safetensors"));
    let state = theirs.section("");
    assert!(state.len() > 50);
    for (tensor, want) in &state {
        // Another processor rounds differently; the error does not grow much in two steps at these rates.
        let error = max_abs(ours.get(tensor), want);
        let size = max_abs(want, &want.zeros_like());
        assert!(
            error <= 1e-4 * size + 1e-6,
            "{name} {tensor}: {error} of {size}"
        );
    }
    let steps: Vec<u64> = metrics(run).iter().map(|m| m.0).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6], "{name}");
}

/// The version that wrote a run stopped it at step 4, and resumed it until step 6.
#[test]
fn runs_of_every_format_resume_as_in_their_own_version() {
    for format in ["format-1", "format-2", "draws-image"] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let golden = repo("tests/runs").join(format);
        copy_folder(&golden.join("stopped"), &run);
        assert_resumes(&golden, &run);
    }
}

/// A run refuses images whose decoded bytes have changed, so the decoded bytes of every kind of JPEG must never change.
#[test]
fn a_run_on_jpeg_files_finds_its_images_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let golden = repo("tests/runs/jpegs");
    copy_folder(&golden.join("stopped"), &run);
    move_images(&run, &golden.join("pictures"));
    assert_resumes(&golden, &run);
    let list = |run: &Path| std::fs::read_to_string(run.join("pictures.tsv")).unwrap();
    assert_eq!(list(&run), list(&golden.join("stopped")));
    assert_eq!(
        list(&run).lines().next(),
        Some("ddpm pictures 1 10"),
        "no image is left out"
    );
}

#[test]
fn a_run_that_is_told_the_classes_resumes_as_in_its_own_version() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let golden = repo("tests/runs/format-3");
    copy_folder(&golden.join("stopped"), &run);
    move_images(&run, &repo("tests/runs/jpegs/pictures"));
    let path = run.join("config.toml");
    let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    config["data"]["labels"] = golden.join("labels.csv").to_str().unwrap().into();
    std::fs::write(&path, config.to_string()).unwrap();
    assert_resumes(&golden, &run);
}

#[test]
fn an_old_run_keeps_what_it_began_with_and_a_new_one_with_its_settings_has_todays() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let golden = repo("tests/runs/jpegs");
    copy_folder(&golden.join("stopped"), &old);
    move_images(&old, &golden.join("pictures"));
    let settings = |run: &Path| {
        let text = std::fs::read_to_string(run.join("config.toml")).unwrap();
        let config: toml::Table = text.parse().unwrap();
        let rules = config["data"].get("rules");
        let name = |section: &str, key| {
            let value = config[section].get(key).and_then(toml::Value::as_str);
            value.unwrap_or("unnamed").to_owned()
        };
        (
            rules.and_then(toml::Value::as_integer),
            name("train", "draws"),
            name("optim", "norms"),
        )
    };
    let start = |flag: &str, from: &Path, run: &Path| {
        let mut command = ddpm();
        command.args("train --steps 6 --sample-every 0 --device cpu --threads 1".split(' '));
        command.arg(flag).arg(from).arg("--run").arg(run);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
        stderr(&out)
    };
    let said = start("--config", &old.join("config.toml"), &new);
    assert_eq!(
        settings(&new),
        (Some(2), "image".to_owned(), "blocked".to_owned())
    );
    assert!(!said.contains("rules of images"), "{said}");
    let renewed = [
        "this one has data.rules: 2 instead of 1, ",
        "optim.norms: \"blocked\" instead of \"plain\", ",
        "train.draws: \"image\" instead of \"batch\"; ",
    ];
    assert!(said.contains(&renewed.concat()), "{said}");
    let said = start("--data", &golden.join("pictures"), &old);
    assert_eq!(
        settings(&old),
        (None, "unnamed".to_owned(), "unnamed".to_owned())
    );
    let note = "note: this run keeps the rules of images that it began with";
    assert!(
        said.contains(note) && said.contains("(--init-from)"),
        "{said}"
    );
}

/// Changes the folder of a run's images to the one on this machine, as an editor would.
fn move_images(run: &Path, images: &Path) {
    let path = run.join("config.toml");
    let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let folder = &mut config["data"]["folder"];
    assert_eq!(folder.as_str(), Some("/tmp/jpegs"));
    *folder = images.to_str().unwrap().into();
    std::fs::write(&path, config.to_string()).unwrap();
}
