//! `ddpm bench --what decode`.

use std::fmt::{self, Display};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use tch::Device;

use super::median;
use crate::config::{RunConfig, Sources};
use crate::data::{self, HeldOut};
use crate::text::plural;

/// Time and speed of decoding a folder of images.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    what: &'static str,
    threads: usize,
    height: i64,
    width: i64,
    #[serde(rename = "pictures")]
    images: usize,
    skipped: usize,
    /// Size of all files.
    file_bytes: u64,
    ms_median: f64,
    ms_all: Vec<f64>,
    #[serde(rename = "pictures_per_sec")]
    images_per_sec: f64,
    #[serde(rename = "pictures_per_sec_per_thread")]
    images_per_sec_per_thread: f64,
    /// In units of 1,000,000 bytes of files.
    mb_per_sec: f64,
}

/// Reads the folder as `train --data` does without --cache, `warmup` + `iters` times.
///
/// The warm-up brings the files into the page cache.
pub(super) fn measure(config: &RunConfig, warmup: u32, iters: u32) -> Result<Outcome> {
    let dir = config.data.folder.as_ref();
    let dir = dir.context("--what decode needs a folder of images: name it with --data")?;
    for _ in 0..warmup {
        pass(config)?;
    }
    let (mut ms_all, mut images, mut skipped) = (vec![], 0, 0);
    for _ in 0..iters {
        let start = Instant::now();
        (images, skipped) = pass(config)?;
        ms_all.push(start.elapsed().as_secs_f64() * 1e3);
    }
    outcome(config, dir, (images, skipped), ms_all)
}

/// Reads all images once; returns the number of images, and of files that could not be read.
fn pass(config: &RunConfig) -> Result<(usize, usize)> {
    let loaded = data::load(
        &config.data,
        &config.model,
        config.train.seed,
        None,
        Device::Cpu,
        &|_, _| (),
    )?;
    let held_out = loaded.held_out.as_ref().map_or(0, HeldOut::len);
    Ok((loaded.manifest.len() + held_out, loaded.skipped.len()))
}

fn outcome(
    config: &RunConfig,
    dir: &Sources,
    (images, skipped): (usize, usize),
    ms_all: Vec<f64>,
) -> Result<Outcome> {
    let threads = rayon::current_num_threads();
    let [_, height, width] = config.model.chw();
    let (file_bytes, ms_median) = (data::file_bytes(dir, config.data.rules)?, median(&ms_all));
    let images_per_sec = images as f64 / ms_median * 1e3;
    Ok(Outcome {
        what: "decode",
        threads,
        height,
        width,
        images,
        skipped,
        file_bytes,
        ms_median,
        ms_all,
        images_per_sec,
        images_per_sec_per_thread: images_per_sec / threads as f64,
        mb_per_sec: file_bytes as f64 / ms_median / 1e3,
    })
}

impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = match self.skipped {
            0 => String::new(),
            n => format!(" ({n} could not be read)"),
        };
        write!(
            f,
            "{}{skipped} to {}x{} on {}: median {:.1} ms, {:.1} images/s, \
             {:.1} per thread, {:.1} MB/s of files",
            plural(self.images as u64, "image"),
            self.height,
            self.width,
            plural(self.threads as u64, "thread"),
            self.ms_median,
            self.images_per_sec,
            self.images_per_sec_per_thread,
            self.mb_per_sec
        )
    }
}
