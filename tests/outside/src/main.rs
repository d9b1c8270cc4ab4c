//! A program of another crate: chooses a device first of all, trains five steps and samples two images.

use ddpm::Pretrained;
use ddpm::checkpoint::RunFolder;
use ddpm::config::Preset;
use ddpm::device::{DeviceChoice, Precision, choose};
use ddpm::train::{Start, train};

fn main() {
    let chosen = choose(DeviceChoice::Auto, Precision::Auto, false).expect("a device");
    println!("CUDA: {}", chosen.no_cuda.as_deref().unwrap_or("used"));
    let run = std::env::args().nth(1).expect("a folder for the run");
    let mut config = Preset::Demo.config();
    config.data.builtin_images = 8;
    (config.train.batch, config.train.steps) = (4, 5);
    (config.sample.images, config.train.sample_steps) = (1, 1);
    let folder = RunFolder::new(run.clone().into());
    let start = Start { folder, chosen: Some(chosen), ..Start::new(config) };
    let end = train(start).expect("five steps");
    println!("{end:?}");
    let pretrained = Pretrained::load(run).expect("its checkpoint");
    let images = pretrained.sampler(ddpm::sample::SamplerKind::DpmPp2m).steps(2);
    println!("images: {:?}", images.sample(2, 1).expect("two images").shape());
}
