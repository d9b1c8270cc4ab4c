//! Sampling by several ranks, under the torchrun of `.venv`, makes the files of one process, byte for byte; and what
//! was interrupted goes on, whatever the number of ranks.

mod common;
#[path = "reliability/tiny.rs"]
#[allow(dead_code, reason = "this test uses a part")]
mod tiny;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use tiny::{Watched, ddpm, stderr, wait_until};

/// A folder for what the tests share.
static SHARED: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ranks_sample");
    // Of an earlier test.
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
});

/// A network of 8 px whose batch takes a hundred evaluations: long enough to be killed in time.
static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let run = SHARED.join("run");
    let words = "train --device cpu --preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 \
                 --timesteps 100 --builtin-images 4 --batch 4 --steps 1 --save-every 1 --sample-every 0 --run";
    succeeds(one().args(words.split_whitespace()).arg(&run));
    run
});

/// The program as one process, with one thread, as torchrun has them.
fn one() -> Command {
    let mut command = ddpm();
    command.env("OMP_NUM_THREADS", "1");
    command
}

/// The arguments of `ddpm sample` of the tiny network; `flags` have no spaces in them.
fn sample(flags: &str, dir: &Path) -> Vec<String> {
    let run = RUN.to_str().unwrap().to_owned();
    let words = ["sample".to_owned(), run];
    let flags = flags.replace("DIR", dir.to_str().unwrap());
    let words = words
        .into_iter()
        .chain(flags.split_whitespace().map(str::to_owned));
    words
        .chain(["--device".to_owned(), "cpu".to_owned()])
        .collect()
}

/// torchrun with so many ranks of a shell that has the program as `$0`, its arguments as `$@`.
fn ranks(number: u32, restarts: u32, shell: &str, arguments: &[String]) -> Command {
    let mut command = Command::new(common::repo(".venv/bin/python"));
    let options = format!(
        "-m torch.distributed.run --standalone --no-python --nproc-per-node {number} --max-restarts {restarts} -- sh -c"
    );
    command
        .env("OMP_NUM_THREADS", "1")
        .env("RUST_BACKTRACE", "0");
    command.args(options.split_whitespace()).arg(shell);
    command.arg(assert_cmd::cargo::cargo_bin!("ddpm"));
    command.args(arguments);
    command
}

const PLAIN: &str = r#"exec "$0" "$@""#;

fn succeeds(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", stderr(&out));
    stderr(&out)
}

fn fails(command: &mut Command) -> String {
    let out: Output = command.output().unwrap();
    assert!(!out.status.success(), "{command:?}");
    stderr(&out)
}

/// The files of a folder with their bytes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let named = entries.map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read(path).unwrap_or_default())
    });
    named.collect()
}

fn assert_same(made: &Path, wanted: &Path) {
    let (made, wanted) = (files(made), files(wanted));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&wanted));
    for (name, bytes) in &wanted {
        assert!(made[name] == *bytes, "{name} has other bytes");
    }
}

fn images(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let png = |name: &std::ffi::OsString| name.to_str().unwrap().ends_with(".png");
    entries.map(name).filter(png).count()
}

/// True, with a message, where there is no torchrun.
fn no_torchrun() -> bool {
    let missing = !common::repo(".venv/bin/torchrun").exists();
    if missing {
        eprintln!("skipped: no torchrun in .venv; run ./scripts/setup.sh");
    }
    missing
}

/// A last batch that is short, and a rank without any.
#[test]
fn ranks_make_the_files_of_one_process() {
    if no_torchrun() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (alone, together) = (place.path().join("1"), place.path().join("W"));
    let flags =
        "-n 3 --batch 2 --seed 3 --separate DIR --out DIR/a.png --out-tensor DIR/a.safetensors";
    succeeds(one().args(sample(flags, &alone)));
    let said = succeeds(&mut ranks(3, 0, PLAIN, &sample(flags, &together)));
    assert_same(&together, &alone);
    assert_eq!(files(&alone).len(), 5);
    // One rank speaks.
    let last = format!("3 images in {}\n", together.display());
    assert_eq!(said.matches(&last).count(), 1, "{said}");
    assert_eq!(said.matches("weights of step 1").count(), 1, "{said}");
    assert!(!said.contains("rank 1:"), "{said}");
}

/// The last of 20 batches is short.
const FLAGS: &str = "-n 39 --batch 2 --seed 3 --separate DIR";

/// What one process makes of them, undisturbed.
static WHOLE: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = SHARED.join("whole");
    succeeds(one().args(sample(FLAGS, &dir)));
    dir
});

/// Has a sampling begin and calls `kill` when some of its 39 images are there, until it comes in time.
fn interrupted(begin: impl Fn() -> Command, dir: &Path, kill: impl Fn(&mut Watched)) -> Watched {
    for _ in 0..5 {
        let mut watched = Watched::spawn(begin());
        wait_until("images", || images(dir) >= 5);
        kill(&mut watched);
        if images(dir) < 39 {
            return watched;
        }
        watched.code();
        std::fs::remove_dir_all(dir).unwrap();
    }
    panic!("sampling is too fast to be interrupted");
}

#[test]
fn what_was_killed_goes_on_with_the_same_command_alone() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let (whole, cut) = (&*WHOLE, at("cut"));
    let command = |flags: &str, dir: &Path| {
        let mut command = one();
        command.args(sample(flags, dir));
        command
    };
    let begin = || command(FLAGS, &cut);
    let kill = |watched: &mut Watched| {
        watched.child.kill().unwrap();
        watched.code();
    };
    interrupted(begin, &cut, kill);
    let was = images(&cut);
    assert!((5..39).contains(&was));
    std::fs::write(cut.join(".tmp-k1LLed"), "half").unwrap();

    let before = files(&cut);
    let other = FLAGS.replace("--seed 3", "--seed 4 --steps 9");
    let said = fails(&mut command(&other, &cut));
    for part in [
        "noise: seed 3, here seed 4",
        "time steps: 100: 99,98,",
        "--force",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let file = at("x.ddcm").to_str().unwrap().to_owned();
    let image = whole.join("00000.png").to_str().unwrap().to_owned();
    let run = RUN.to_str().unwrap();
    succeeds(one().args(["encode", run, &image, "-o", &file, "--device", "cpu"]));
    let mut decode = one();
    decode.args(["decode", &file, "--separate"]).arg(&cut);
    let said = fails(decode.arg("--force"));
    assert!(said.contains("interrupted `ddpm sample`"), "{said}");
    assert!(files(&cut) == before, "what was refused has changed files");

    // With --force another one begins, and leaves no image of this one among its own.
    let anew = at("anew");
    std::fs::create_dir(&anew).unwrap();
    for (name, bytes) in &before {
        std::fs::write(anew.join(name), bytes).unwrap();
    }
    let other = "-n 3 --batch 2 --seed 4 --separate DIR";
    succeeds(&mut command(other, &at("other")));
    succeeds(&mut command(&format!("{other} --force"), &anew));
    assert_eq!(images(&anew), was);
    for (name, bytes) in files(&at("other")) {
        assert!(files(&anew)[&name] == bytes, "{name} is of the older one");
    }

    // Ranks go on with what one process has begun, and `auto` keeps the batches.
    if !no_torchrun() {
        let grid = |flags: &str, name: &str| format!("{flags} --out {}", at(name).display());
        let flags = grid(&FLAGS.replace("--batch 2", "--batch auto"), "cut.png");
        let said = succeeds(&mut ranks(3, 0, PLAIN, &sample(&flags, &cut)));
        let going = format!("going on: {was} of 39 images are in {}\n", cut.display());
        assert!(said.contains(&going), "{said}");
        let all = FLAGS.replace(" --separate DIR", "");
        succeeds(&mut command(&grid(&all, "whole.png"), whole));
        assert!(std::fs::read(at("cut.png")).unwrap() == std::fs::read(at("whole.png")).unwrap());
    } else {
        succeeds(&mut begin());
    }
    assert_same(&cut, whole);
}

#[test]
fn torchrun_starts_again_what_lost_a_rank() {
    if no_torchrun() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let (whole, cut) = (&*WHOLE, at("cut"));
    let flags = format!("{FLAGS} --force");
    // torchrun replaces $$ by $.
    let shell = format!(
        r#"echo $$$$ > {}/rank-$RANK-$TORCHELASTIC_RESTART_COUNT; exec "$0" "$@""#,
        place.path().display()
    );
    let begin = || {
        // What was there before is not taken for a result.
        std::fs::create_dir_all(&cut).unwrap();
        std::fs::write(cut.join("00038.png"), "old").unwrap();
        ranks(2, 1, &shell, &sample(&flags, &cut))
    };
    let kill = |_: &mut Watched| {
        let id = std::fs::read_to_string(at("rank-1-0")).unwrap();
        assert!(id.trim().parse::<u32>().is_ok(), "{id}");
        // It may have ended.
        let kill = Command::new("kill").args(["-9", id.trim()]).output();
        drop(kill);
    };
    let mut watched = interrupted(begin, &cut, kill);
    watched.wait_for("going on: ");
    assert_eq!(watched.code(), Some(0));
    assert!(at("rank-1-1").exists());
    assert_same(&cut, whole);
}

/// The program as one of two ranks, without torchrun.
fn rank(number: u32, port: u16, arguments: &[String]) -> Command {
    let mut command = one();
    let place = [
        ("RANK", number.to_string()),
        ("LOCAL_RANK", number.to_string()),
        ("WORLD_SIZE", "2".to_owned()),
        ("MASTER_ADDR", "127.0.0.1".to_owned()),
        ("MASTER_PORT", port.to_string()),
    ];
    command.envs(place).args(arguments);
    command
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Without a file of all images, ranks have nothing to say to each other between batches.
#[test]
fn a_dead_rank_is_noticed_between_batches() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("d");
    // Far more than are made before the signs of life, twice a second, show it.
    let images_in_all = 100_000;
    let flags = format!("-n {images_in_all} --batch 2 --seed 3 --separate DIR");
    let (port, arguments) = (free_port(), sample(&flags, &dir));
    let mut lives = Watched::spawn(rank(0, port, &arguments));
    let mut killed = Watched::spawn(rank(1, port, &arguments));
    wait_until("images", || images(&dir) >= 5);
    killed.child.kill().unwrap();
    lives.wait_for("error: rank 1 (process ");
    assert_eq!(lives.code(), Some(1));
    assert!(images(&dir) < images_in_all / 2);
}

#[test]
fn the_batch_of_ranks_leaves_none_without() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("d");
    let (port, arguments) = (
        free_port(),
        sample("-n 4 --batch auto --separate DIR", &dir),
    );
    let ranks = [0, 1].map(|number| rank(number, port, &arguments));
    let mut ranks = ranks.map(Watched::spawn);
    ranks[0].wait_for(" per batch, a batch a rank at a time, of 2 ranks");
    assert_eq!(ranks.each_mut().map(Watched::code), [Some(0); 2]);
    assert_eq!(images(&dir), 4);
}

#[test]
fn ranks_that_do_not_sample_the_same_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("d");
    // Refused before it meets anyone.
    let mut strip = one();
    let rank = [
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "9"),
    ];
    strip
        .envs(rank)
        .args(sample("-n 2 --separate DIR --strip DIR.png", &dir));
    assert!(fails(&mut strip).contains("--trajectory and --strip are made by one process"));

    if no_torchrun() {
        return;
    }
    let shell = r#"exec "$0" "$@" --seed $RANK"#;
    let said = fails(&mut ranks(
        2,
        0,
        shell,
        &sample("-n 4 --separate DIR", &dir),
    ));
    assert!(
        said.contains("has another command line than rank 0: `--seed 1`, not `--seed 0`"),
        "{said}"
    );
    assert!(!dir.exists());
}
