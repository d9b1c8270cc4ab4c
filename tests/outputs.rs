//! What commands write: never over what they read, over a run's own files or each other, and checked before the work.

#[path = "outputs/kept.rs"]
mod kept;
#[path = "outputs/pins.rs"]
mod pins;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use clap::Parser;
use ddpm::cli::{Cli, describe_error};
use ddpm::formats::safetensors;
use tch::{Kind, Tensor};

/// A folder with a tiny run of one step (8 px, T = 4), its weights, and files to start from.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place {
            dir: tempfile::tempdir().unwrap(),
        };
        place.train(
            "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 --timesteps 4 \
                     --builtin-images 4 --batch 4 --steps 1 --save-every 1 --sample-every 0",
        );
        for (name, red) in [("a.png", 250), ("b.png", 20)] {
            let image = image::RgbImage::from_fn(8, 8, |x, y| {
                image::Rgb([red, (x * 20) as u8, (y * 20) as u8])
            });
            image.save(place.at(name)).unwrap();
        }
        place
    }

    fn train(&self, more: &str) {
        let words = format!("train --run runs/r {more}");
        self.runs(&words.split_whitespace().collect::<Vec<_>>().join(" "));
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = cargo_bin_cmd!("ddpm");
        command.current_dir(self.dir.path()).args(line.split(' '));
        if !line.starts_with("export") && !line.starts_with("import") {
            command.args(["--device", "cpu", "--threads", "1"]);
        }
        command
    }

    /// Runs a command line; returns stderr.
    fn runs(&self, line: &str) -> String {
        let out = self.command(line).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{line}: {said}");
        said
    }

    /// The command line fails with this error alone, and nothing on disk changes.
    fn refuses(&self, line: &str, said: &str) {
        let before = self.files();
        let out = self.command(line).output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{line}: {stderr}");
        assert_eq!(stderr.trim_end(), format!("error: {said}"), "{line}");
        assert!(out.stdout.is_empty(), "{line}");
        assert!(before == self.files(), "{line}: files have changed");
    }

    /// As [`refuses`](Place::refuses), without a process of its own. Every word is the command, a flag, a number or a
    /// path.
    fn refuses_at_once(&self, line: &str, said: &str) {
        let below = format!("{}/", self.dir.path().display());
        let word = |(index, word): (usize, &str)| {
            let plain = index == 0 || word.starts_with('-') || word.parse::<u32>().is_ok();
            match plain {
                true => word.to_owned(),
                false => format!("{below}{word}"),
            }
        };
        let words = line.split(' ').enumerate().map(word);
        let before = self.files();
        let command = Cli::try_parse_from(["ddpm".to_owned()].into_iter().chain(words)).unwrap();
        let error = describe_error(&command.run().unwrap_err());
        assert_eq!(
            error.replace(&below, ""),
            said.replace(&below, ""),
            "{line}"
        );
        assert!(before == self.files(), "{line}: files have changed");
    }

    /// As [`refuses_at_once`](Place::refuses_at_once), with --force.
    fn always_refuses(&self, line: &str, said: &str) {
        self.refuses_at_once(&format!("{line} --force"), said);
    }

    /// Every path below, with its bytes, or where it leads.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = walkdir::WalkDir::new(self.dir.path()).into_iter();
        let content = |entry: walkdir::DirEntry| {
            let kind = entry.file_type();
            let bytes = if kind.is_symlink() {
                let target = std::fs::read_link(entry.path()).unwrap();
                target.into_os_string().into_encoded_bytes()
            } else if kind.is_file() {
                std::fs::read(entry.path()).unwrap()
            } else {
                vec![]
            };
            (entry.into_path(), bytes)
        };
        entries.map(|entry| content(entry.unwrap())).collect()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.at(name)).unwrap()
    }
}

fn is_png(bytes: &[u8]) -> bool {
    image::load_from_memory_with_format(bytes, image::ImageFormat::Png).is_ok()
}

#[test]
fn other_files_are_replaced_with_force_or_under_the_default_name() {
    let place = Place::new();
    place.runs("export runs/r --to weights.pt");
    for name in [
        "old.png",
        "old.ddcm",
        "old.safetensors",
        "old.pt",
        "old.gif",
    ] {
        std::fs::write(place.at(name), "old").unwrap();
    }
    for (line, out) in [
        ("sample runs/r -n 1", "--out old.png"),
        ("sample runs/r -n 1", "--out-tensor old.safetensors"),
        ("sample runs/r -n 1", "--trajectory old.gif"),
        ("sample runs/r -n 1", "--strip old.png"),
        ("invert runs/r a.png --steps 2", "--out old.png"),
        ("interpolate runs/r a.png b.png -k 2", "--out old.png"),
        ("encode runs/r a.png", "--out old.ddcm"),
        ("export runs/r", "--to old.safetensors"),
        ("export runs/r", "--to old.pt"),
        (
            "import weights.pt --config runs/r/config.toml",
            "--to old.safetensors",
        ),
    ] {
        let line = format!("{line} {out}");
        let name = out.split(' ').next_back().unwrap();
        place.refuses_at_once(
            &line,
            &format!("{out} exists; choose another name, or replace it with --force"),
        );
        place.runs(&format!("{line} --force"));
        assert_ne!(place.bytes(name), b"old", "{line}");
        std::fs::write(place.at(name), "old").unwrap();
    }
    for (line, name) in [
        ("sample runs/r -n 1", "samples.png"),
        ("interpolate runs/r a.png b.png -k 2", "interpolation.png"),
        ("invert runs/r a.png --steps 2", "inverted.png"),
    ] {
        std::fs::write(place.at(name), "old").unwrap();
        place.runs(line);
        assert!(is_png(&place.bytes(name)), "{name}");
    }
}

#[test]
fn a_link_stays_and_its_target_is_replaced() {
    let place = Place::new();
    std::fs::create_dir(place.at("far")).unwrap();
    std::fs::write(place.at("far/old.png"), "old").unwrap();
    symlink("far/old.png", place.at("link.png")).unwrap();
    place.refuses(
        "sample runs/r -n 1 --out link.png",
        "--out link.png exists; choose another name, or replace it with --force",
    );
    place.runs("sample runs/r -n 1 --out link.png --force");
    assert!(place.at("link.png").is_symlink());
    assert!(is_png(&place.bytes("far/old.png")));
    symlink("far/new.png", place.at("samples.png")).unwrap();
    place.runs("sample runs/r -n 1");
    assert!(place.at("samples.png").is_symlink());
    assert!(is_png(&place.bytes("far/new.png")));
}

#[test]
fn separate_images_replace_others_with_force_alone() {
    let place = Place::new();
    std::fs::create_dir(place.at("d")).unwrap();
    for name in [
        "00000.png",
        "00002.png",
        "00003.png",
        "000001.png",
        "notes.txt",
    ] {
        std::fs::write(place.at("d").join(name), "old").unwrap();
    }
    let line = "sample runs/r -n 3 --separate d";
    place.refuses_at_once(
        line,
        "--separate d holds 2 files that would be overwritten, 00000.png the first; choose another folder, or \
         replace them with --force",
    );
    place.runs("encode runs/r a.png -o x.ddcm");
    place.refuses_at_once(
        "decode x.ddcm --separate d",
        "--separate d holds 1 file that would be overwritten, 00000.png the first; choose another folder, or \
         replace them with --force",
    );
    place.runs(&format!("{line} --force"));
    for number in 0..3 {
        assert!(is_png(&place.bytes(&format!("d/0000{number}.png"))));
    }
    for name in ["00003.png", "000001.png", "notes.txt"] {
        assert_eq!(place.bytes(&format!("d/{name}")), b"old");
    }
}

/// The model is a file that does not exist: had the work begun, that would be the error.
#[test]
fn outputs_are_checked_before_the_work() {
    let place = Place::new();
    std::fs::create_dir(place.at("d")).unwrap();
    std::fs::write(place.at("d/x"), "").unwrap();
    for (line, said) in [
        (
            "sample no --out nowhere/x.png",
            "--out nowhere/x.png: there is no folder nowhere; make it first",
        ),
        (
            "sample no --out a.png/x.png",
            "--out a.png/x.png: there is no folder a.png; make it first",
        ),
        (
            "sample no --out d",
            "--out d is a folder; choose the name of a file",
        ),
        (
            "sample no --out x.jpg",
            "--out x.jpg: want a name ending in .png",
        ),
        (
            "sample no --strip x.gif",
            "--strip x.gif: want a name ending in .png",
        ),
        (
            "sample no --trajectory x.mp4",
            "--trajectory x.mp4: want a name ending in .png, .apng or .gif",
        ),
        (
            "sample no --out-tensor x.pt",
            "--out-tensor x.pt: want a name ending in .safetensors",
        ),
        (
            "sample no --separate a.png",
            "--separate a.png is a file; choose a folder",
        ),
        (
            "interpolate no a.png b.png -o d",
            "--out d is a folder; choose the name of a file",
        ),
        (
            "invert no a.png -o x.gif",
            "--out x.gif: want a name ending in .png",
        ),
        (
            "invert no a.png --out-tensor x.png",
            "--out-tensor x.png: want a name ending in .safetensors",
        ),
        (
            "encode no a.png -o x.png",
            "--out x.png: want a name ending in .ddcm",
        ),
        (
            "predict no --input no --output x.pt",
            "--output x.pt: want a name ending in .safetensors",
        ),
        (
            "import no --to x.pt",
            "--to x.pt: want a name ending in .safetensors",
        ),
        (
            "export no --to nowhere/x.pt",
            "--to nowhere/x.pt: there is no folder nowhere; make it first",
        ),
        (
            "export no --to d",
            "--to d is there already, with files in it; choose a new folder",
        ),
    ] {
        place.refuses_at_once(line, said);
    }
    place.refuses(
        "train --data . --cache nowhere/cache",
        "--cache nowhere/cache: there is no folder nowhere; make it first",
    );
    place.refuses_at_once(
        "train --data . --cache d",
        "--cache d is a folder; choose the name of a file",
    );
    // The folder of a measurement is the checkpoint's; a folder in its place.
    let measured = "runs/r/checkpoints/step-00000001.safetensors.ema.analytic.json";
    std::fs::create_dir(place.at(measured)).unwrap();
    let out = place.command("calibrate runs/r").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        said.starts_with("error: cannot write runs/r/checkpoints/step-"),
        "{said}"
    );
    assert!(said.contains("is a directory"), "{said}");
}

#[test]
fn pipes_and_devices_are_written_to_and_stay() {
    let place = Place::new();
    let pipe = place.at("pipe.png");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    place.runs("sample runs/r -n 1 --out pipe.png");
    assert!(is_png(&reader.join().unwrap()));
    let kind = |path: &Path| std::fs::symlink_metadata(path).unwrap().file_type();
    assert!(kind(&pipe).is_fifo());

    place.runs("encode runs/r a.png -o x.ddcm");
    for line in [
        "sample runs/r -n 1 --out -",
        "sample runs/r -n 1 --out /dev/stdout",
        "sample runs/r -n 1 --trajectory /dev/stdout --out x.png",
        "decode x.ddcm --out -",
        "invert runs/r a.png --steps 2 --out -",
    ] {
        let out = place.command(line).output().unwrap();
        assert!(out.status.success(), "{line}");
        assert!(is_png(&out.stdout), "{line}");
    }
    // Added to what a file holds that stdout is led to.
    std::fs::write(place.at("log"), "first\n").unwrap();
    let log = std::fs::File::options()
        .append(true)
        .open(place.at("log"))
        .unwrap();
    let status = std::process::Command::new(assert_cmd::cargo::cargo_bin!("ddpm"))
        .current_dir(place.dir.path())
        .args("sample runs/r -n 1 --device cpu --out /dev/stdout".split(' '))
        .stdout(log)
        .stderr(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let log = place.bytes("log");
    assert!(log.starts_with(b"first\n") && is_png(&log[6..]));

    let null = Path::new("/dev/null");
    let is_stream = ddpm::fs::Target::of(null).unwrap().is_null();
    // Only then: a file in its place would break this machine.
    if is_stream && kind(null).is_char_device() {
        place.runs(
            "sample runs/r -n 1 --out /dev/null --trajectory /dev/null --out-tensor /dev/null",
        );
        assert!(kind(null).is_char_device());
    }
}
