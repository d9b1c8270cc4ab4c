//! The layout of maps on the device: forced, measured, kept.

use crate::lab::Lab;
use crate::networks::{ATTENTION, F32, UNET, compare, sample};
use crate::tiny::{assert_same_end, metrics};

const TINY: &str = "--preset demo --size 8 --base-width 8 --norm-groups 2 --multipliers 1 --batch 2 \
                    --builtin-images 10 --sample-every 0 --precision f32 --device cuda";

/// Enough for a part of a batch of 64.
const SMALL_DEVICE_BYTES: u64 = 20_000_000;

/// The layout that the settings of a run name.
fn named(lab: &Lab, run: &str) -> Option<String> {
    let text = std::fs::read_to_string(lab.path(run).join("config.toml")).unwrap();
    let config: toml::Table = text.parse().unwrap();
    let layout = config["train"].get("layout")?;
    layout.as_str().map(str::to_owned)
}

/// Losses and images are the CPU's and each other's but for rounding: sums run in another order.
#[test]
fn each_layout_gives_the_same_losses() {
    for network in [UNET, ATTENTION] {
        let lab = Lab::new();
        let train = |run: &str, more: &str| {
            format!(
                "train {network} --builtin-images 16 --sample-every 0 --precision f32 --steps 5 --run {run} {more}"
            )
        };
        lab.on_cpu(&train("cpu", "--device cpu"));
        let on_device = |run: &str, more: &str| lab.ok(&(train(run, "--device cuda ") + more));
        let [nchw, nhwc] = ["nchw", "nhwc"].map(|layout| {
            let ran = on_device(layout, &format!("--layout {layout}"));
            assert_eq!(named(&lab, layout).as_deref(), Some(layout));
            compare(&lab, layout, "cpu", F32);
            sample(&lab, layout);
            ran
        });
        compare(&lab, "nchw", "nhwc", F32);
        assert_ne!(nchw.count("kernels"), nhwc.count("kernels"), "{network}");
        // Where none is named, as in all older runs; so short a run measures nothing.
        on_device("unnamed", "");
        assert_eq!(metrics(&lab.path("unnamed")), metrics(&lab.path("nchw")));
        assert_eq!(named(&lab, "unnamed"), None);
    }
}

#[test]
fn a_run_goes_on_in_its_layout_to_its_own_bits() {
    let lab = Lab::new();
    let train = |run: &str, steps: u64, more: &str| {
        lab.ok(&format!(
            "train --deterministic --run {run} --steps {steps} {more}"
        ))
    };
    let settings = format!("{TINY} --layout nhwc --dropout 0.1");
    train("once", 6, &settings);
    train("twice", 3, &settings);
    let resume = "--device cuda --precision f32";
    train("twice", 6, resume);
    assert_same_end(&lab.path("once"), &lab.path("twice"), 6);
    let same = train("twice", 7, &format!("{resume} --layout auto"));
    same.assert_says(&["note: --layout auto is for new runs; this one keeps nhwc"]);
    assert!(!same.said.contains("ms a step"), "{}", same.said);
    assert_eq!(named(&lab, "twice").as_deref(), Some("nhwc"));
    let other = train("twice", 8, &format!("{resume} --layout nchw"));
    other.assert_says(&["changed from here on: train.layout: \"nchw\" instead of \"nhwc\""]);
    assert_eq!(named(&lab, "twice").as_deref(), Some("nchw"));
}

/// Measuring leaves nothing behind: the run is the one of that layout, bit for bit.
#[test]
fn a_layout_that_is_measured_is_said_and_kept() {
    let lab = Lab::new();
    let measured = lab.ok(&format!("train {TINY} --steps 200 --run measured"));
    let layout = named(&lab, "measured").unwrap();
    measured.assert_says(&[
        &format!("layout {layout}: "),
        " ms a step, forward and backward, against ",
    ]);
    let forced = lab.ok(&format!(
        "train {TINY} --steps 200 --layout {layout} --run forced"
    ));
    assert!(!forced.said.contains("ms a step"), "{}", forced.said);
    assert_same_end(&lab.path("measured"), &lab.path("forced"), 200);
}

#[test]
fn nothing_is_measured_for_the_same_bits_nor_in_a_run_that_has_begun() {
    let lab = Lab::new();
    let train = |arguments: &str| {
        let ran = lab.ok(&format!("train {arguments}"));
        assert!(!ran.said.contains("ms a step,"), "{}", ran.said);
    };
    train(&format!("{TINY} --steps 200 --deterministic --run same"));
    assert_eq!(named(&lab, "same"), None);
    train("--run same --steps 400 --device cuda --precision f32");
    assert_eq!(named(&lab, "same"), None);
    // Settings that name one.
    std::fs::write(lab.path("layout.toml"), "[train]\nlayout = \"nhwc\"\n").unwrap();
    train(&format!(
        "{TINY} --steps 200 --config layout.toml --run named"
    ));
    assert_eq!(named(&lab, "named").as_deref(), Some("nhwc"));
    // That of another run is measured for that run.
    train("--init-from named --run child --steps 3 --builtin-images 10 --device cuda");
    assert_eq!(named(&lab, "child"), None);
}

#[test]
fn a_layout_is_measured_with_the_microbatches_that_fit() {
    let lab = Lab::with_memory(SMALL_DEVICE_BYTES);
    // Its second step is not finite, and the run ends.
    let settings = "--preset demo --size 32 --base-width 8 --norm-groups 2 --builtin-images 16 \
                    --sample-every 0 --device cuda --precision f32 --steps 200 --lr 1e30 --lr-schedule 0:1";
    std::fs::write(lab.path("batch.toml"), "[train]\nbatch = 64\n").unwrap();
    let auto = lab.run(&format!(
        "train {settings} --batch auto --config batch.toml --run auto"
    ));
    assert_eq!(auto.code, Some(1), "{}", auto.said);
    auto.assert_says(&["layout n", " ms a step", "--batch auto: batch 64 in "]);
    let times = auto.said.matches("--batch auto: batch").count();
    assert_eq!(times, 1, "measuring says nothing of it: {}", auto.said);

    // Neither fits: what is said is said by the start itself.
    let forced = lab.run(&format!("train {settings} --batch 64 --force --run forced"));
    assert_eq!(forced.code, Some(1), "{}", forced.said);
    forced.assert_says(&["error: out of memory: ", "should fit: --accumulate "]);
}
