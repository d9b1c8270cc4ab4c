//! Runs that earlier versions left: they go on.

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

/// Goes on with the run of `golden` at `run`, which was stopped at step 4, and compares step 6.
fn assert_goes_on(golden: &Path, run: &Path) {
    let name = golden.display();
    let out = ddpm()
        // As then: by default it is bf16 where the processor has that.
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
        // Another processor rounds differently; two steps at these rates do not make more of it.
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

/// Each format was stopped at step 4 by the version that wrote it, and gone on with to step 6.
#[test]
fn runs_of_every_format_go_on_as_their_own_version_did() {
    for format in ["format-1", "format-2"] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let golden = repo("tests/runs").join(format);
        copy_folder(&golden.join("stopped"), &run);
        assert_goes_on(&golden, &run);
    }
}

/// A run refuses images whose decoded bytes have changed, so every kind of JPEG must give the same for ever.
#[test]
fn a_run_on_jpeg_files_finds_its_images_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let golden = repo("tests/runs/jpegs");
    copy_folder(&golden.join("stopped"), &run);
    move_images(&run, &golden.join("pictures"));
    assert_goes_on(&golden, &run);
    let list = |run: &Path| std::fs::read_to_string(run.join("pictures.tsv")).unwrap();
    assert_eq!(list(&run), list(&golden.join("stopped")));
    assert_eq!(
        list(&run).lines().next(),
        Some("ddpm pictures 1 10"),
        "none is left out"
    );
}

/// Tells a run where its images are on this machine: the folder is the one setting of it that has no flag.
fn move_images(run: &Path, images: &Path) {
    let path = run.join("config.toml");
    let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let folder = &mut config["data"]["folder"];
    assert_eq!(folder.as_str(), Some("/tmp/jpegs"));
    *folder = images.to_str().unwrap().into();
    std::fs::write(&path, config.to_string()).unwrap();
}
