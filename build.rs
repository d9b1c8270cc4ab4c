//! Finds libtorch, checks its version, compiles the C++ shim in `src/native/` and links the
//! binary so that it starts bare (rpath). libtorch's CUDA half is not linked but loaded when a CUDA device is chosen
//! (`native::load_cuda`): it takes a fifth of a second and 350 MiB, used or not.
//!
//! An rpath does not reach programs of other crates that use this library: their build scripts get the folder as
//! `DEP_DDPM_LIBTORCH_LIB` and set it (docs/library.md).
//!
//! `LIBTORCH` comes from `.cargo/config.toml` (the `.venv` that `scripts/setup.sh` makes) or,
//! with priority, from the shell.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// The libtorch that `tch` in Cargo.toml binds; another one compiles at best by chance.
const WANTED_VERSION: &str = "2.11.0";

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    println!("cargo:rerun-if-changed=src/native");

    let libtorch = find_libtorch();
    check_version(&libtorch);
    compile_shim(&libtorch);
    compile_start();
    link(&libtorch.join("lib"));
}

/// Says what is wrong and what to do, without a panic's backtrace around it.
fn stop(message: &str) -> ! {
    println!("cargo:warning={message}");
    eprintln!("error: {message}");
    process::exit(1);
}

fn find_libtorch() -> PathBuf {
    let Some(dir) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        stop("LIBTORCH is not set: run ./scripts/setup.sh and build inside the project folder");
    };
    if !dir.join("lib/libtorch.so").exists() {
        stop(&format!(
            "no libtorch at {}: run ./scripts/setup.sh, or set LIBTORCH to a libtorch {WANTED_VERSION}",
            dir.display()
        ));
    }
    dir
}

fn check_version(libtorch: &Path) {
    let header = libtorch.join("include/torch/headeronly/version.h");
    println!("cargo:rerun-if-changed={}", header.display());
    let text = fs::read_to_string(&header).unwrap_or_default();
    let number = |part: &str| {
        let name = format!("#define TORCH_VERSION_{part} ");
        text.lines()
            .find_map(|line| Some(line.strip_prefix(&name)?.trim().to_owned()))
    };
    let parts: Option<Vec<_>> = ["MAJOR", "MINOR", "PATCH"]
        .map(number)
        .into_iter()
        .collect();
    let seen = parts.map(|p| p.join("."));
    match seen {
        Some(v) if v == WANTED_VERSION => println!("cargo:rustc-env=DDPM_LIBTORCH_VERSION={v}"),
        Some(v) => stop(&format!(
            "libtorch at {} is {v}, this crate is built for {WANTED_VERSION}: run ./scripts/setup.sh, or point LIBTORCH at a {WANTED_VERSION}",
            libtorch.display()
        )),
        None => stop(&format!(
            "cannot tell the version of libtorch at {} (no TORCH_VERSION in {})",
            libtorch.display(),
            header.display()
        )),
    }
}

fn compile_shim(libtorch: &Path) {
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        // libtorch's own headers are not warning-free.
        .warnings(false)
        // ATen/Parallel.h runs on the threads of the OpenMP that libtorch itself uses.
        .flag("-fopenmp")
        .file("src/native/shim.cpp")
        .file("src/native/cuda.cpp")
        .file("src/native/weights.cpp")
        .file("src/native/fused/block.cpp")
        .file("src/native/fused/checkpointed.cpp")
        .file("src/native/fused/composed.cpp")
        .file("src/native/fused/conv.cpp")
        .file("src/native/fused/kept_filters.cpp")
        .file("src/native/fused/norm.cpp")
        .file("src/native/fused/pool.cpp")
        .file("src/native/fused/winograd_conv.cpp")
        .compile("ddpm_native");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        // Nothing here asks for errno or traps, which keep loops from becoming vectors.
        .flag("-fno-math-errno")
        .flag("-fno-trapping-math")
        .flag("-fopenmp-simd")
        .file("src/native/area.cpp")
        .file("src/native/fused/rows.cpp")
        .file("src/native/fused/winograd.cpp")
        .compile("ddpm_loops");
}

/// What the program checks before libtorch starts. As an object, because a linker takes nothing from a library that
/// nobody calls.
fn compile_start() {
    let objects = cc::Build::new()
        .file("src/native/start.c")
        .compile_intermediates();
    for object in objects {
        println!("cargo:rustc-link-arg-bins={}", object.display());
    }
}

fn link(lib: &Path) {
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    // The file beside libtorch, so that there is one OpenMP in the process.
    println!("cargo:rustc-link-lib=dylib:+verbatim=libgomp.so.1");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:libtorch_lib={}", lib.display());
}
