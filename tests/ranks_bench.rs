//! `ddpm bench` and `ddpm doctor` as ranks of a group.

use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin_cmd;

const NETWORK: &str = "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1,2";

/// Runs `ddpm` as two ranks of torchrun.
fn two_ranks(arguments: &str) -> Output {
    let root = env!("CARGO_MANIFEST_DIR");
    Command::new(format!("{root}/.venv/bin/torchrun"))
        .args(["--standalone", "--no-python", "--nproc-per-node", "2", "--"])
        .arg(env!("CARGO_BIN_EXE_ddpm"))
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

#[test]
fn bench_prints_what_two_ranks_spend_on_each_other() {
    let flags = "--json --device cpu --warmup 1 --iters 3";
    let ran = two_ranks(&format!("bench {NETWORK} --batch 4 {flags} --reduce bf16"));
    let (said, errors) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(ran.status.success(), "{said}{errors}");
    // Rank 0 alone prints.
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let ranks = &said["ranks"];
    assert_eq!(
        (&ranks["count"], &ranks["reduce"]),
        (&2.into(), &"bf16".into())
    );
    // A ring of two sends each value once, in two bytes.
    let parameters = said["parameters"].as_u64().unwrap();
    assert!(
        ranks["bytes_sent"].as_u64() >= Some(2 * parameters),
        "{ranks}"
    );
    let ms = |name: &str| ranks[name].as_f64().unwrap();
    assert!(
        ms("compute_ms") > 0.0 && ms("communication_ms") > 0.0,
        "{ranks}"
    );
    assert!(
        ms("hidden_ms") >= 0.0 && ms("hidden_ms") <= ms("communication_ms"),
        "{ranks}"
    );
}

#[test]
fn bench_of_what_one_process_does_is_refused() {
    // The store that these variables name is not asked for.
    let group = [
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "1"),
    ];
    for what in ["sample", "optimizer", "decode"] {
        let mut command = cargo_bin_cmd!("ddpm");
        let refused = command.args(["bench", "--what", what]).envs(group).assert();
        let refused = refused.failure();
        let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(said.contains("this is rank 1 of 2"), "{said}");
    }
    let mut command = cargo_bin_cmd!("ddpm");
    let told = command.arg("doctor").envs(group).assert().success();
    let told = String::from_utf8_lossy(&told.get_output().stdout).into_owned();
    let line = "group      rank 1 of 2 by RANK and WORLD_SIZE, local rank 0; store at 127.0.0.1:1";
    assert!(told.contains(line), "{told}");
}
