//! The programs in examples/, on tiny settings.

mod common;

use std::path::Path;
use std::process::Command;

use common::repo;
use ddpm::checkpoint::{read_checkpoint, resolve};

/// Runs an example through cargo, which has built it already under a plain `cargo test`, and returns what it printed;
/// stderr must stay empty.
fn run<'a>(name: &str, arguments: impl IntoIterator<Item = &'a Path>) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--offline", "--example", name]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo
        .arg("--")
        .args(arguments)
        .current_dir(repo(""))
        .env("CUDA_VISIBLE_DEVICES", "")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {stderr}");
    assert_eq!(stderr, "", "{name}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn train_goes_on_where_it_was_and_sample_draws_a_grid() {
    let dir = tempfile::tempdir().unwrap();
    let (data, folder) = (repo("weights/golden/images"), dir.path().join("run"));
    let train = |steps| run("train", [&data, &folder, Path::new(steps)]);
    assert!(train("2").ends_with("Finished\n"));
    let again = train("3");
    assert!(
        again.contains("1 step") && again.ends_with("Finished\n"),
        "{again}"
    );
    let newest = read_checkpoint(&resolve(&folder).unwrap()).unwrap();
    assert_eq!(newest.meta.step, 3);

    let grid = dir.path().join("grid.png");
    let printed = run("sample", [&folder, &grid, Path::new("2")]);
    assert_eq!(
        printed,
        "3 training steps\n[16, 32, 32, 3]: images, height, width, channels\n"
    );
    let grid = image::open(&grid).unwrap();
    assert!(grid.width() >= 4 * 32 && grid.height() >= 4 * 32);
}

#[test]
fn import_prints_what_it_found_and_writes_what_says_everything() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("imported.safetensors");
    let file = repo("weights/peers/lucidrains-model-1.pt");
    let printed = run("import", [&file, &out, Path::new("16")]);
    assert!(printed.contains("family: lucidrains"), "{printed}");
    let imported = read_checkpoint(&out).unwrap();
    assert_eq!(imported.meta.config.model.chw(), [3, 16, 16]);
}
