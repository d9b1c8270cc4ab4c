//! Every hint that can be asked, in every command that reads such a file: the flag exists, and with it the command gets
//! one further.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser, ValueEnum};
use tch::{Device, Kind, Tensor};

use super::*;
use crate::cli::flags::with_flags;
use crate::cli::{Cli, describe_error};
use crate::config::Sigma;
use crate::formats::safetensors;
use crate::interop::{Foreign, Hints, Request, Uses};
use crate::pretrained::Pretrained;

/// Small files of weights/peers that leave something open, and `bare`: a U-Net of diffusers without a schedule.
const FILES: [&str; 8] = [
    "bare",
    "pesser.ckpt",
    "improved_ema_0.9999_000001.pt",
    "guided.pt",
    "lucidrains-model-1.pt",
    "keras_C_model.weights",
    "keras_Dt_model.weights",
    "keras_G_model.weights",
];

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/peers")
}

/// A copy of a file, where measurements may be written beside it.
fn copy_of(file: &str, dir: &Path) -> PathBuf {
    let to = dir.join(file);
    if file != "bare" {
        std::fs::copy(peers().join(file), &to).unwrap();
        return to;
    }
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(peers().join("diffusers/unet")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

/// A value that fits all of these files.
fn answer(flag: &str) -> &'static str {
    match flag {
        "--schedule" => "linear",
        "--timesteps" => "12",
        "--prediction" => "eps",
        "--sigma" => "beta",
        "--image-size" => "16",
        "--num-heads" => "4",
        "--attention-order" => "legacy",
        "--rescale-timesteps" => "false",
        "--class" => "0",
        other => panic!("{other} is asked for, and the test has no answer"),
    }
}

/// The flags that a message names.
fn named(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    (words.filter(|word| word.len() > 2 && word.starts_with("--")))
        .map(str::to_owned)
        .collect()
}

/// The flags of a command, by clap's own definition.
fn flags_of(command: &str) -> Vec<String> {
    let program = Cli::command();
    let command = program.find_subcommand(command).unwrap();
    let long = command.get_arguments().filter_map(|a| a.get_long());
    long.map(|name| format!("--{name}")).collect()
}

fn words_of(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn run(words: &[String]) -> Result<(), Error> {
    let mut words = [&["ddpm".to_owned()], words].concat();
    // Every command writes to the same file as the one before; in train the flag is about memory.
    let force = "--force".to_owned();
    if words[1] != "train" && flags_of(&words[1]).contains(&force) && !words.contains(&force) {
        words.push(force);
    }
    Cli::try_parse_from(words)?.run().map(drop)
}

/// The message of a command that fails.
fn refusal(line: &str) -> String {
    match run(&words_of(line)) {
        Ok(()) => panic!("{line} succeeds"),
        Err(error) => describe_error(&error),
    }
}

/// Runs a command and does what its errors ask for, until it succeeds.
fn follow(line: &str) {
    let mut words = words_of(line);
    let flags = flags_of(&words[0]);
    while let Err(error) = run(&words) {
        let text = describe_error(&error);
        for flag in named(&text) {
            assert!(flags.contains(&flag), "{words:?} has no {flag}: {text}");
        }
        // Of a list one flag a line: a line may offer two.
        let lines = text.lines().filter(|line| line.starts_with("  --"));
        let mut asked: Vec<String> = lines.map(|line| named(line).remove(0)).collect();
        if asked.is_empty() {
            asked.extend(named(&text).into_iter().take(1));
        }
        assert!(!asked.is_empty(), "{words:?}: {text}");
        for flag in asked {
            assert!(!words.contains(&flag), "{words:?} asks again: {text}");
            words.extend([flag.clone(), answer(&flag).to_owned()]);
        }
    }
}

/// An image, and an input of `predict`.
fn inputs(dir: &Path) {
    let image = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8 * 9, y as u8 * 9, 40]));
    let images = dir.join("images");
    std::fs::create_dir(&images).unwrap();
    image.save(images.join("a.png")).unwrap();
    let x = Tensor::zeros([1, 3, 16, 16], (Kind::Float, Device::Cpu));
    let t = Tensor::from_slice(&[3i64]);
    let tensors = [
        ("x".to_owned(), x),
        ("t".to_owned(), t.shallow_clone()),
        ("classes".to_owned(), t),
    ];
    safetensors::write(
        &dir.join("in.safetensors"),
        ("k".into(), "v".into()),
        &tensors,
    )
    .unwrap();
}

#[test]
fn every_hint_that_is_asked_for_is_taken_and_leads_further() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().display();
    inputs(dir.path());
    for name in ["bare", "guided.pt"] {
        let file = copy_of(name, dir.path());
        let f = file.display();
        let image = format!("{d}/images/a.png");
        follow(&format!("sample {f} -n 1 --steps 2 --out {d}/o.png"));
        follow(&format!(
            "sample {f} -n 1 --steps 2 --sampler ddim --out {d}/o.png"
        ));
        follow(&format!(
            "interpolate {f} --latent -n 1 -k 2 --steps 2 -o {d}/o.png"
        ));
        follow(&format!(
            "interpolate {f} {image} {image} -k 2 --steps 4 -o {d}/o.png"
        ));
        follow(&format!("invert {f} {image} --steps 2 -o {d}/o.png"));
        follow(&format!("encode {f} {image} --steps 2 -o {d}/{name}.ddcm"));
        follow(&format!(
            "decode {d}/{name}.ddcm --model {f} --out {d}/o.png"
        ));
        follow(&format!(
            "predict {f} --input {d}/in.safetensors --output {d}/out.safetensors"
        ));
        follow(&format!("export {f} --to {d}/o.safetensors"));
        follow(&format!("export {f} --to {d}/o.pt"));
        follow(&format!("import {f}"));
        follow(&format!("calibrate {f} --data {d}/images -n 1"));
    }
}

#[test]
fn training_from_a_file_that_leaves_something_open_names_the_whole_import() {
    let dir = tempfile::tempdir().unwrap();
    for name in FILES {
        let file = copy_of(name, dir.path());
        let line = format!(
            "train --init-from {} --run {}",
            file.display(),
            dir.path().join("run").display()
        );
        let text = refusal(&line);
        let import = text
            .lines()
            .find_map(|line| line.strip_prefix("  ddpm "))
            .unwrap();
        let mut words = words_of(import);
        let flags = flags_of("import");
        for i in 0..words.len() {
            if words[i] == "--to" {
                words[i + 1] = dir.path().join(&words[i + 1]).display().to_string();
            } else if words[i].starts_with("--") {
                assert!(flags.contains(&words[i]), "{text}");
                words[i + 1] = answer(&words[i]).to_owned();
            }
        }
        // T is known only now, and with it a question more.
        if name.starts_with("improved") || name == "guided.pt" {
            assert!(words.contains(&"--rescale-timesteps".to_owned()), "{text}");
        }
        run(&words).unwrap();
        let (to, _) = text
            .rsplit_once("--init-from ")
            .map(|(_, to)| (to, ()))
            .unwrap();
        Pretrained::load(dir.path().join(to)).unwrap();
    }
}

#[test]
fn a_file_with_a_blank_in_its_name_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("my model.ckpt");
    std::fs::copy(peers().join("pesser.ckpt"), &file).unwrap();
    let words = ["train", "--init-from", &file.display().to_string()].map(str::to_owned);
    let text = describe_error(&run(&words).unwrap_err());
    let said = format!(
        "  ddpm import '{}' --image-size HxW --sigma KIND --to 'my model-imported.safetensors'\n",
        file.display()
    );
    assert!(text.contains(&said), "{text}");
}

/// What is assumed or missing names no flag that a command with these uses lacks; `inspect` shows what `import` takes.
#[test]
fn no_assumption_offers_a_flag_that_the_command_does_not_have() {
    let sampling = Uses {
        sigma: true,
        ..Uses::PROCESS
    };
    let uses = [
        (Uses::ALL, &["import", "export"][..]),
        (sampling, &["sample", "interpolate", "encode"]),
        (Uses::PROCESS, &["invert", "calibrate", "decode"]),
        (Uses::NETWORK, &["predict", "export"]),
    ]
    .map(|(uses, commands)| {
        let flags = |command: &&'static str| (*command, flags_of(command));
        (uses, commands.iter().map(flags).collect::<Vec<_>>())
    });
    let dir = tempfile::tempdir().unwrap();
    for name in FILES.into_iter().chain(["w86763777.pt"]) {
        let file = copy_of(name, dir.path());
        for (uses, commands) in &uses {
            let request = Request {
                uses: *uses,
                ..Request::default()
            };
            let report = Foreign::examine(&file, &request).unwrap().report;
            let missing = report.missing.iter();
            let said = (missing.map(|hint| format!("{} {}", hint.flag, hint.about)))
                .chain(report.assumptions.iter().cloned());
            for text in said {
                for flag in named(&with_flags(&text)) {
                    for (command, flags) in commands {
                        assert!(flags.contains(&flag), "{command} {name}: {text}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_bare_evaluation_is_asked_nothing_about_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let asked = |name: &str| {
        let request = Request {
            uses: Uses::NETWORK,
            ..Request::default()
        };
        let report = Foreign::examine(&copy_of(name, dir.path()), &request)
            .unwrap()
            .report;
        let asked = report.missing.iter().map(|hint| hint.setting());
        asked.collect::<Vec<_>>().join(", ")
    };
    let openai = "num_heads or head_channels, attention_order, timesteps, rescale_timesteps";
    for (file, wanted) in [
        ("bare", ""),
        ("pesser.ckpt", ""),
        ("guided.pt", openai),
        ("lucidrains-model-1.pt", ""),
        // The size decides how often it pools.
        ("keras_C_model.weights", "image_size"),
        ("keras_G_model.weights", ""),
    ] {
        assert_eq!(asked(file), wanted, "{file}");
    }
}

#[test]
fn words_that_a_shell_would_split_are_quoted() {
    assert_eq!(shell_word("runs/a-1.pt"), "runs/a-1.pt");
    assert_eq!(shell_word("my model.pt"), "'my model.pt'");
    assert_eq!(shell_word("it's $HOME"), "'it'\\''s $HOME'");
    assert_eq!(shell_word(""), "''");
}

/// A sampler's settings are the caller's, whatever the file says or its program does.
#[test]
fn a_sampler_s_flags_win_over_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = peers().join("diffusers");
    let files = FILES.map(|name| copy_of(name, dir.path()));
    let files = files
        .into_iter()
        .chain([pipeline, peers().join("w86763777.pt")]);
    for file in files {
        let f = file.display();
        let to = dir.path().join("imported.safetensors");
        for (sigma, clip) in [(Sigma::Beta, false), (Sigma::Posterior, true)] {
            let flags = format!("--sigma {} --clip-x0 {clip}", spelled(sigma));
            follow(&format!("import {f} {flags} --to {}", to.display()));
            let sample = &Pretrained::load(&to).unwrap().meta.config.sample;
            assert_eq!((sample.sigma, sample.clip_x0), (sigma, clip), "{f}");
        }
        // The last import is a file of ours.
        let request = Request {
            hints: Hints {
                sigma: Some(Sigma::Beta),
                clip_x0: Some(false),
                ..Hints::default()
            },
            ..Request::default()
        };
        let ours = Pretrained::load_with(&to, &request, Device::Cpu).unwrap();
        let sample = &ours.meta.config.sample;
        assert_eq!((sample.sigma, sample.clip_x0), (Sigma::Beta, false), "{f}");
        let said: Vec<String> = ours.replaced.iter().map(|line| with_flags(line)).collect();
        let wanted = [
            "--sigma beta instead of the file's posterior",
            "--clip-x0=false instead of the file's true",
        ];
        assert_eq!(said, wanted);
    }
    let text = refusal(&format!(
        "sample {} --sigma learned -n 1",
        peers().join("diffusers").display()
    ));
    assert!(
        text.contains("--sigma learned: this network learns no variances"),
        "{text}"
    );
}

fn spelled(value: Sigma) -> String {
    let value = value.to_possible_value().unwrap();
    value.get_name().to_owned()
}

/// A small checkpoint of ours, 16x16 pixels and T = 20.
fn ours(dir: &Path) -> String {
    let to = dir.join("ours.safetensors").display().to_string();
    follow(&format!(
        "import {} --to {to}",
        peers().join("diffusers").display()
    ));
    to
}

#[test]
fn hints_for_a_file_of_ours_are_refused_with_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    inputs(dir.path());
    let (d, o) = (dir.path().display(), ours(dir.path()));
    follow(&format!(
        "encode {o} {d}/images/a.png --steps 2 -o {d}/a.ddcm"
    ));
    for line in [
        format!("sample {o} -n 1 --out {d}/o.png"),
        format!("interpolate {o} --latent -o {d}/o.png"),
        format!("invert {o} {d}/images/a.png -o {d}/o.png"),
        format!("encode {o} {d}/images/a.png -o {d}/o.ddcm"),
        format!("decode {d}/a.ddcm --model {o} --out {d}/o.png"),
        format!("calibrate {o} --data {d}/images"),
        format!("predict {o} --input {d}/in.safetensors --output {d}/out.safetensors"),
        format!("export {o} --to {d}/o.pt"),
    ] {
        let text = refusal(&format!("{line} --timesteps 5 --known guided256"));
        let said = "--known guided256, --timesteps 5: this is a file of this program, which holds all its settings \
                    (timesteps = 20); leave them out";
        assert!(text.contains(said), "{line}: {text}");
    }
    for (hint, said) in [
        ("--num-heads 2", "(num_heads = 1)"),
        ("--attention-order new", "all its settings;"),
        ("--schedule linear", "(schedule = cosine)"),
        ("--prediction v", "(prediction = eps)"),
        ("--image-size 8", "(image_size = 16x16)"),
        ("--blocks 7", "(blocks = "),
        ("--dropout 0.5", "(dropout = 0"),
        ("--rescale-timesteps true", "all its settings;"),
        ("--key model", "--key is for other programs' files"),
    ] {
        let text = refusal(&format!("sample {o} -n 1 --out {d}/o.png {hint}"));
        assert!(text.contains(said), "{hint}: {text}");
    }
    let text = refusal(&format!("decode {d}/a.ddcm --timesteps 5 --out {d}/o.png"));
    assert!(
        text.contains("--timesteps describes the file of --model"),
        "{text}"
    );
}

#[test]
fn hints_that_a_program_s_files_never_leave_open_are_refused() {
    for (file, hint) in [
        ("lucidrains-model-1.pt", "--known guided256"),
        ("lucidrains-model-1.pt", "--rescale-timesteps true"),
        ("keras_G_model.weights", "--num-heads 2"),
        ("keras_C_model.weights", "--known pesser-cifar10"),
        ("pesser.ckpt", "--attention-order new"),
        ("diffusers", "--blocks 2"),
    ] {
        let flag = hint
            .split(' ')
            .next()
            .unwrap()
            .trim_start_matches('-')
            .replace('-', "_");
        let text = refusal(&format!("import {} {hint}", peers().join(file).display()));
        let leave = [
            format!("leave {flag} out"),
            format!("leave --{} out", flag.replace('_', "-")),
        ];
        assert!(
            leave.iter().any(|leave| text.contains(leave)),
            "{file} {hint}: {text}"
        );
    }
}

/// The ends of numeric flags: taken, or refused with the range and what to do.
#[test]
fn the_ends_of_ranges_are_taken_or_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    inputs(dir.path());
    let (d, o) = (dir.path().display(), ours(dir.path()));
    let image = format!("{d}/images/a.png");
    let sample = format!("sample {o} -n 1 --out {d}/o.png");
    let from_image = format!("{sample} --init-image {image}");
    let between = format!("interpolate {o} {image} {image} -k 2 -o {d}/o.png");
    for (line, said) in [
        (
            format!("{from_image} --strength 0"),
            "leaves no step to run and the image as it is; want 0 < S <= 1",
        ),
        (format!("{from_image} --strength 1.1"), "want 0 < S <= 1"),
        (format!("{from_image} --strength nan"), "want 0 < S <= 1"),
        (
            format!("{from_image} --strength 0.2 --steps 2"),
            "the least noisy visited time step is t = 9 of T = 20; raise --strength above 0.45",
        ),
        (format!("{from_image} --jump 3"), "--mask"),
        (format!("{from_image} --resample 3"), "--mask"),
        (format!("{sample} --codebook-seed 1"), "only --sampler ddcm"),
        (format!("{sample} --frames 3"), "--trajectory"),
        (format!("{sample} --strip-frames 3"), "--strip"),
        (
            format!("{sample} --steps 0"),
            "T = 20 time steps, want 1 to 20",
        ),
        (
            format!("{sample} --steps 21"),
            "T = 20 time steps, want 1 to 20",
        ),
        (
            format!("{sample} --sampler ddim --eta 1.1"),
            "want 0 (no noise, DDIM) to 1",
        ),
        (
            format!("{between} --t0 0 --steps 2"),
            "t = 9 is the least noisy; raise --t0, or visit more (--steps)",
        ),
        (format!("{between} --t0 20"), "want 0 to 19"),
        (format!("{between} -n 2"), "cannot be used with"),
        (format!("invert {o} {image} --steps 0"), "want 1 to 20"),
    ] {
        let text = refusal(&line);
        assert!(text.contains(said), "{line}: {text}");
    }
    for line in [
        format!("{from_image} --strength 1 --steps 2"),
        format!("{from_image} --strength 0.01"),
        format!("{sample} --steps 1"),
        format!("{sample} --sampler ddim --eta 0 --steps 2"),
        format!("{sample} --sampler ddim --eta 1 --steps 2"),
        format!("{between} --t0 0"),
        format!("{between} --t0 19 --steps 2"),
        format!("invert {o} {image} --steps 1 -o {d}/o.png"),
    ] {
        run(&words_of(&line)).unwrap();
    }
}
