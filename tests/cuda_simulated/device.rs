//! The simulated device itself, and how the program sees it.

use std::process::Command;

use crate::lab::{Lab, on_simulator, simulator};

#[test]
fn the_simulated_device_sees_what_it_is_there_to_see() {
    let mut test = Command::new(simulator().join("selftest"));
    let out = on_simulator(&mut test).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.trim() == "ok", "{out:?}");
}

#[test]
fn doctor_finds_the_device() {
    let found = Lab::new().ok("doctor");
    for part in [
        "Simulated CUDA device",
        "NCCL       cannot be used: libtorch's CUDA half is built without NCCL",
    ] {
        assert!(found.printed.contains(part), "{part}: {}", found.printed);
    }
}
