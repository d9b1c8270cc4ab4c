//! The program with `--device cuda` on a simulated device (tests/simcuda), whose arithmetic is the CPU's.
//!
//! Every run here is held to: no race between streams, and no warning of libtorch. Waits of a step are the difference
//! between two runs of different length. What this can and cannot tell: docs/cuda.md.

#[path = "cuda_simulated/bad_steps.rs"]
mod bad_steps;
#[path = "cuda_simulated/check_script.rs"]
mod check_script;
#[path = "cuda_simulated/classes.rs"]
mod classes;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "serve/client.rs"]
mod client;
mod common;
#[path = "cuda_simulated/data.rs"]
mod data;
#[path = "cuda_simulated/device.rs"]
mod device;
#[path = "cuda_simulated/lab.rs"]
mod lab;
#[path = "cuda_simulated/layout.rs"]
mod layout;
#[path = "cuda_simulated/memory.rs"]
mod memory;
#[path = "cuda_simulated/networks.rs"]
mod networks;
#[path = "cuda_simulated/sampling.rs"]
mod sampling;
#[path = "cuda_simulated/served.rs"]
mod served;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "reliability/tiny.rs"]
mod tiny;
#[path = "cuda_simulated/training.rs"]
mod training;
#[path = "cuda_simulated/weights.rs"]
mod weights;
