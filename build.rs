//! Finds libtorch, checks its version, compiles the C++ shim in `src/native/` and links the
//! binary so that it starts bare (rpath). libtorch's CUDA half is not linked but loaded when a CUDA device is chosen
//! (`native::load_cuda`): it takes a fifth of a second and 350 MiB, used or not. What needs CUDA's headers and symbols
//! is a shared object of its own, which the crate carries as bytes and loads behind that half (`native::nccl_part`).
//!
//! An rpath does not reach programs of other crates that use this library: their build scripts get the folder as
//! `DEP_DDPM_LIBTORCH_LIB` and set it (docs/library.md).
//!
//! `LIBTORCH` comes from `.cargo/config.toml` (the `.venv` that `scripts/setup.sh` makes) or,
//! with priority, from the shell.

use std::path::{Path, PathBuf};
use std::{env, fs, process, thread};

/// The libtorch that `tch` in Cargo.toml binds; another one compiles at best by chance.
const WANTED_VERSION: &str = "2.11.0";

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    println!("cargo:rerun-if-changed=src/native");

    let libtorch = find_libtorch();
    check_version(&libtorch);
    // Its headers take ten seconds: beside the shim.
    let part = thread::spawn({
        let libtorch = libtorch.clone();
        move || nccl_part(&libtorch)
    });
    compile_shim(&libtorch);
    compile_start();
    link(&libtorch.join("lib"));
    if part.join().is_err() {
        stop("the NCCL part cannot be built: see above");
    }
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

/// C++ on libtorch's headers.
fn on_libtorch(libtorch: &Path) -> cc::Build {
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into());
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        // c10d's headers want Gloo's, which libtorch comes without.
        .include("src/native/gloo")
        .define("USE_C10D_GLOO", None)
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        // libtorch's own headers are not warning-free.
        .warnings(false);
    // Of what is optimized, line tables alone, as of the Rust code (Cargo.toml). cc knows all or nothing: all, most of it about
    // libtorch's templates, is a fifth of the compiler's time, and 26 of the 34 MB of this library.
    let is_optimized = env::var("OPT_LEVEL").is_ok_and(|level| level != "0");
    if is_optimized && env::var("DEBUG").is_ok_and(|debug| debug != "false") {
        build.debug(false).flag("-g1");
    }
    build
}

fn compile_shim(libtorch: &Path) {
    on_libtorch(libtorch)
        // ATen/Parallel.h runs on the threads of the OpenMP that libtorch itself uses.
        .flag("-fopenmp")
        .file("src/native/all.cpp")
        .file("src/native/fused/all.cpp")
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

/// Makes `nccl.so` in OUT_DIR. The crate is built without it, with no bytes there and the reason in DDPM_NO_NCCL, where
/// libtorch has no CUDA half, or NCCL's and CUDA's headers are not beside it as PyPI's packages put them.
fn nccl_part(libtorch: &Path) {
    let part = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("nccl.so");
    let built =
        nccl_headers(libtorch).and_then(|headers| build_nccl_part(libtorch, &headers, &part));
    if let Err(reason) = built {
        println!("cargo:rustc-env=DDPM_NO_NCCL={reason}");
        fs::write(&part, []).expect("OUT_DIR can be written to");
    }
}

/// The folders of NCCL's and CUDA's headers.
fn nccl_headers(libtorch: &Path) -> Result<[PathBuf; 2], String> {
    if !libtorch.join("lib/libtorch_cuda.so").exists() {
        return Err("it was made with a libtorch without CUDA".into());
    }
    let nvidia = libtorch.join("../nvidia");
    let folders = ["nccl/include", "cu13/include"].map(|folder| nvidia.join(folder));
    let [nccl, cuda] = &folders;
    for header in [
        nccl.join("nccl.h"),
        cuda.join("cuda_runtime_api.h"),
        cuda.join("crt/host_config.h"),
        cuda.join("nv/target"),
    ] {
        // What is there of the way to it, as a folder changes when something comes into it; but nothing above NVIDIA's,
        // all of which cargo would look through.
        let there = header.ancestors().find(|path| path.exists());
        if let Some(there) = there.filter(|path| path.starts_with(&nvidia)) {
            println!("cargo:rerun-if-changed={}", there.display());
        }
        if !header.exists() {
            return Err(format!(
                "it was made without {}, which ./scripts/setup.sh installs beside its libtorch",
                header.display()
            ));
        }
    }
    Ok(folders)
}

fn build_nccl_part(libtorch: &Path, headers: &[PathBuf], part: &Path) -> Result<(), String> {
    // A folder of its own: cc tries flags in files there, and the shim is compiled meanwhile.
    let folder = part.with_extension("build");
    fs::create_dir_all(&folder).expect("OUT_DIR can be written to");
    let mut build = on_libtorch(libtorch);
    build
        .out_dir(folder)
        .includes(headers)
        .file("src/native/nccl.cpp")
        // The crate carries it: no symbols of its own, and nothing for a debugger.
        .debug(false)
        .cargo_metadata(false);
    let objects = build.try_compile_intermediates();
    let objects =
        objects.map_err(|_| "src/native/nccl.cpp does not compile with this libtorch's headers")?;
    // CUDA's symbols and libtorch's stay open: what is in the process when it is loaded has them.
    let linked = build
        .get_compiler()
        .to_command()
        .args([
            "-shared",
            "-s",
            "-Wl,--version-script=src/native/nccl.map",
            "-o",
        ])
        .arg(part)
        .args(objects)
        .status();
    match linked {
        Ok(status) if status.success() => Ok(()),
        _ => Err("it could not be linked".into()),
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
