//! What the program says: names that steer a terminal, advice that works when it is followed, places in settings files,
//! and starts in odd surroundings.

mod common;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;

/// Clears the screen, begins a line like one of ours, and turns the direction of text.
const NAME: &str = "x\u{1b}[2J\nerror: forged\u{202e}\u{9b}\u{2028}";

const TINY: &str = "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1,2 --timesteps 4 --batch 2 \
                    --builtin-images 4 --sample-every 0 --lr-schedule 0:1 --device cpu --threads 1 --precision f32";

fn ddpm() -> Command {
    Command::new(cargo_bin("ddpm"))
}

/// Training of a tiny network.
fn train(run: &Path, steps: u64) -> Command {
    let mut command = ddpm();
    command.arg("train").args(TINY.split_whitespace());
    command
        .args(["--steps", &steps.to_string(), "--run"])
        .arg(run);
    command
}

fn output(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn success(command: &mut Command) -> String {
    let (code, said) = output(command);
    assert_eq!(code, Some(0), "{said}");
    said
}

/// Fails with exit code 1 and this in the message.
fn refused(command: &mut Command, wanted: &str) -> String {
    let (code, said) = output(command);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(wanted), "want {wanted:?} in:\n{said}");
    said
}

/// Nothing in a text obeys a name.
#[track_caller]
fn assert_tame(text: &str) {
    let steers = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2028}".contains(c);
    assert!(!text.contains(steers), "{text:?}");
    assert!(
        !text.lines().any(|line| line.starts_with("error: forged")),
        "{text}"
    );
}

fn write_images(dir: &Path, names: &[&str]) {
    for (i, name) in (0..).zip(names) {
        let pixels = image::RgbImage::from_pixel(8, 8, image::Rgb([i * 40, 100, 50]));
        pixels
            .save_with_format(dir.join(name), image::ImageFormat::Png)
            .unwrap();
    }
}

/// Runs a command line that the program has suggested.
fn follow(suggestion: &str, dir: &Path) -> String {
    let program = cargo_bin("ddpm");
    let line = format!("{} --device cpu", suggestion.trim());
    let path = format!(
        "{}:{}",
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    success(
        Command::new("bash")
            .args(["-c", &line])
            .env("PATH", path)
            .current_dir(dir),
    )
}

/// What stands behind `before`, to the end of the line.
#[track_caller]
fn after<'a>(said: &'a str, before: &str) -> &'a str {
    let (_, rest) = said.split_once(before).unwrap_or_else(|| panic!("{said}"));
    rest.lines().next().unwrap()
}

#[test]
fn names_cannot_steer_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let (data, run) = (
        dir.path().join("data"),
        dir.path().join(format!("run {NAME}")),
    );
    std::fs::create_dir(&data).unwrap();
    let bad = format!("{NAME}.png");
    write_images(&data, &["a.png", "b.png", &format!("c{NAME}.png")]);
    std::fs::write(data.join(&bad), "no image").unwrap();

    let said = success(train(&run, 2).arg("--data").arg(&data));
    assert_tame(&said);
    assert!(
        said.contains("x\\u{1b}[2J\\nerror: forged\\u{202e}\\u{9b}\\u{2028}.png: "),
        "{said}"
    );
    let skipped = std::fs::read_to_string(run.join("skipped.tsv")).unwrap();
    assert_tame(&skipped.replace('\t', " "));
    assert_eq!(skipped.lines().count(), 1);
    if let Ok(log) = std::fs::read_to_string(run.join("log.txt")) {
        assert_tame(&log);
    }

    // An image that is another one now.
    let changed = image::RgbImage::from_pixel(8, 8, image::Rgb([1, 2, 3]));
    let path = data.join(format!("c{NAME}.png"));
    changed
        .save_with_format(path, image::ImageFormat::Png)
        .unwrap();
    let said = refused(
        train(&run, 3).arg("--data").arg(&data),
        "has other contents",
    );
    assert_tame(&said);

    // A damaged checkpoint.
    let newest = run.join("checkpoints/step-00000002.safetensors");
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    assert_tame(&refused(&mut train(&run, 3), "no checkpoint of"));

    // Names that are given: data of their own kind, files that are missing, and clap's errors.
    for arguments in [
        vec!["train", "--data", NAME],
        vec!["sample", NAME],
        vec!["train", "--config", NAME],
        vec!["train", "--data", "nowhere", "--run", NAME],
    ] {
        let (code, said) = output(ddpm().args(&arguments).current_dir(&dir));
        assert_eq!(code, Some(1), "{said}");
        assert_tame(&said);
    }
    for arguments in [vec!["train", "--size", NAME], vec![NAME]] {
        let (code, said) = output(ddpm().args(&arguments).current_dir(&dir));
        assert_eq!(code, Some(2), "{said}");
        assert_tame(&said);
    }
    // JSON is JSON, whatever a name does.
    let odd = dir.path().join(format!("{NAME}.safetensors"));
    std::fs::write(&odd, "junk").unwrap();
    let inspected = ddpm()
        .args(["inspect", "--json"])
        .arg(&odd)
        .output()
        .unwrap();
    assert_tame(&String::from_utf8(inspected.stdout).unwrap());
    assert_tame(&String::from_utf8(inspected.stderr).unwrap());
}

#[test]
fn a_decoder_says_its_reason_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    write_images(dir.path(), &["a.png", "b.png"]);
    // Markers that claim a length of 0 or 1, which the decoder reports with a line break.
    for (name, marker) in [
        ("c.jpg", [0xff, 0xe0, 0, 0]),
        ("d.jpg", [0xff, 0xdb, 0, 1]),
        ("e.jpg", [0xff, 0xc4, 0, 1]),
    ] {
        let bytes = [[0xff, 0xd8].as_slice(), &marker, &[0; 64]].concat();
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let run = dir.path().join("run");
    let said = success(train(&run, 1).arg("--data").arg(dir.path()));
    let listed: Vec<&str> = said
        .lines()
        .skip_while(|line| !line.contains("left out:"))
        .collect();
    for (line, name) in listed[1..4].iter().zip(["c.jpg", "d.jpg", "e.jpg"]) {
        assert!(
            line.starts_with("  ") && line.contains(&format!("{name}: ")),
            "{said}"
        );
    }
    assert!(!said.lines().any(|line| line.ends_with(' ')), "{said:?}");
}

#[test]
fn suggested_commands_work_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in ["it's my $HOME", "-run"] {
        let run = format!("--run={name}");
        let (code, said) = output(
            ddpm()
                .arg("train")
                .args(TINY.split_whitespace())
                .args(["--steps", "3", "--time-limit", "1ms", &run])
                .current_dir(root),
        );
        assert_eq!(code, Some(124), "{said}");
        let said = follow(after(&said, "resume with: "), root);
        assert!(said.contains("3 steps done"), "{said}");
        follow(after(&said, "to sample more: "), root);
        std::fs::remove_file(root.join("grid.png")).unwrap();
        // Its bad step, and what to do about it.
        let mut again = ddpm();
        again.args([
            "train", "--steps", "9", "--lr", "1e30", "--device", "cpu", &run,
        ]);
        let said = refused(again.current_dir(root), "Inspect the step with");
        let advice = after(&said, "Inspect the step with `");
        let said = follow(advice.split_once('`').unwrap().0, root);
        assert!(
            said.contains("the same as in the original run, bit for bit"),
            "{said}"
        );
    }
    // The sampler analytic needs measurements, of the weights that are asked for.
    let mut sample = ddpm();
    let arguments = "--raw --sampler analytic --steps 2 -n 1 --out a.png --device cpu";
    sample.args(["sample", "it's my $HOME"]).current_dir(root);
    sample.args(arguments.split(' '));
    let said = refused(&mut sample, "make them with: ");
    let advice = after(&said, "make them with: ").split(": ").next();
    write_images(root, &["a b.png"]);
    follow(&advice.unwrap().replace("DIR", "."), root);
    success(&mut sample);
}

#[test]
fn steps_before_the_first_checkpoint_are_replayed_from_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    success(&mut train(&run, 3));
    let losses: Vec<f64> = std::fs::read_to_string(run.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"]
                .as_f64()
                .unwrap()
        })
        .collect();
    let replay = |run: &Path, step: usize| {
        let mut command = ddpm();
        command.args([
            "replay",
            "--json",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--precision",
            "f32",
            "--step",
        ]);
        command.arg(step.to_string()).arg(run);
        command
    };
    for step in [1, 3] {
        let out = replay(&run, step).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(
            said.contains("from the start, with the weights of the seed"),
            "{said}"
        );
        let record: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(
            record["loss"].as_f64().unwrap(),
            losses[step - 1],
            "step {step}"
        );
    }
    // Other weights were given: the seed does not lead there.
    let second = dir.path().join("second");
    let from = run.display().to_string();
    success(train(&second, 3).args(["--save-every", "1", "--keep", "1", "--init-from", &from]));
    let said = refused(
        &mut replay(&second, 2),
        "began with weights from elsewhere (--init-from)",
    );
    assert!(
        said.contains("has no checkpoint of step 1 or before"),
        "{said}"
    );
    // From a checkpoint, as ever.
    let out = replay(&second, 4).output().unwrap();
    assert!(out.status.success());
}

#[test]
fn a_mistake_in_a_settings_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    let shown = file.display();
    for (text, place, wanted) in [
        ("[train\n", "1:7", "unclosed table"),
        (
            "[train]\nsteps = 1\n\n[model]\nblokcs = 3\n",
            "5:1",
            "model.blokcs: unknown field",
        ),
        (
            "[train]\nsteps = \"x\"\n",
            "2:9",
            "train.steps: invalid type",
        ),
        (
            "[train]\nseed = 1\nsteps = 0\n",
            "3:9",
            "train.steps = 0: want 1 to 10^12 (--steps)",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let wanted = format!("error: {shown}:{place}: {wanted}");
        refused(ddpm().args(["train", "--config"]).arg(&file), &wanted);
    }
    let wanted = format!("error: {shown}:3:9: train.steps = 0");
    refused(ddpm().args(["bench", "--config"]).arg(&file), &wanted);
    refused(
        ddpm().args(["train", "--config", "/dev/zero"]),
        "error: /dev/zero is a folder or a device, and a file with settings is expected there",
    );
    // A value that a flag replaces is not at fault, nor is the file for a flag's.
    let run = dir.path().join("run");
    let with = |steps: &str| {
        let mut command = ddpm();
        command
            .args(["train", "--config"])
            .arg(&file)
            .args(TINY.split_whitespace());
        command.args(["--steps", steps, "--run"]).arg(&run);
        command
    };
    success(&mut with("1"));
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    std::fs::write(&file, "[train]\nsteps = 5\n").unwrap();
    std::fs::remove_dir_all(&run).unwrap();
    let said = refused(&mut with("0"), "error: train.steps = 0");
    assert!(!said.contains("bad.toml"), "{said}");
    // A run's own settings, edited.
    std::fs::create_dir(&run).unwrap();
    let edited = run.join("config.toml");
    std::fs::write(&edited, config.replace("\nkeep = ", "\nkep = ")).unwrap();
    let line = config.lines().position(|line| line.starts_with("keep = "));
    let place = format!("{}:{}:1", edited.display(), line.unwrap() + 1);
    refused(
        ddpm().args(["train", "--run"]).arg(&run),
        &format!("error: {place}: train.kep: unknown field"),
    );
}

/// The program in a shell, after other commands.
fn after_shell(before: &str, arguments: &[&str], dir: &Path) -> Command {
    let mut command = Command::new("bash");
    let script = format!("{before}\nexec \"$0\" \"$@\"");
    command
        .args(["-c", &script])
        .arg(cargo_bin("ddpm"))
        .args(arguments);
    command.current_dir(dir);
    command
}

#[test]
fn a_removed_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let before = "mkdir gone && cd gone && rmdir ../gone";
    for arguments in [vec!["train", "--steps", "1"], vec!["inspect", "x"]] {
        let said = refused(
            &mut after_shell(before, &arguments, dir.path()),
            "the current folder has been removed",
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_low_limit_on_address_space_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let limited = |kib: u64, arguments: &[&str]| {
        output(&mut after_shell(
            &format!("ulimit -v {kib}"),
            arguments,
            dir.path(),
        ))
    };
    // Below some limit the system's loader cannot load libtorch, and says so: exit code 127. Above it, every
    // refusal is ours, until there is enough.
    let mut least: Option<u64> = None;
    for kib in (300_000..).step_by(60_000) {
        match limited(kib, &["--version"]) {
            (Some(127), said) => {
                assert!(
                    least.is_none() && said.contains("loading shared libraries"),
                    "{said}"
                );
            }
            (Some(1), said) => {
                let ours = "error: the limit on address space (ulimit -v) is ";
                assert!(said.starts_with(ours), "{kib}: {said}");
                let wanted = after(&said, " needs ").split(' ').next().unwrap();
                least = Some(wanted.parse().unwrap());
            }
            (code, said) => {
                assert_eq!(code, Some(0), "{kib}: {said}");
                break;
            }
        }
    }
    // What it asks for is enough for libtorch, and 100 MiB more for a small run.
    let run = dir.path().join("run");
    let train = train(&run, 1);
    let arguments: Vec<&str> = train.get_args().map(|a| a.to_str().unwrap()).collect();
    let (code, said) = limited(least.unwrap() + 100 * 1024, &arguments);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn odd_surroundings_are_no_reason_to_fail() {
    let dir = tempfile::tempdir().unwrap();
    for (i, before) in [
        "unset HOME; export LANG=C LC_ALL=C TMPDIR=/nonexistent",
        "exec <&- >&- 2>&-",
    ]
    .into_iter()
    .enumerate()
    {
        let run = dir.path().join(i.to_string());
        let train = train(&run, 1);
        let arguments: Vec<&str> = train.get_args().map(|a| a.to_str().unwrap()).collect();
        let (code, said) = output(&mut after_shell(before, &arguments, dir.path()));
        assert_eq!(code, Some(0), "{before}: {said}");
        assert!(
            run.join("checkpoints/step-00000001.safetensors").exists(),
            "{before}"
        );
    }
}

#[test]
fn a_data_folder_that_is_not_utf_8_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let name = OsString::from_vec(b"photos \xff".to_vec());
    std::fs::create_dir(dir.path().join(&name)).unwrap();
    write_images(&dir.path().join(&name), &["a.png"]);
    let run = dir.path().join("run");
    let said = refused(
        train(&run, 1)
            .arg("--data")
            .arg(&name)
            .current_dir(dir.path()),
        "is not UTF-8 text, as a run's settings are; rename the folder, or give a link to it (ln -s) (--data)",
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!run.exists());
    // The link does.
    std::os::unix::fs::symlink(&name, dir.path().join("photos")).unwrap();
    let linked = |run: &OsStr| {
        let mut command = train(Path::new(run), 1);
        command.args(["--data", "photos"]).current_dir(dir.path());
        command
    };
    success(&mut linked("run".as_ref()));
    // libtorch could not read the checkpoints of this run.
    let run = OsStr::from_bytes(b"run \xff");
    refused(&mut linked(run), "choose another --run");
    assert!(!dir.path().join(run).exists());
}
