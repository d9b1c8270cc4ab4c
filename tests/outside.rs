//! A crate outside the tree that depends on this one: cargo builds it, and its program starts bare.
//!
//! `tests/outside/` is that crate as docs/library.md shows it, but for the paths. It is built with this project's
//! lock file and target folder, so its dependencies are there already; only this library is compiled again, without
//! optimization, as another workspace's package is another unit to cargo.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{libtorch, repo};

/// The crate, laid out under `parent`.
fn lay_out(parent: &Path) -> PathBuf {
    let root = parent.join("dependent");
    fs::create_dir_all(root.join("src")).unwrap();
    fs::create_dir(root.join(".cargo")).unwrap();
    for (from, to) in [
        ("Cargo.toml.in", "Cargo.toml"),
        ("config.toml", ".cargo/config.toml"),
        ("build.rs", "build.rs"),
        ("src/main.rs", "src/main.rs"),
    ] {
        let text = fs::read_to_string(repo("tests/outside").join(from)).unwrap();
        let text = text
            .replace("../ddpm/.venv/libtorch", libtorch().to_str().unwrap())
            .replace("../ddpm", repo("").to_str().unwrap().trim_end_matches('/'));
        fs::write(root.join(to), text).unwrap();
    }
    // The versions that are fetched already.
    fs::copy(repo("Cargo.lock"), root.join("Cargo.lock")).unwrap();
    root
}

/// A cargo subcommand on the crate, in the profile and the target folder of this build.
fn cargo(root: &Path, subcommand: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([subcommand, "--offline", "--target-dir"])
        .arg(target())
        .current_dir(root)
        // The crate's own .cargo/config.toml is what has to say it.
        .env_remove("LIBTORCH");
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    cargo
}

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Moves the program out of the target folder, and clears that of all that is the crate's own: the next run's is in
/// another folder, so another package to cargo.
fn take_program(root: &Path) -> PathBuf {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let program = root.join("program");
    fs::copy(target().join(profile).join("dependent"), &program).unwrap();
    let cleaned = cargo(root, "clean")
        .args(["-p", "dependent"])
        .output()
        .unwrap();
    assert!(
        cleaned.status.success(),
        "{}",
        String::from_utf8_lossy(&cleaned.stderr)
    );
    program
}

/// What the program prints when it is started without help of cargo.
fn started(program: &Path, name: &str, value: &Path) -> String {
    let run = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .arg(run.path().join("run"))
        .env_remove("LD_LIBRARY_PATH")
        .env(name, value)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr, "");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_page_shows_the_files_of_the_crate() {
    let page = fs::read_to_string(repo("docs/library.md")).unwrap();
    for file in ["build.rs", "config.toml"] {
        let text = fs::read_to_string(repo("tests/outside").join(file)).unwrap();
        assert!(page.contains(&text), "{file}");
    }
}

#[test]
fn a_crate_outside_the_tree_builds_and_starts() {
    let dir = tempfile::tempdir().unwrap();
    let root = lay_out(dir.path());
    let built = cargo(&root, "build").output().unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let program = take_program(&root);

    let came_to = "Finished\nimages: [2, 32, 32, 3]\n";
    let said = started(&program, "CUDA_VISIBLE_DEVICES", Path::new(""));
    assert!(said.ends_with(came_to), "{said}");

    // The reason why CUDA is not used.
    let driver = common::driver("");
    let said = started(&program, "LD_LIBRARY_PATH", driver.path());
    let reason = "CUDA: libcuda.so.1 is not an NVIDIA driver\n";
    assert!(
        said.starts_with(reason) && said.ends_with(came_to),
        "{said}"
    );

    // The loader prints the libraries and leaves: one OpenMP, and that is libtorch's.
    let libraries = started(&program, "LD_TRACE_LOADED_OBJECTS", Path::new("1"));
    let openmp: Vec<_> = libraries.lines().filter(|l| l.contains("omp")).collect();
    let lib = libtorch().join("lib");
    assert_eq!(openmp.len(), 1, "{libraries}");
    assert!(openmp[0].contains(lib.to_str().unwrap()), "{libraries}");
}
