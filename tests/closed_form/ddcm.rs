//! DDCM: noise from codebooks has the moments of free noise, and a larger codebook encodes an image more closely.

use ddpm::config::{Prediction, Sigma};
use ddpm::diffusion::Schedule;
use ddpm::rng::{Stream, normal};
use ddpm::sample::{
    Choice, Codebook, Ddpm, NoiseSource, Process, Respaced, Sampler, Visit, ddcm_encode, ddpm,
};
use tch::{Device, Kind, Tensor};

use crate::gaussian::{Gaussian, Network};
use crate::linear;
use crate::moments::{Wanted, check_moments};
use crate::theory::Method;

const CHW: [i64; 3] = [1, 2, 2];
const SIGMA: Ddpm = Ddpm {
    sigma: Sigma::Beta,
    last_noise: true,
};

fn visited() -> (Schedule, Respaced) {
    let schedule = Schedule::new(&linear(200, Prediction::Eps));
    let visit = Visit::List(vec![199, 160, 141, 90, 62, 30, 19, 3]);
    let steps = Respaced::new(&schedule, &visit).unwrap();
    (schedule, steps)
}

/// 20,000 samples with random entries of codebooks of 65,536: the moments are DDPM's, up to the error of a finite
/// codebook, which is like averaging over 65,536 draws.
#[test]
fn random_choices_sample_as_ddpm_does() {
    let ((schedule, steps), data) = (visited(), Gaussian::correlated());
    let (images, size) = (20_000, 65_536);
    let codebook = Codebook::new(7, size, CHW).unwrap();
    let source = NoiseSource::Codebook(codebook, Choice::Seed(1));
    let mut noise = |k| {
        let draw = source.draw(0..images, k, CHW, Device::Cpu);
        draw.to_kind(Kind::Double)
    };
    let chain = (&schedule, &steps);
    let sampler = Sampler::Ddpm(SIGMA);
    let x_0 = data.sample(chain, Prediction::Eps, &sampler, &mut noise, &mut |_| ());
    let method = Method::Ddpm {
        sigma: Sigma::Beta,
        last_noise: true,
    };
    let wanted = Wanted::of(method, &data, &steps);
    let effective = 1.0 / (1.0 / images as f64 + 1.0 / f64::from(size));
    check_moments(&data.along_basis(&x_0, 1.0), &wanted, effective, method);
}

/// Unit-normal images of 192 values: all noises have nearly the same length, as for real images.
#[test]
fn encoded_images_decode_and_come_nearer_the_larger_the_codebook() {
    let (schedule, _) = visited();
    let steps = Respaced::all(&schedule);
    let chw = [3, 8, 8];
    let x_0 = normal(3, Stream::Data, 0, &[16, 3, 8, 8], Device::Cpu);
    let denoiser = |x_t: &Tensor, t: &Tensor| {
        x_t * schedule.alphas_cumprod[t.int64_value(&[0]) as usize].sqrt()
    };
    let process = Process {
        denoiser: &denoiser,
        steps: &steps,
        prediction: Prediction::X0,
        clip_x0: false,
        watch: ddpm::sample::Watch::default(),
    };
    let error = |size: u32| {
        let codebook = Codebook::new(5, size, chw).unwrap();
        let entries = |k: u64| codebook.entries_tensor(k, 0..size);
        let start = || entries(0).narrow(0, 0, 1).repeat([16, 1, 1, 1]);
        let mut parts = |k: u64| -> Box<dyn Iterator<Item = Tensor>> {
            Box::new(entries(k).split(100, 0).into_iter())
        };
        let none = &mut |_: ddpm::sample::Step| ();
        let (indices, encoded) = ddcm_encode(&process, SIGMA, &x_0, start(), &mut parts, none);
        assert_eq!(indices.size(), [16, 200]);
        let mut chosen = |k: u64| entries(k).index_select(0, &indices.select(1, k as i64 - 1));
        let decoded = ddpm(&process, SIGMA, start(), &mut chosen, none);
        assert_eq!(decoded, encoded, "K = {size}");
        let mean_square = (encoded - &x_0).square().mean(Kind::Double);
        mean_square.double_value(&[]).sqrt()
    };
    // Two unrelated images are sqrt(2) apart.
    let errors = [2, 16, 256].map(error);
    assert!(
        errors[0] < 1.2 && errors.windows(2).all(|pair| pair[1] < 0.9 * pair[0]),
        "{errors:?}"
    );
}
