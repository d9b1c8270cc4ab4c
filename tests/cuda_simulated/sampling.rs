//! Every command that samples: without a wait in a step, and with the CPU's images.

use ddpm::report::{read_png, write_png};
use ndarray::Array3;
use tch::{Device, Kind, Tensor};

use crate::common::{Golden, max_abs};
use crate::lab::Lab;

const T: u64 = 20;

/// A run of a few steps, of a network with T time steps.
fn lab_with_run() -> Lab {
    let lab = Lab::new();
    lab.ok(&format!(
        "train --preset demo --size 16 --base-width 8 --norm-groups 2 --batch 8 --builtin-images 16 --timesteps {T} \
         --device cuda --precision f32 --sample-every 0 --steps 3 --run run"
    ));
    lab
}

#[test]
fn no_step_of_a_sampler_waits_and_images_are_the_cpu_s() {
    let lab = lab_with_run();
    lab.ok("calibrate run --device cuda --precision f32 -n 16");
    for sampler in [
        "ddpm",
        "ddim",
        "ddim --eta 1",
        "analytic",
        "dpmpp-2m",
        "dpmpp-2m-sde",
        "heun",
        "unipc",
        "ddcm",
    ] {
        let arguments = |steps: u64, device: &str| {
            format!(
                "sample run -n 2 --sampler {sampler} --steps {steps} --device {device} --precision f32 --force \
                 --out-tensor {device}.safetensors"
            )
        };
        let [short, long] = [3, 6].map(|steps| lab.ok(&arguments(steps, "cuda")));
        assert_eq!(
            long.waits(),
            short.waits(),
            "{sampler}: {} and {}",
            short.by_name(),
            long.by_name()
        );
        lab.on_cpu(&arguments(6, "cpu"));
        let images = |device: &str| {
            let file = lab.path(&format!("{device}.safetensors"));
            Golden::open_path(&file).get("pictures").copy()
        };
        let apart = max_abs(&images("cuda"), &images("cpu"));
        println!("{sampler}: {apart:.1e}");
        // Sums are rounded in another order, and a sampler carries that on for six steps.
        assert!(apart <= 1e-3, "{sampler}: {apart}");
    }
}

#[test]
fn images_are_made_larger_in_tiles_without_a_wait_as_on_the_cpu() {
    let lab = Lab::new();
    lab.ok(&format!(
        "train --preset demo --size 16 --base-width 8 --norm-groups 2 --batch 8 --builtin-images 16 --timesteps {T} \
         --upscale 2 --device cuda --precision f32 --sample-every 0 --steps 3 --run run"
    ));
    // 12 px become 24: four tiles of 16.
    let small = Array3::from_shape_fn((12, 12, 3), |(y, x, c)| (10 * y + 9 * x + 20 * c) as u8);
    write_png(&lab.path("small.png"), small.view()).unwrap();
    let arguments = |steps: u64, device: &str| {
        format!(
            "upscale run small.png --out {device}.png --steps {steps} --device {device} --precision f32 --batch 2 \
             --condition-noise 0.1 --force"
        )
    };
    let [short, long] = [3, 6].map(|steps| lab.ok(&arguments(steps, "cuda")));
    assert_eq!(
        long.waits(),
        short.waits(),
        "{} and {}",
        short.by_name(),
        long.by_name()
    );
    lab.on_cpu(&arguments(6, "cpu"));
    let [ours, theirs] =
        ["cuda", "cpu"].map(|device| read_png(&lab.path(&format!("{device}.png")), 3).unwrap());
    let most = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max();
    // Rounded to a neighbouring level at worst.
    assert!(most <= Some(1), "{most:?}");
}

#[test]
fn images_are_started_from_mixed_inverted_and_compressed() {
    let lab = lab_with_run();
    let on = "--device cuda --precision f32";
    lab.ok(&format!(
        "sample run -n 3 {on} --batch auto --sampler ddim --steps 4 --separate made"
    ));
    lab.ok(&format!(
        "sample run -n 1 {on} --sampler ddim --steps 4 --out a.png --trajectory a.gif --strip strip.png"
    ));
    let made: Vec<_> = (lab.path("made").read_dir().unwrap())
        .map(|entry| format!("made/{}", entry.unwrap().file_name().display()))
        .collect();
    let [a, b, _] = &made[..] else {
        panic!("{made:?}");
    };
    lab.ok(&format!(
        "sample run -n 2 --device cuda --precision bf16 --sampler dpmpp-2m --steps 4 --init-image {a} --out b.png"
    ));
    lab.ok(&format!(
        "sample run -n 1 {on} --sampler ddpm --steps 4 --init-image {a} --mask {b} --jump 2 --resample 2 --out c.png"
    ));
    lab.ok(&format!(
        "interpolate run {a} {b} {on} --count 3 --steps 4 --out d.png"
    ));
    lab.ok(&format!(
        "interpolate run --latent --rows 1 --count 3 {on} --steps 4 --out e.png"
    ));
    lab.ok(&format!("invert run {a} {on} --steps 5 --out f.png"));
    let [short, long] = [3, 6].map(|steps| {
        let encoded = lab.ok(&format!(
            "encode run {a} {b} {on} --codebook 16 --steps {steps} --out {steps}.ddcm"
        ));
        let decoded = lab.ok(&format!(
            "decode {steps}.ddcm --model run {on} --out {steps}.png"
        ));
        [encoded.waits(), decoded.waits()]
    });
    assert_eq!(short, long, "no step of encode or decode waits");
    let written = [
        "a.png",
        "a.gif",
        "strip.png",
        "b.png",
        "c.png",
        "d.png",
        "e.png",
        "f.png",
        "6.png",
    ];
    for file in written {
        assert!(lab.path(file).exists(), "{file}");
    }
}

#[test]
fn an_output_of_the_network_is_the_cpu_s() {
    let lab = lab_with_run();
    let x = Tensor::arange(2 * 3 * 16 * 16, (Kind::Float, Device::Cpu)).sin();
    let t = Tensor::from_slice(&[0i64, 19]);
    let input = [("x", x.view([2, 3, 16, 16])), ("t", t)];
    Tensor::write_safetensors(&input, lab.path("in.safetensors")).unwrap();
    let predict = |device: &str| {
        format!(
            "predict run --precision f32 --input in.safetensors --device {device} --output {device}.safetensors"
        )
    };
    lab.ok(&predict("cuda"));
    lab.on_cpu(&predict("cpu"));
    let out = |device: &str| {
        let file = lab.path(&format!("{device}.safetensors"));
        Golden::open_path(&file).get("out").copy()
    };
    let apart = max_abs(&out("cuda"), &out("cpu"));
    // Of the order of one; sums in f32 are rounded in another order.
    assert!(apart <= 1e-4, "{apart}");
}
