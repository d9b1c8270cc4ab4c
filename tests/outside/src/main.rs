//! A program of another crate: asks libtorch about CUDA first of all, and samples two images from a new network.

use ddpm::config::{Preset, Sigma};
use ddpm::diffusion::Schedule;
use ddpm::model::Model;
use ddpm::ndarray::Array1;
use ddpm::sample::{Ddpm, NoiseSource, Images, Process, Respaced, Sampler, sample_images};
use ddpm::tch::{self, Device, Tensor};

fn main() {
    println!("libtorch's CUDA half: {}", tch::utils::has_cudart());
    let _no_grad = tch::no_grad_guard();
    let mut config = Preset::Demo.config();
    config.diffusion.timesteps = 10;
    let network = Model::new(&config.model, 10, 0);
    let denoiser = |x_t: &Tensor, t: &Tensor| network.forward(x_t, t, None, false);
    let levels = Respaced::all(&Schedule::new(&config.diffusion));
    let process = Process::new(&denoiser, &levels, &config.diffusion, true);
    let sampler = Sampler::Ddpm(Ddpm { sigma: Sigma::Beta, last_noise: true });
    let wanted = Images {
        noise: NoiseSource::Seed(1),
        numbers: 0..2,
        batch: 2,
        chw: config.model.chw(),
        device: Device::Cpu,
    };
    let images = sample_images(&process, &sampler, &wanted, &mut |_| ());
    println!("images: {}", Array1::from(images.size()));
}
