//! Every way in which ranks are started.

use super::team::{free_port, plain, program, started, tiny, torchrun};
use super::tiny::{assert_same_end, ddpm, stderr};

#[test]
fn slurm_and_mpirun_and_plain_variables_start_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let slurm = |rank: u32| {
        vec![
            ("SLURM_STEP_ID", "0".to_owned()),
            ("SLURM_PROCID", rank.to_string()),
            ("SLURM_LOCALID", rank.to_string()),
            ("SLURM_NTASKS", "2".to_owned()),
            ("SLURM_JOB_NODELIST", "localhost".to_owned()),
            ("SLURM_JOB_ID", "77".to_owned()),
            ("MASTER_PORT", port.to_string()),
        ]
    };
    let other = free_port();
    let mpi = |rank: u32| {
        vec![
            ("OMPI_COMM_WORLD_RANK", rank.to_string()),
            ("OMPI_COMM_WORLD_SIZE", "2".to_owned()),
            ("OMPI_COMM_WORLD_LOCAL_RANK", rank.to_string()),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2".to_owned()),
            ("MASTER_PORT", other.to_string()),
        ]
    };
    let at = |name: &str| dir.path().join(name);
    let words = |name: &str| tiny(&at(name), 3, &["--reduce", "ordered"]);
    let ended = [
        started(2, slurm, &words("slurm")),
        started(2, mpi, &words("mpi")),
        started(2, plain(2, free_port()), &words("plain")),
    ];
    for out in ended.iter().flatten() {
        assert!(out.status.success(), "{}", stderr(out));
    }
    assert_same_end(&at("plain"), &at("slurm"), 3);
    assert_same_end(&at("plain"), &at("mpi"), 3);
}

#[test]
fn two_hosts_meet_by_a_rendezvous() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let endpoint = format!("127.0.0.1:{}", free_port());
    let flags = [
        "--nnodes",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        &endpoint,
    ];
    let words = tiny(&two, 3, &["--reduce", "ordered"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let hosts: Vec<_> = (0..2)
        .map(|_| {
            torchrun(1, &flags, &words)
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for host in hosts {
        let out = host.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
    }
    let alone = tiny(&one, 3, &["--accumulate", "2"]);
    assert!(ddpm().args(&alone[1..]).status().unwrap().success());
    assert_same_end(&one, &two, 3);
}

#[test]
fn the_only_rank_is_a_process_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // No store is served at this port, and none is looked for.
    let words = tiny(&run, 2, &[]);
    let ended = started(1, |_| plain(1, 1)(0), &words);
    assert!(ended[0].status.success(), "{}", stderr(&ended[0]));
}

#[test]
fn variables_that_are_missing_are_named() {
    let words = [program(), "train".to_owned()];
    let half = |_| vec![("RANK", "0".to_owned())];
    let said = stderr(&started(1, half, &words)[0]);
    assert!(said.contains("WORLD_SIZE is not"), "{said}");
}
