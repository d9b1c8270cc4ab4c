//! Times what FID's network sees, for comparison with other programs.
//!
//! ```sh
//! cargo run --release --example time_features -- WEIGHTS IMAGES.safetensors
//! ```
//!
//! IMAGES holds the tensor `images`, `[N, C, H, W]` u8. For each line on standard input, one pass over all of them, and
//! a line: its seconds. scripts/bench/bench_features.py does that in turns with pytorch-fid.

use std::io::{Write, stdin, stdout};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ddpm::evaluate::features::{Dialect, Network, open};
use ddpm::formats::safetensors;
use ddpm::tch::Device;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, images] = &arguments[..] else {
        bail!("want WEIGHTS IMAGES.safetensors");
    };
    let weights = Some(Path::new(weights));
    let network = open(
        Network::Inception,
        weights,
        Dialect::PytorchFid,
        Device::Cpu,
    )?;
    let file = safetensors::open(Path::new(images))?;
    let found = file.tensors.into_iter().find(|(name, _)| name == "images");
    let (_, images) = found.context("a tensor named images")?;
    for line in stdin().lines() {
        line?;
        let start = Instant::now();
        network.features(&images)?;
        writeln!(stdout(), "{}", start.elapsed().as_secs_f64())?;
    }
    Ok(())
}
