//! `ddpm bench --what decode`.

use std::fmt::{self, Display};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use tch::Device;

use super::median;
use crate::config::RunConfig;
use crate::data;

/// What reading a folder of pictures took.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    what: &'static str,
    threads: usize,
    height: i64,
    width: i64,
    pictures: usize,
    skipped: usize,
    /// Of all files.
    file_bytes: u64,
    ms_median: f64,
    ms_all: Vec<f64>,
    pictures_per_sec: f64,
    pictures_per_sec_per_thread: f64,
    /// Of 1,000,000 bytes of files.
    mb_per_sec: f64,
}

/// Reads the folder as `train --data` does without --cache, `warmup` + `iters` times.
///
/// The warm-up brings the files into the system's memory.
pub(super) fn measure(config: &RunConfig, warmup: u32, iters: u32) -> Result<Outcome> {
    let dir = config.data.folder.as_deref();
    let dir = dir.context("--what decode reads a folder of pictures: name it with --data")?;
    for _ in 0..warmup {
        pass(config)?;
    }
    let (mut ms_all, mut pictures, mut skipped) = (vec![], 0, 0);
    for _ in 0..iters {
        let start = Instant::now();
        (pictures, skipped) = pass(config)?;
        ms_all.push(start.elapsed().as_secs_f64() * 1e3);
    }
    outcome(config, dir, (pictures, skipped), ms_all)
}

/// Reads all pictures once; how many there are, and how many could not be read.
fn pass(config: &RunConfig) -> Result<(usize, usize)> {
    let loaded = data::load(
        &config.data,
        &config.model,
        config.train.seed,
        None,
        Device::Cpu,
        &|_, _| (),
    )?;
    Ok((loaded.manifest.len(), loaded.skipped.len()))
}

fn outcome(
    config: &RunConfig,
    dir: &Path,
    (pictures, skipped): (usize, usize),
    ms_all: Vec<f64>,
) -> Result<Outcome> {
    let threads = rayon::current_num_threads();
    let [_, height, width] = config.model.chw();
    let (file_bytes, ms_median) = (data::file_bytes(dir)?, median(&ms_all));
    let pictures_per_sec = pictures as f64 / ms_median * 1e3;
    Ok(Outcome {
        what: "decode",
        threads,
        height,
        width,
        pictures,
        skipped,
        file_bytes,
        ms_median,
        ms_all,
        pictures_per_sec,
        pictures_per_sec_per_thread: pictures_per_sec / threads as f64,
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
            "{} pictures{skipped} to {}x{} on {} threads: median {:.1} ms, {:.1} pictures/s, \
             {:.1} a thread, {:.1} MB/s of files",
            self.pictures,
            self.height,
            self.width,
            self.threads,
            self.ms_median,
            self.pictures_per_sec,
            self.pictures_per_sec_per_thread,
            self.mb_per_sec
        )
    }
}
