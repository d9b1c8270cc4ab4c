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

/// Each format was stopped at step 4 by the version that wrote it, and gone on with to step 6.
#[test]
fn runs_of_every_format_go_on_as_their_own_version_did() {
    for format in ["format-1", "format-2"] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let golden = repo("tests/runs").join(format);
        copy_folder(&golden.join("stopped"), &run);
        let out = ddpm()
            // As then: by default it is bf16 where the processor has that.
            .args("train --steps 6 --device cpu --precision f32 --threads 1 --run".split(' '))
            .arg(&run)
            .output()
            .unwrap();
        assert!(out.status.success(), "{format}: {}", stderr(&out));
        let ours = Golden::open_path(&run.join("checkpoints/step-00000006.safetensors"));
        let theirs = Golden::open_path(&golden.join("step-00000006.safetensors"));
        let state = theirs.section("");
        assert!(state.len() > 50);
        for (name, want) in &state {
            // Another processor rounds differently; two steps at these rates do not make more of it.
            let error = max_abs(ours.get(name), want);
            let size = max_abs(want, &want.zeros_like());
            assert!(
                error <= 1e-4 * size + 1e-6,
                "{format} {name}: {error} of {size}"
            );
        }
        let steps: Vec<u64> = metrics(&run).iter().map(|m| m.0).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6], "{format}");
    }
}
