//! How much is said, where, and in which form.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::{Place, printed, said};

#[test]
fn quiet_leaves_errors_and_results_and_the_log_has_all() {
    let place = Place::new();
    let sampled = place.computes("sample run -n 1 --steps 2 --out a.png -q --log log.txt");
    assert_eq!(said(&sampled), "");
    assert_eq!(printed(&sampled), "");
    let log = String::from_utf8(place.bytes("log.txt")).unwrap();
    assert!(
        log.contains("Z  EMA weights of step 4 on CPU") && log.contains("Z  1 image in a.png\n"),
        "{log}"
    );
    let year = |line: &str| line[..4].parse::<u32>().is_ok() && line[10..].starts_with('T');
    assert!(log.lines().all(year), "{log}");

    let failed = place
        .command("sample run -q --log log.txt --out a.png --device cpu")
        .output()
        .unwrap();
    assert!(
        said(&failed).starts_with("error: --out a.png exists"),
        "{}",
        said(&failed)
    );
    let longer = String::from_utf8(place.bytes("log.txt")).unwrap();
    assert!(
        longer.starts_with(&log) && longer.contains("Z  error: --out a.png exists"),
        "{longer}"
    );
    assert_eq!(
        printed(&place.runs("doctor --quiet"))
            .lines()
            .next()
            .unwrap()[..4],
        *"ddpm"
    );
}

#[test]
fn a_log_of_json_lines_has_levels() {
    let place = Place::new();
    place.computes("sample run -n 1 --steps 2 --out a.png -v --log log --log-format json");
    let failed = place
        .command("sample nowhere --log log --log-format json")
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let text = String::from_utf8(place.bytes("log")).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let has = |level: &str, message: &str| {
        let of = |line: &Value| {
            line["level"] == level && line["message"].as_str().unwrap().starts_with(message)
        };
        lines.iter().any(of)
    };
    assert!(has("info", "1 image in a.png"), "{text}");
    assert!(has("debug", "ddpm 0.1.0"), "{text}");
    assert!(
        has(
            "debug",
            "read run/checkpoints/step-00000004.safetensors in "
        ),
        "{text}"
    );
    assert!(has("error", "no such file: nowhere"), "{text}");
    // No file of others is appended to.
    for file in ["a.png", "run/config.toml", "run/log.txt"] {
        let before = place.at(file).exists().then(|| place.bytes(file));
        let refused = place
            .command(&format!("doctor --log {file}"))
            .output()
            .unwrap();
        assert!(
            said(&refused).starts_with(&format!("error: --log {file} ")),
            "{}",
            said(&refused)
        );
        assert_eq!(place.at(file).exists().then(|| place.bytes(file)), before);
    }
}

#[test]
fn short_help_stays_short() {
    let place = Place::new();
    for command in ["sample", "train", "doctor", "config"] {
        let short = printed(&place.runs(&format!("{command} -h")));
        assert!(
            !short.contains("--log") && !short.contains("--verbose"),
            "{short}"
        );
        assert!(printed(&place.runs(&format!("{command} --help"))).contains("--log-format"));
    }
    // Before the command and after it.
    place.runs("-q doctor");
    let both = place.command("doctor -q -v").output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn json_says_what_was_made() {
    let place = Place::new();
    let out = place
        .computes("sample run -n 3 --batch 2 --steps 2 --seed 4 --out a.png --separate d --json");
    let made: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(made["files"], serde_json::json!(["a.png"]));
    assert_eq!(
        (&made["separate"], &made["images"]),
        (&"d".into(), &3.into())
    );
    assert_eq!(made["settings"]["seed"], 4);
    assert_eq!(made["settings"]["network"]["step"], 4);
    assert!(made["seconds"].as_f64().unwrap() > 0.0);
    let refused = place
        .command("sample run --out - --json --device cpu")
        .output()
        .unwrap();
    assert!(
        said(&refused).starts_with("error: --json writes to standard output"),
        "{}",
        said(&refused)
    );

    std::fs::create_dir(place.at("data")).unwrap();
    image::RgbImage::new(8, 8)
        .save(place.at("data/a.png"))
        .unwrap();
    let out = place.computes("calibrate run --data data -n 1 --json");
    let made: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        made["file"],
        "run/checkpoints/step-00000004.safetensors.ema.analytic.json"
    );
    assert_eq!(
        (&made["time_steps"], &made["images"]),
        (&4.into(), &1.into())
    );

    let found = place.json("doctor --json");
    assert_eq!(found["ddpm"], env!("CARGO_PKG_VERSION"));
    assert!(found["cpu"]["threads"].as_u64().unwrap() > 0);
    for field in ["libtorch", "driver", "cuda", "group", "reference"] {
        assert!(!found[field].is_null(), "{field}: {found}");
    }
}

#[test]
fn a_grid_is_shown_where_a_protocol_is_named() {
    let place = Place::new();
    let line = "sample run -n 2 --steps 1 --force --out g.png";
    let shown = |flag: &str| place.computes(&format!("{line} {flag}"));
    let out = shown("--show=kitty");
    assert!(
        out.stdout.starts_with(b"\x1b_Ga=T,f=100,q=2,m=0;") && out.stdout.ends_with(b"\x1b\\\n")
    );
    assert!(
        shown("--show=iterm2")
            .stdout
            .starts_with(b"\x1b]1337;File=inline=1;size=")
    );
    // Two images of 8 pixels side by side.
    assert!(
        shown("--show=sixel")
            .stdout
            .starts_with(b"\x1bPq\"1;1;16;8#0;2;")
    );
    // A pipe is no terminal, whatever the environment says.
    let piped = place
        .command(&format!("{line} --show --device cpu"))
        .env("TERM", "xterm-kitty")
        .output()
        .unwrap();
    assert!(piped.stdout.is_empty());
    assert!(
        said(&piped).contains("the grid is not shown: standard output is no terminal\n"),
        "{}",
        said(&piped)
    );
    let refused = place
        .command("sample run --separate d --show --device cpu")
        .output()
        .unwrap();
    assert!(
        said(&refused).contains("--show shows the grid, and none is made"),
        "{}",
        said(&refused)
    );
}

/// What a terminal of this name gets to show from the program's standard output.
fn in_a_terminal(place: &Place, line: &str, variables: &[(&str, &str)]) -> String {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits() as i32)
        .open(name.to_str().unwrap())
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm"));
    command
        .current_dir(place.at(""))
        .args(line.split(' '))
        .env_clear()
        .envs(variables.iter().copied())
        .stderr(Stdio::null())
        .stdout(theirs);
    // A terminal holds little that is not read.
    let reader = std::thread::spawn(move || {
        let mut shown = vec![];
        // Ends with an error when nobody has the other end any more.
        let _ = std::fs::File::from(ours).read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    assert!(command.status().unwrap().success(), "{line}");
    drop(command);
    reader.join().unwrap()
}

#[test]
fn a_terminal_shows_the_grid_and_colours_unless_told_not_to() {
    let place = Place::new();
    let kitty = [("TERM", "xterm-kitty")];
    let line = "sample run -n 1 --steps 1 --out g.png --force --device cpu --show";
    let shown = in_a_terminal(&place, line, &kitty);
    assert!(shown.starts_with("\x1b_Ga=T,f=100,q=2,m=0;"), "{shown:?}");
    let shown = in_a_terminal(&place, line, &[("TERM", "xterm-256color")]);
    assert_eq!(shown, "");
    assert!(in_a_terminal(&place, "--help", &kitty).contains("\x1b["));
    let plain = in_a_terminal(
        &place,
        "--help",
        &[("TERM", "xterm-kitty"), ("NO_COLOR", "1")],
    );
    assert!(
        !plain.contains('\x1b') && plain.contains("Usage"),
        "{plain:?}"
    );
}
