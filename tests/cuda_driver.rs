//! NVIDIA's driver as the program meets it: none, too old, a GPU that libtorch has no code for; what of CUDA is loaded
//! when, and whether kernels can be compiled. The drivers are small libraries by the name of NVIDIA's; no GPU is
//! needed.

mod common;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{driver, driver_functions, libtorch, repo};
use ddpm::config::Preset;
use ddpm::device::{AskedTooEarly, ConvolutionSearch, DeviceChoice, Precision, choose};
use ddpm::diffusion::Schedule;
use ddpm::native::{set_cudnn_search, set_deterministic};
use ddpm::sample::{Ddpm, Images, NoiseSource, Process, Respaced, Sampler, sample_images};
use tch::{Device, Tensor};
use tempfile::TempDir;

/// A driver of this version of CUDA, with one GPU of this compute capability.
fn with_gpu(version: u32, capability: (u32, u32)) -> TempDir {
    driver(&format!(
        r#"
        #include <stdio.h>
        int cuDriverGetVersion(int *version) {{ return *version = {version}, 0; }}
        int cuInit(unsigned flags) {{ return 0; }}
        int cuDeviceGet(int *handle, int index) {{ return *handle = index, index == 0 ? 0 : 101; }}
        int cuDeviceGetName(char *name, int capacity, int handle) {{ return snprintf(name, capacity, "Paper GPU"), 0; }}
        int cuDeviceGetAttribute(int *value, int attribute, int handle) {{
            return *value = attribute == 75 ? {} : {}, 0;
        }}
        int cuGetErrorString(int status, const char **text) {{
            return *text = status == 101 ? "invalid device ordinal" : "another error", 0;
        }}
        "#,
        capability.0, capability.1
    ))
}

/// The driver of a machine on which the program can use CUDA, as far as can be seen before libtorch is asked.
fn recent() -> TempDir {
    with_gpu(13000, (8, 6))
}

/// The program with this driver.
fn ddpm(driver: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm"));
    command.env("LD_LIBRARY_PATH", driver.path());
    command
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// True if this libtorch has a CUDA half, and one for CUDA 13; the texts below are about that.
fn for_cuda_13() -> bool {
    let library = std::fs::read(libtorch().join("lib/libc10_cuda.so")).unwrap_or_default();
    let is = library.windows(15).any(|bytes| bytes == b"libcudart.so.13");
    if !is {
        eprintln!("skipped: this libtorch is not the one for CUDA 13");
    }
    is
}

/// A tiny run on the CPU, in a folder to be removed.
fn tiny_run() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let output = Command::new(env!("CARGO_BIN_EXE_ddpm"))
        .args(TRAIN.split_whitespace())
        .args(["--device", "cpu", "--run"])
        .arg(&run)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    (dir, run)
}

const TRAIN: &str = "train --preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1,2 \
                     --builtin-images 4 --batch 2 --steps 1 --timesteps 4 --sample-every 0";

#[test]
fn a_driver_that_is_too_old_is_named_with_the_one_that_is_needed() {
    if !for_cuda_13() {
        return;
    }
    let old = with_gpu(12080, (8, 6));
    let reason = "the NVIDIA driver is too old: it supports CUDA 12.8";
    let needed =
        "and this libtorch needs CUDA 13.0 (release 580.65.06 or later); update the driver";
    let output = ddpm(&old).args(["train", "--device", "cuda"]).output();
    let text = said(&output.unwrap());
    for part in [reason, needed, "or --device cpu"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let doctor = said(&ddpm(&old).arg("doctor").output().unwrap());
    for part in [
        "driver     CUDA 12.8",
        "; this libtorch needs CUDA 13.0 (release 580.65.06 or later)",
        reason,
    ] {
        assert!(doctor.contains(part), "{part}: {doctor}");
    }
}

#[test]
fn a_gpu_that_libtorch_has_no_code_for_is_refused() {
    if !for_cuda_13() {
        return;
    }
    let pascal = with_gpu(13000, (6, 1));
    let output = ddpm(&pascal).args(["train", "--device", "cuda"]).output();
    let text = said(&output.unwrap());
    assert!(
        text.contains("Paper GPU has compute capability 6.1, and this libtorch has code for 7.5"),
        "{text}"
    );
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let output = ddpm(&recent())
        .args(["train", "--device", "cuda:1"])
        .output();
    let text = said(&output.unwrap());
    assert!(
        text.contains("--device cuda:1 cannot be used: no CUDA device 1: cuDeviceGet returned 101 (invalid device ordinal)"),
        "{text}"
    );
}

#[test]
fn a_library_that_is_no_driver_is_refused() {
    let none = driver("");
    let output = ddpm(&none).args(["train", "--device", "cuda"]).output();
    let text = said(&output.unwrap());
    assert!(
        text.contains("libcuda.so.1 is not an NVIDIA driver"),
        "{text}"
    );
}

/// Copies the list of what a process has mapped, when it ends, to the file that `MAPS` names.
const KEEP_MAPS: &str = r#"
#include <stdio.h>
#include <stdlib.h>
__attribute__((destructor)) static void keep_maps(void) {
    FILE *from = fopen("/proc/self/maps", "r"), *to = fopen(getenv("MAPS"), "w");
    for (int c; (c = fgetc(from)) != EOF;) fputc(c, to);
    fclose(to);
}
"#;

/// The libraries that a command of the program has loaded when it ends.
fn loaded(driver: &TempDir, arguments: &[&str]) -> String {
    let preload = driver.path().join("keep_maps.so");
    if !preload.exists() {
        common::library(&preload, KEEP_MAPS, &[]);
    }
    let maps = driver.path().join("maps");
    let output = ddpm(driver)
        .args(arguments)
        .env("LD_PRELOAD", &preload)
        .env("MAPS", &maps)
        .output()
        .unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{arguments:?}: {text}");
    std::fs::read_to_string(maps).unwrap()
}

#[test]
fn without_a_cuda_device_nothing_of_cuda_is_loaded() {
    let (dir, run) = tiny_run();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let run = run.to_str().unwrap();
    let (exported, grid) = (path("exported.pt"), path("grid.png"));
    let commands = [
        &["sample", run, "-n", "1", "--out", &grid, "--device", "cpu"][..],
        &["train", "--run", run, "--steps", "2", "--device", "cpu"],
        &["inspect", run],
        &["export", run, "--to", &exported],
    ];
    // libtorch's CPU library is linked to the CUDA runtime itself.
    let of_cuda = [
        "libcuda.so",
        "libtorch_cuda",
        "libc10_cuda",
        "libcublas",
        "libcudnn",
        "libnccl",
        "ddpm-nccl",
    ];
    let recent = recent();
    for command in commands {
        let maps = loaded(&recent, command);
        assert!(maps.contains("libtorch_cpu.so"), "{command:?}");
        for library in of_cuda {
            assert!(!maps.contains(library), "{command:?}: {library}");
        }
    }
    // Without a choice, the driver is asked; one that is too old costs no more.
    if for_cuda_13() {
        let maps = loaded(
            &with_gpu(12080, (8, 6)),
            &["sample", run, "-n", "1", "--out", &path("again.png")],
        );
        assert!(maps.contains("libcuda.so"));
        assert!(!maps.contains("libtorch_cuda"));
    }
}

/// Every command that computes chooses its device before libtorch is asked about CUDA: it keeps its answer.
#[test]
fn every_command_loads_cuda_before_libtorch_is_asked() {
    if !for_cuda_13() {
        return;
    }
    let (dir, run) = tiny_run();
    let run = run.to_str().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (new, out, image) = (file("new"), file("out.png"), repo("docs/demo.png"));
    let (encoded, image) = (file("out.ddcm"), image.to_str().unwrap());
    let recent = recent();
    for command in [
        &["train", "--run", run, "--steps", "2"][..],
        &[
            "train",
            "--init-from",
            run,
            "--builtin-images",
            "4",
            "--run",
            &new,
        ],
        &["sample", run, "--out", &out],
        &["encode", run, image, "--out", &encoded],
        &["calibrate", run, "--data", dir.path().to_str().unwrap()],
        &["replay", run, "--step", "1"],
        &["bench"],
    ] {
        let output = ddpm(&recent)
            .args(command)
            .args(["--device", "cuda"])
            .output();
        let text = said(&output.unwrap());
        // Such a driver is not enough for libtorch itself, which was asked at last.
        assert!(
            text.contains("the driver has Paper GPU, but libtorch sees 0 CUDA devices"),
            "{command:?}: {text}"
        );
    }
}

/// In a process of its own: this one's libtorch may have been asked already, and has no such driver.
#[test]
fn a_program_that_asks_too_early_is_told() {
    if !for_cuda_13() {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["asks_too_early", "--exact", "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", recent().path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
#[ignore = "the process of another test"]
fn asks_too_early() {
    tch::manual_seed(0);
    for choice in [DeviceChoice::Cuda(0), DeviceChoice::Auto] {
        let error = choose(choice, Precision::F32, false).unwrap_err();
        assert!(error.is::<AskedTooEarly>(), "{error}");
    }
    // Whoever wants the CPU gets it.
    assert!(choose(DeviceChoice::Cpu, Precision::F32, false).is_ok());
}

/// A library that opens NVRTC by its bare name and compiles a kernel, as cuDNN does.
const COMPILES: &str = r#"
#include <dlfcn.h>
#include <stddef.h>
int compiles(void) {
    void *nvrtc = dlopen("libnvrtc.so.13", RTLD_NOW);
    if (!nvrtc) return -1;
    int (*create)(void **, const char *, const char *, int, void *, void *) = dlsym(nvrtc, "nvrtcCreateProgram");
    int (*compile)(void *, int, const char **) = dlsym(nvrtc, "nvrtcCompileProgram");
    const char *options[] = {"--gpu-architecture=sm_86"};
    void *program = NULL;
    int status = create(&program, "__global__ void k(float *x) { x[0] = sinf(x[1]); }", "k.cu", 0, NULL, NULL);
    return status ? status : compile(program, 1, options);
}
"#;

/// The part of a driver that lets that library compile, once, when it is asked with libtorch's CUDA half loaded.
const ASKS_FOR_A_KERNEL: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
static int asked = 0;
static void ask_for_a_kernel(void) {
    if (asked || !dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY)) return;
    asked = 1;
    void *library = dlopen("COMPILES", RTLD_NOW);
    int (*compiles)(void) = library ? dlsym(library, "compiles") : NULL;
    fprintf(stderr, "a kernel is compiled: %d\n", compiles ? compiles() : -2);
}
int cuDriverGetVersion(int *version) { return ask_for_a_kernel(), *version = 13000, 0; }
// NVRTC does without a driver that does not start, and with another asks more of it.
int cuInit(unsigned flags) { return asked ? 100 : 0; }
int cuDeviceGet(int *handle, int index) { return *handle = index, 0; }
int cuDeviceGetName(char *name, int capacity, int handle) { return snprintf(name, capacity, "Paper GPU"), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int handle) { return *value = 8, 0; }
"#;

#[test]
fn kernels_can_be_compiled_at_run_time() {
    if !for_cuda_13() {
        return;
    }
    let nvidia = libtorch().join("../nvidia/cu13/lib").canonicalize();
    let Ok(nvidia) = nvidia else {
        eprintln!("skipped: NVIDIA's libraries are not beside this libtorch");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let compiles = dir.path().join("libcompiles.so");
    let rpath = format!("-Wl,--enable-new-dtags,-rpath,{}", nvidia.display());
    common::library(&compiles, COMPILES, &["-ldl", &rpath]);
    let asks = ASKS_FOR_A_KERNEL.replace("COMPILES", compiles.to_str().unwrap());
    let others = driver_functions(&libtorch().join("lib/libcaffe2_nvrtc.so"));
    let others = others
        .iter()
        .filter(|name| !asks.contains(&format!("int {name}(")));
    let stubs: String = others
        .map(|name| format!("int {name}() {{ return 100; }}\n"))
        .collect();
    let driver = driver(&(asks.clone() + &stubs));
    let output = ddpm(&driver).args(["train", "--device", "cuda"]).output();
    let text = said(&output.unwrap());
    assert!(text.contains("a kernel is compiled: 0"), "{text}");
}

fn cudnn_searches() -> bool {
    let on = set_cudnn_search(false);
    set_cudnn_search(on);
    on
}

/// Whether it does so in a chain of this many steps.
fn searches_in_a_chain(steps: i64) -> bool {
    let mut diffusion = Preset::Demo.config().diffusion;
    diffusion.timesteps = steps;
    let searched = Cell::new(false);
    let denoiser = |x: &Tensor, _: &Tensor| {
        searched.set(cudnn_searches());
        x * 0.5
    };
    let steps = Respaced::all(&Schedule::new(&diffusion));
    let process = Process::new(&denoiser, &steps, &diffusion, true);
    let wanted = Images {
        noise: NoiseSource::Seed(0),
        numbers: 0..1,
        batch: 1,
        chw: [3, 2, 2],
        device: Device::Cpu,
    };
    let sampler = Sampler::Ddpm(Ddpm::new(&Preset::Demo.config().sample));
    let _ = sample_images(&process, &sampler, &wanted, &mut |_| ()).unwrap();
    searched.get()
}

/// The only test of this process that computes: what is set is the process's.
#[test]
fn cudnn_searches_in_training_and_long_sampling_only() {
    assert!(!cudnn_searches());
    assert!(!searches_in_a_chain(50) && searches_in_a_chain(1000));
    let training = ConvolutionSearch::begin();
    assert!(cudnn_searches());
    assert!(!searches_in_a_chain(50) && searches_in_a_chain(1000));
    assert!(cudnn_searches(), "a grid drawn meanwhile changes nothing");
    drop(training);
    assert!(!cudnn_searches());
    set_deterministic(true).unwrap();
    let training = ConvolutionSearch::begin();
    assert!(!cudnn_searches());
    drop(training);
    set_deterministic(false).unwrap();
}
