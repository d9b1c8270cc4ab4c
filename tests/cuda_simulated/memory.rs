//! Memory of the device: what is foretold, what is taken, and what is said when it runs out.

use crate::lab::Lab;
use crate::tiny::metrics;

const NETWORK: &str = "--preset demo --size 32 --base-width 16 --norm-groups 4 --builtin-images 16 \
                       --sample-every 0 --device cuda --precision f32 --steps 1";

/// Enough for a part of a batch of 64.
const SMALL_DEVICE_BYTES: u64 = 40_000_000;

#[test]
fn a_batch_that_does_not_fit_is_refused_split_or_said_to_have_failed() {
    let lab = Lab::with_memory(SMALL_DEVICE_BYTES);
    let refused = lab.run(&format!("train {NETWORK} --batch 64 --run refused"));
    assert_eq!(refused.code, Some(1), "{}", refused.said);
    refused.assert_says(&[
        "error: a microbatch of 64 images needs ",
        " are free; ",
        "should fit: --accumulate ",
        "or --batch auto",
        "or --checkpoint-blocks",
    ]);
    assert!(!lab.path("refused").exists());

    let forced = lab.run(&format!("train {NETWORK} --batch 64 --force --run forced"));
    assert_eq!(forced.code, Some(1), "{}", forced.said);
    forced.assert_says(&[
        "warning: a microbatch of 64 images needs ",
        "error: out of memory: ",
        "batch 64 in microbatches of 64",
        "should fit: --accumulate ",
    ]);

    std::fs::write(lab.path("batch.toml"), "[train]\nbatch = 64\n").unwrap();
    let auto = lab.ok(&format!(
        "train {NETWORK} --batch auto --config batch.toml --run auto"
    ));
    auto.assert_says(&["--batch auto: batch 64 in ", " microbatches of "]);
}

#[test]
fn weights_that_do_not_fit_are_said_to_be_too_large() {
    let lab = Lab::with_memory(SMALL_DEVICE_BYTES);
    lab.on_cpu(
        "train --preset demo --size 32 --base-width 192 --norm-groups 4 --builtin-images 4 --batch 1 \
         --sample-every 0 --precision f32 --steps 1 --run large",
    );
    let refused = lab.run("sample large -n 1 --steps 2 --device cuda --out a.png");
    assert_eq!(refused.code, Some(1), "{}", refused.said);
    refused.assert_says(&["error: out of memory: no room for the weights of large, "]);
    let network =
        "--preset demo --size 32 --base-width 192 --norm-groups 4 --batch 1 --device cuda";
    let train = format!("train {network} --builtin-images 4 --steps 1 --run larger");
    for command in [train, format!("bench {network} --iters 1")] {
        let refused = lab.run(&command);
        assert_eq!(refused.code, Some(1), "{}", refused.said);
        refused.assert_says(&["error: out of memory: no room for the network's weights, "]);
        assert!(!refused.said.contains("--accumulate"), "{}", refused.said);
    }
}

/// MiB of a text such as `1.5 GiB`.
fn mib(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').unwrap();
    let unit = match unit {
        "KiB" => 1.0 / 1024.0,
        "MiB" => 1.0,
        "GiB" => 1024.0,
        other => panic!("a unit of {other}"),
    };
    number.parse::<f64>().unwrap() * unit
}

/// Presets with fewer channels, of networks that were once told too little or too much; all presets as they are:
/// scripts/gpu/simulated_memory.py.
#[test]
fn memory_is_foretold_within_a_tenth() {
    let lab = Lab::new();
    for preset in [
        "celebahq128 --size 64 --base-width 16 --norm-groups 8 --checkpoint-blocks --batch 8",
        "lucidrains --size 32 --base-width 16 --batch 8",
        "keras-ddpm2 --size 64 --base-width 16 --norm-groups 4 --batch 8",
        "keras-gau --size 64 --base-width 128 --layers 6 --batch 32",
    ] {
        for precision in ["f32", "bf16"] {
            let run = lab.ok(&format!(
                "train --preset {preset} --accumulate 1 --builtin-images 4 --steps 1 --sample-every 0 \
                 --precision {precision} --device cuda --run {}-{precision}",
                preset.split(' ').next().unwrap()
            ));
            let (_, after) = run.said.split_once("about ").unwrap();
            let (foretold, _) = after.split_once(" of memory for tensors").unwrap();
            let taken = run.count("peak_bytes") as f64 / f64::from(1 << 20);
            let ratio = mib(foretold) / taken;
            println!("{preset} {precision}: {foretold} of {taken:.1} MiB, {ratio:.2}");
            assert!(
                (0.9..=1.1).contains(&ratio),
                "{preset} {precision}: {ratio}"
            );
        }
    }
}

/// In bf16 a residual block is one operation, which keeps half of what its parts keep; weights and moments, which are
/// most of the rest here, stay the same.
#[test]
fn a_block_keeps_less_than_its_parts_and_takes_no_more_operators() {
    let lab = Lab::new();
    let train = |run: &str, flags: &str| {
        let done = lab.ok(&format!(
            "train --preset celebahq128 --size 64 --base-width 16 --norm-groups 4 --builtin-images 8 --batch 8 \
             --accumulate 1 --steps 1 --sample-every 0 --precision bf16 --device cuda --run {run} {flags}"
        ));
        let (_, loss, norm) = metrics(&lab.path(run))[0];
        let [peak, operators, waits] = ["peak_bytes", "kernels", "waits"].map(|of| done.count(of));
        println!("{run}: {peak} bytes, {operators} operators, loss {loss}, gradient norm {norm}");
        (peak, operators, waits, loss, norm)
    };
    for dropout in ["", "--dropout 0.1"] {
        let name = |of: &str| format!("{of}{}", dropout.len());
        let plain = train(&name("plain"), &format!("--plain-blocks {dropout}"));
        let one = train(&name("one"), dropout);
        let again = train(&name("again"), &format!("--checkpoint-blocks {dropout}"));
        assert!(one.0 * 5 < plain.0 * 4, "{} of {}", one.0, plain.0);
        assert!(again.0 * 10 < one.0 * 9, "{} of {}", again.0, one.0);
        assert!(
            !dropout.is_empty() || one.1 <= plain.1,
            "{} of {}",
            one.1,
            plain.1
        );
        assert_eq!(one.2, plain.2);
        // The forward pass has the same bits.
        assert_eq!((one.3, again.3), (plain.3, plain.3));
        for norm in [one.4, again.4] {
            assert!((norm / plain.4 - 1.0).abs() < 1e-2, "{norm} of {}", plain.4);
        }
    }
}
