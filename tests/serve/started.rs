//! How a server starts, watches runs, and ends.

use std::io::{Read, Write};
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::client::{Server, ddpm, small, with_classes};

#[test]
fn a_signal_ends_it_with_the_documented_code() {
    let small = small();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut server = Server::start(&[&small]);
        let _open = server.events();
        kill_process(Pid::from_child(&server.child), signal).unwrap();
        assert_eq!(server.child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn what_it_opens_and_takes_is_said_and_what_cannot_be_served_is_refused() {
    let small = small();
    let mut server = Server::start_with(&[&small], &["--listen", "0.0.0.0", "--memory", "2"]);
    let port = server.address.port();
    assert_eq!(server.ask("GET /", &[], b"").status, 401);
    // An address of this machine cannot be another's; a name can.
    let other = format!("10.1.2.3:{port}");
    let cookie = ("Cookie", server.cookie());
    assert_eq!(
        server.ask("GET /", &[("Host", &other), cookie], b"").status,
        200
    );
    let name = format!("evil.example:{port}");
    assert_eq!(
        server.ask("GET /", &[("Host", &name), cookie], b"").status,
        421
    );
    let taken = ddpm()
        .arg("serve")
        .arg(&small)
        .args(["--device", "cpu", "--port", &port.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(
        taken.status.code() == Some(1) && said.contains("--port"),
        "{said}"
    );
    server.child.kill().unwrap();
    let mut said = String::new();
    server
        .child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(
        said.contains("warning: open to all networks of this machine"),
        "{said}"
    );
    assert!(said.contains("takes at most 2.0 GiB of memory"), "{said}");

    let missing = ddpm()
        .args(["serve", "nowhere", "--device", "cpu", "--port", "0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(
        missing.status.code() == Some(1) && said.contains("nowhere"),
        "{said}"
    );
    // Files that are no networks are told, and the others served.
    let server = Server::start(&[&crate::common::repo("README.md"), &small]);
    let networks = server.by_page("GET /api/networks", b"").json();
    assert!(networks["networks"][0]["refused"].is_string(), "{networks}");
    let refused = server.by_page(
        "POST /api/jobs",
        br#"{"network": 0, "sampler": "ddim", "seed": 1, "number": 1, "task": "sample"}"#,
    );
    assert_eq!(refused.status, 400);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[test]
fn a_run_that_goes_on_is_told_to_whoever_listens() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("a run");
    copy(&with_classes(), &run);
    let server = Server::start(&[&run]);
    let runs = server.by_page("GET /api/runs", b"").json();
    assert_eq!(
        (&runs[0]["id"], &runs[0]["state"], &runs[0]["step"]),
        (&json!(0), &json!("finished"), &json!(4))
    );
    let mut listening = [server.events(), server.events()];
    // A checkpoint of a later step comes: the run stands there now.
    let checkpoints = run.join("checkpoints");
    let later = crate::common::repo("tests/runs/format-3/step-00000006.safetensors");
    std::fs::copy(later, checkpoints.join("step-00000006.safetensors")).unwrap();
    let line =
        br#"{"step":6,"loss":0.25,"lr":0.1,"grad_norm":1.0,"images_per_sec":2.0,"secs":3.0}"#;
    let mut metrics = std::fs::File::options()
        .append(true)
        .open(run.join("metrics.jsonl"))
        .unwrap();
    metrics.write_all(line).unwrap();
    metrics.write_all(b"\n").unwrap();
    std::fs::write(checkpoints.join("latest"), "step-00000006.safetensors").unwrap();
    for events in &mut listening {
        loop {
            let (name, data) = events.next();
            let data: Value = serde_json::from_str(&data).unwrap();
            if name == "runs" && data[0]["step"] == 6 {
                break;
            }
        }
    }
    let networks = server.by_page("GET /api/networks", b"").json();
    assert_eq!(networks["networks"][0]["steps"], json!([6, 4]));

    // Its report may run its own script in a frame of the page, and nothing else.
    let report = server.by_page("GET /runs/0/report", b"");
    assert!(
        report.status == 200 && report.text().contains("a run"),
        "{report:?}"
    );
    let policy = report.header("content-security-policy").unwrap();
    assert!(
        policy.contains("sandbox allow-scripts") && policy.contains("frame-ancestors 'self'"),
        "{policy}"
    );
    assert_eq!(report.header("x-frame-options"), Some("SAMEORIGIN"));
    assert_eq!(server.by_page("GET /runs/1/report", b"").status, 404);
    let wrong_method = server.by_page("POST /runs/0/report", b"");
    assert_eq!(wrong_method.status, 405);
    assert!(
        wrong_method.json()["error"]
            .as_str()
            .unwrap()
            .contains("method")
    );
}

#[test]
fn a_run_that_begins_in_a_folder_of_runs_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    std::fs::create_dir(&runs).unwrap();
    let server = Server::start(&[&runs, &small()]);
    let networks = || server.by_page("GET /api/networks", b"").json()["networks"].clone();
    assert_eq!(networks().as_array().unwrap().len(), 1);
    let mut listening = server.events();
    copy(&with_classes(), &dir.path().join("run"));
    std::fs::rename(dir.path().join("run"), runs.join("run")).unwrap();
    let found = loop {
        let (name, data) = listening.next();
        let data: Value = serde_json::from_str(&data).unwrap();
        if name == "runs" && data.as_array().unwrap().len() == 1 {
            break data[0].clone();
        }
    };
    assert_eq!((&found["id"], &found["step"]), (&json!(1), &json!(4)));
    // What came last is shown first; the numbers of the others stay.
    let (first, second) = (networks()[0].clone(), networks()[1].clone());
    assert_eq!((&first["id"], &first["steps"]), (&json!(1), &json!([4])));
    assert_eq!(
        (&second["id"], &second["is_run"]),
        (&json!(0), &json!(false))
    );
    assert_eq!(server.by_page("GET /runs/1/report", b"").status, 200);
    let wish = |step: u64| {
        format!(
            r#"{{"network": 1, "step": {step}, "sampler": "ddim", "steps": 2, "seed": 1, "number": 1, "task": "sample"}}"#
        )
    };
    server.make(&wish(4));
    assert_eq!(
        server.by_page("POST /api/jobs", wish(5).as_bytes()).status,
        400
    );

    // One that goes is not shown, and comes back as what it was.
    let mut count = |wanted: usize| {
        loop {
            let (name, data) = listening.next();
            let data: Value = serde_json::from_str(&data).unwrap();
            if name == "runs" && data.as_array().unwrap().len() == wanted {
                break;
            }
        }
    };
    std::fs::rename(runs.join("run"), dir.path().join("away")).unwrap();
    count(0);
    assert_eq!(networks().as_array().unwrap().len(), 1);
    // Longer than a look takes to come.
    std::thread::sleep(std::time::Duration::from_secs(4));
    std::fs::rename(dir.path().join("away"), runs.join("run")).unwrap();
    count(1);
    server.make(&wish(4));
}

#[test]
fn a_run_is_served_once_and_a_folder_without_runs_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    copy(&with_classes(), &runs.join("run"));
    std::os::unix::fs::symlink(runs.join("run"), runs.join("link")).unwrap();
    std::fs::create_dir(dir.path().join("none")).unwrap();
    std::fs::write(dir.path().join("none/README"), "").unwrap();
    let (again, none) = (runs.join("../runs/run"), dir.path().join("none"));
    let mut server = Server::start(&[&again, &runs.join("run"), &runs, &none]);
    let networks = server.by_page("GET /api/networks", b"").json();
    assert_eq!(
        networks["networks"].as_array().unwrap().len(),
        1,
        "{networks}"
    );
    server.child.kill().unwrap();
    let mut said = String::new();
    let stderr = server.child.stderr.as_mut().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert!(
        said.contains("there is no run in") && said.contains("none yet"),
        "{said}"
    );
}
