//! With `--reduce ordered`, W ranks give bit for bit what one process gives that splits its batches into as many
//! microbatches: all that is different is where they are computed.

use std::path::Path;

use ddpm::checkpoint::{read_checkpoint, resolve};
use tch::Kind;

use super::team::{free_port, plain, program, started, tiny, torchrun, train_alone, train_with};
use super::tiny::{assert_same_end, checkpoint, ddpm, metrics, stderr};

const NETWORKS: [(&str, &str); 7] = [
    (
        "unet",
        "--preset demo --norm-groups 2 --multipliers 1,2 --optimizer lamb",
    ),
    (
        "rows",
        "--preset demo --norm-groups 2 --multipliers 1 --optimizer lamb --adapt-norms --clip-norm 1",
    ),
    (
        "upscale",
        "--preset demo --norm-groups 2 --multipliers 1 --optimizer adam --upscale 2",
    ),
    (
        "attention",
        "--preset ddpm-cifar10 --norm-groups 2 --multipliers 1,2 --attention 4 --optimizer adamw",
    ),
    (
        "concat",
        "--preset keras-ddpm2 --norm-groups 2 --multipliers 1,2 --blocks 1 --optimizer adam",
    ),
    (
        "gau",
        "--preset keras-gau --patch 4 --layers 2 --optimizer lamb",
    ),
    (
        "lucidrains",
        "--model lucidrains --multipliers 1,2 --optimizer adam",
    ),
];

/// Settings that all of them share; each batch is of 12 images.
fn settings(network: &str) -> String {
    format!(
        "train {network} --base-width 8 --size 8 --timesteps 4 --builtin-images 10 --batch 12 --flip --dropout 0.1 \
         --sample-images 2 --sample-every 3 --save-every 3 --device cpu --threads 1 --precision f32 --lr-schedule 0:1 \
         --steps 5"
    )
}

/// Trains all networks with `ranks` ranks in `parts` microbatches, and with one process, and compares.
fn compare(ranks: u32, parts: u32) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, how: &str| dir.path().join(format!("{name}-{how}"));
    // One torchrun for all, as its own start takes longer than the trainings.
    let mut script = "set -e\n".to_owned();
    for (name, network) in NETWORKS {
        let run = at(name, "ranks");
        script += &format!(
            "{} {} --accumulate {parts} --reduce ordered --run {}\n",
            program(),
            settings(network),
            run.display()
        );
    }
    let out = torchrun(ranks, &[], &["sh", "-c", &script])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    for (name, network) in NETWORKS {
        let run = at(name, "alone");
        let whole = parts.max(ranks).to_string();
        let out = ddpm()
            .args(settings(network).split_whitespace())
            .args(["--accumulate", &whole, "--run"])
            .arg(&run)
            .output()
            .unwrap();
        assert!(out.status.success(), "{name}: {}", stderr(&out));
        for step in [3, 5] {
            let bytes = |how| std::fs::read(checkpoint(&at(name, how), step)).unwrap();
            assert!(bytes("ranks") == bytes("alone"), "{name}, step {step}");
        }
        assert_eq!(metrics(&at(name, "ranks")), metrics(&run), "{name}");
        for kind in ["ema", "raw"] {
            let grid = |how| {
                std::fs::read(at(name, how).join(format!("samples/step-00000003-{kind}.png")))
            };
            assert!(
                grid("ranks").unwrap() == grid("alone").unwrap(),
                "{name}, {kind}"
            );
        }
        let config = |how| std::fs::read_to_string(at(name, how).join("config.toml")).unwrap();
        assert_eq!(config("ranks"), config("alone"), "{name}");
    }
}

#[test]
fn two_ranks_are_one_process_with_two_microbatches() {
    compare(2, 1);
}

#[test]
fn three_ranks_are_one_process_with_six_microbatches() {
    compare(3, 6);
}

#[test]
fn a_run_goes_on_with_any_number_of_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let (once, often) = (dir.path().join("once"), dir.path().join("often"));
    let batch = ["--batch", "12", "--accumulate", "6", "--optimizer", "adamw"];
    train_alone(&once, 12, &batch);
    let ordered = ["--reduce", "ordered"];
    train_with(2, &often, 3, &[&batch[..], &ordered].concat());
    train_with(3, &often, 6, &ordered);
    train_alone(&often, 8, &[]);
    let said = train_with(2, &often, 12, &ordered);
    assert!(!said.contains("note:"), "{said}");
    assert_same_end(&once, &often, 12);
}

#[test]
fn ranks_hold_the_same_images_out() {
    let dir = tempfile::tempdir().unwrap();
    let (alone, ranks) = (dir.path().join("alone"), dir.path().join("ranks"));
    let hold_out = ["--hold-out", "3"];
    train_alone(&alone, 4, &[&hold_out[..], &["--accumulate", "2"]].concat());
    train_with(
        2,
        &ranks,
        4,
        &[&hold_out[..], &["--reduce", "ordered"]].concat(),
    );
    assert_same_end(&alone, &ranks, 4);
    let list = |run: &Path| std::fs::read_to_string(run.join("held_out.tsv")).unwrap();
    assert_eq!(list(&alone), list(&ranks));
    assert_eq!(list(&ranks).lines().count(), 4);
}

#[test]
fn the_ranks_of_a_host_share_what_one_decodes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let temporary = at("temporary");
    std::fs::create_dir_all(&temporary).unwrap();
    std::fs::create_dir_all(at("images")).unwrap();
    for number in 0..10 {
        let color = image::Rgb([number * 25, 0, 200]);
        let image =
            image::RgbImage::from_fn(9, 8, |x, _| if x < 4 { color } else { image::Rgb([9; 3]) });
        image
            .save(at("images").join(format!("{number}.png")))
            .unwrap();
    }
    let words = |name: &str, more: &[&str]| -> Vec<String> {
        let mut words = tiny(&at(name), 4, more);
        let builtin = words
            .iter()
            .position(|word| word == "--builtin-images")
            .unwrap();
        words[builtin] = "--data".to_owned();
        words[builtin + 1] = at("images").to_str().unwrap().to_owned();
        words
    };
    let alone = started(1, |_| vec![], &words("alone", &["--accumulate", "2"]));
    let place = plain(2, free_port());
    let place = |rank| {
        [
            place(rank),
            vec![("TMPDIR", temporary.to_str().unwrap().to_owned())],
        ]
        .concat()
    };
    let ranks = started(2, place, &words("ranks", &["--reduce", "ordered"]));
    for out in alone.iter().chain(&ranks) {
        assert!(out.status.success(), "{}", stderr(out));
    }
    assert_same_end(&at("alone"), &at("ranks"), 4);
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

fn worst(a: &Path, b: &Path, step: u64) -> f64 {
    let read = |run: &Path| {
        read_checkpoint(&checkpoint(run, step))
            .unwrap()
            .section("model.")
    };
    let both = read(a).into_iter().zip(read(b));
    let difference = |((name, a), (again, b)): ((String, tch::Tensor), (String, tch::Tensor))| {
        assert_eq!(name, again);
        ((a - b).to_kind(Kind::Double).abs().max()).double_value(&[])
    };
    both.map(difference).fold(0.0, f64::max)
}

#[test]
fn a_ring_gives_the_same_bits_every_time_and_nearly_those_of_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let settings = [
        "--batch",
        "12",
        "--optimizer",
        "adam",
        "--lr",
        "1e-3",
        "--multipliers",
        "1,2",
    ];
    let settings = [&settings[..], &["--save-every", "100"]].concat();
    let mut script = "set -e\n".to_owned();
    for (name, reduce) in [("one", "f32"), ("two", "f32"), ("half", "bf16")] {
        let words = tiny(
            &at(name),
            6,
            &[&settings[..], &["--reduce", reduce]].concat(),
        );
        script += &format!("{}\n", words.join(" "));
    }
    let out = torchrun(3, &[], &["sh", "-c", &script]).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    train_alone(
        &at("alone"),
        6,
        &[&settings[..], &["--accumulate", "3"]].concat(),
    );
    assert_same_end(&at("one"), &at("two"), 6);
    // Six steps of Adam at 1e-3, whose first moves each weight by the rate whatever its gradient's size: a gradient near
    // zero that is rounded otherwise may move it the other way. So most of the way, and much less on average.
    let moved = 6.0 * 1e-3;
    assert!(worst(&at("one"), &at("alone"), 6) < moved);
    let losses = |name: &str| metrics(&at(name)).iter().map(|m| m.1).collect::<Vec<_>>();
    for (name, tolerance) in [("one", 1e-5), ("half", 1e-2)] {
        for (ours, theirs) in losses(name).iter().zip(losses("alone")) {
            assert!(
                (ours - theirs).abs() <= tolerance * theirs,
                "{name}: {ours} {theirs}"
            );
        }
    }
    // Rounded on the way, so not the same.
    assert!(worst(&at("half"), &at("one"), 6) > 0.0);
}

#[test]
fn the_number_of_ranks_is_said_where_it_changes_the_bits() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_with(2, &run, 2, &["--batch", "12"]);
    let said = train_with(3, &run, 4, &[]);
    assert!(said.contains("2 ranks, and continues on"), "{said}");
    assert!(
        said.contains("3 ranks compute batches in 6 microbatches instead of 2"),
        "{said}"
    );
}

#[test]
fn bad_steps_are_skipped_and_left_behind_together() {
    let dir = tempfile::tempdir().unwrap();
    // With this low factor some ordinary steps count as explosions; going back from them, in vain, ends a run.
    for (way, code) in [("skip", 0), ("rollback", 1)] {
        let at = |how: &str| dir.path().join(format!("{way}-{how}"));
        let bad = [
            "--on-bad-step",
            way,
            "--explosion-factor",
            "1.9",
            "--save-every",
            "50",
        ];
        let words = |how, more: &[&str]| tiny(&at(how), 300, &[&bad[..], more].concat());
        let alone = words("alone", &["--accumulate", "2"]);
        let alone = started(1, |_| vec![], &alone);
        let ranks = started(
            2,
            plain(2, free_port()),
            &words("ranks", &["--reduce", "ordered"]),
        );
        for out in alone.iter().chain(&ranks) {
            assert_eq!(out.status.code(), Some(code), "{}", stderr(out));
        }
        let newest = |how| read_checkpoint(&resolve(&at(how)).unwrap()).unwrap();
        let (alone, ranks) = (newest("alone"), newest("ranks"));
        assert!(ranks.meta.history.rollbacks > 3 || !ranks.meta.history.skipped.is_empty());
        assert_eq!(alone.meta, ranks.meta);
        assert_same_end(&at("alone"), &at("ranks"), ranks.meta.step);
    }
}

#[test]
fn the_largest_microbatch_that_fits_is_one_a_rank() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let words = tiny(&run, 2, &["--reduce", "ordered"]);
    let words = words.join(" ").replace("--batch 4", "--batch auto");
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let ended = started(2, plain(2, free_port()), &words);
    let said = stderr(&ended[0]);
    assert!(ended.iter().all(|out| out.status.success()), "{said}");
    for part in [
        "--batch auto: batch 16 in 2 microbatches of 8; up to ",
        " free for each of the 2 ranks of this host\n",
        "batch 16 in 2 microbatches over 2 ranks",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
