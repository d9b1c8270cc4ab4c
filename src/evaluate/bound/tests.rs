use super::*;
use crate::config::{DiffusionConfig, LossKind, ScheduleKind};
use crate::rng::{Stream, normal};

const TIMESTEPS: i64 = 40;
const CHW: [i64; 3] = [3, 4, 4];
/// Standard deviation of the data.
const STD: f64 = 0.4;

fn schedule() -> Schedule {
    Schedule::new(&DiffusionConfig {
        timesteps: TIMESTEPS,
        schedule: ScheduleKind::Cosine,
        betas: vec![],
        prediction: Prediction::Eps,
        loss: LossKind::Sum,
    })
}

fn bound(prediction: Prediction, sigma: Sigma, every: usize) -> Bound {
    let settings = BoundSettings {
        prediction,
        sigma,
        every,
        seed: 3,
    };
    Bound::new(&schedule(), settings, Device::Cpu).unwrap()
}

/// Gaussian images, mean 0.
fn images(n: i64) -> Tensor {
    let [c, h, w] = CHW;
    normal(0, Stream::Data, 0, &[n, c, h, w], Device::Cpu) * STD
}

fn signal_and_noise(t: usize) -> (f64, f64) {
    let alpha_bar = schedule().alphas_cumprod[t];
    (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt())
}

/// x_0 that is expected of x_t, over x_t.
fn gain(t: usize) -> f64 {
    let (signal, noise) = signal_and_noise(t);
    signal * STD * STD / (signal * signal * STD * STD + noise * noise)
}

/// The ideal network of Gaussian data; with learned variances `v` is that of all.
fn ideal(prediction: Prediction, v: Option<f64>) -> impl Fn(&Tensor, &Tensor) -> Tensor {
    move |x: &Tensor, t: &Tensor| {
        let factor = |t: i64| {
            let (signal, noise) = signal_and_noise(t as usize);
            let x_0 = gain(t as usize);
            let eps = (1.0 - signal * x_0) / noise;
            match prediction {
                Prediction::Eps => eps,
                Prediction::X0 => x_0,
                Prediction::V => signal * eps - noise * x_0,
            }
        };
        let times = Vec::<i64>::try_from(t).unwrap();
        let factors: Vec<f64> = times.into_iter().map(factor).collect();
        let out = x * Tensor::from_slice(&factors).view([-1, 1, 1, 1]);
        let out = out.to_kind(Kind::Float);
        match v {
            Some(v) => Tensor::cat(&[&out, &Tensor::full_like(&out, v)], 1),
            None => out,
        }
    }
}

fn terms(bound: &Bound, denoiser: &Denoiser, n: i64) -> Terms {
    let numbers: Vec<u64> = (0..n as u64).collect();
    let terms = bound.terms(denoiser, &images(n), &numbers, &mut || ());
    terms.unwrap()
}

fn report(bound: &Bound, denoiser: &Denoiser, n: i64) -> BoundReport {
    let mut sums = BoundSums::new(bound);
    sums.add(&terms(bound, denoiser, n));
    sums.report()
}

/// The expected KL divergence at t = 1 …, per value in bits.
fn expected(sigma: Sigma, t: usize) -> f64 {
    let schedule = schedule();
    let (signal, noise) = signal_and_noise(t);
    let least = schedule.posterior_variance(t);
    let variance = match sigma {
        Sigma::Beta => schedule.betas[t],
        Sigma::Posterior => least,
        // v = 0: half-way, in logarithms.
        Sigma::Learned => (least * schedule.betas[t]).sqrt(),
    };
    let (of_x_0, _) = schedule.posterior_mean_coefs(t);
    let unknown = STD * STD * noise * noise / (signal * signal * STD * STD + noise * noise);
    let ratio = least / variance;
    (ratio - 1.0 - ratio.ln() + of_x_0 * of_x_0 * unknown / variance) / 2.0 / LN_2
}

#[test]
fn the_terms_of_gaussian_data_are_the_closed_form() {
    for (sigma, v) in [
        (Sigma::Beta, None),
        (Sigma::Posterior, None),
        (Sigma::Beta, Some(0.3)),
        (Sigma::Learned, Some(0.0)),
    ] {
        let bound = bound(Prediction::Eps, sigma, 1);
        let found = report(&bound, &ideal(Prediction::Eps, v), 400);
        assert_eq!(found.by_t.images, [400; TIMESTEPS as usize]);
        for t in 1..TIMESTEPS as usize {
            let mean = found.by_t.unclipped.mean[t].unwrap();
            let error = found.by_t.unclipped.standard_error[t].unwrap();
            let want = expected(sigma, t);
            assert!(error < 0.02 * want, "{error} {want}");
            assert!((mean - want).abs() < 4.0 * error, "{t}: {mean} {want}");
        }
        // Its share of x_0 is small, but not 0.
        let (signal, noise) = signal_and_noise(TIMESTEPS as usize - 1);
        let power = signal * signal * STD * STD;
        let prior = (noise * noise + power - 1.0 - 2.0 * noise.ln()) / 2.0 / LN_2;
        assert!((found.prior.mean - prior).abs() < 4.0 * found.prior.standard_error.unwrap());
        let sum: f64 = (1..TIMESTEPS as usize).map(|t| expected(sigma, t)).sum();
        let rate = found.unclipped.rate;
        assert!((rate.mean - sum - prior).abs() < 4.0 * rate.standard_error.unwrap());
    }
}

#[test]
fn it_does_not_matter_what_a_network_predicts() {
    let of = |prediction| {
        let bound = bound(prediction, Sigma::Beta, 1);
        terms(&bound, &ideal(prediction, None), 3).values
    };
    let eps = of(Prediction::Eps);
    for other in [of(Prediction::X0), of(Prediction::V)] {
        let largest = (&eps - &other)
            .mapv(f64::abs)
            .fold(0.0f64, |a, b| a.max(*b));
        assert!(largest < 1e-5, "{largest}");
    }
}

#[test]
fn a_perfect_network_pays_for_its_variances_alone() {
    // x_0_hat is x_0 of the first image: that of all.
    let x_0 = images(1).clamp(-1.0, 1.0);
    let bound = bound(Prediction::X0, Sigma::Posterior, 1);
    let perfect = |_: &Tensor, _: &Tensor| x_0.shallow_clone();
    let found = bound.terms(&perfect, &x_0, &[9], &mut || ()).unwrap();
    for clipped in [true, false] {
        let terms = found.of(0, clipped);
        assert!(terms.slice(s![1..]).iter().all(|term| term.abs() < 1e-12));
        // -log2 of the share of a normal distribution that lies in its middle bin.
        assert!(terms[0] > 0.0 && terms[0] < 8.0, "{}", terms[0]);
    }
}

#[test]
fn clipping_takes_x_0_hat_to_the_range_of_images() {
    let bound = bound(Prediction::X0, Sigma::Posterior, 1);
    let ones = images(2).ones_like();
    let too_far = |x: &Tensor, _: &Tensor| x.ones_like() * 1.5;
    let found = bound.terms(&too_far, &ones, &[0, 1], &mut || ()).unwrap();
    assert!(found.of(0, true)[3].abs() < 1e-12);
    assert!(found.of(0, false)[3] > 1e-3);
}

#[test]
fn the_terms_of_an_image_do_not_depend_on_its_company() {
    for every in [1, 5] {
        let bound = bound(Prediction::V, Sigma::Beta, every);
        let denoiser = ideal(Prediction::V, None);
        let all = terms(&bound, &denoiser, 5);
        let one = bound.terms(&denoiser, &images(5).narrow(0, 3, 1), &[3], &mut || ());
        assert_eq!(one.unwrap().values.row(0), all.values.row(3));
    }
}

#[test]
fn a_sample_of_the_time_steps_is_an_unbiased_estimate_with_an_honest_error() {
    let denoiser = ideal(Prediction::Eps, None);
    let want: f64 = (1..TIMESTEPS as usize)
        .map(|t| expected(Sigma::Beta, t))
        .sum();
    let mut squares = 0.0;
    for seed in 0..60u64 {
        let settings = BoundSettings {
            prediction: Prediction::Eps,
            sigma: Sigma::Beta,
            every: 8,
            seed,
        };
        let bound = Bound::new(&schedule(), settings, Device::Cpu).unwrap();
        // 0 to 7, and one of 8 and 9, …, 33 to 39.
        assert_eq!(bound.evaluations(), 16);
        let [c, h, w] = CHW;
        let x_0 = normal(seed, Stream::Data, 0, &[20, c, h, w], Device::Cpu) * STD;
        let numbers: Vec<u64> = (0..20).collect();
        let mut sums = BoundSums::new(&bound);
        sums.add(&bound.terms(&denoiser, &x_0, &numbers, &mut || ()).unwrap());
        let found = sums.report();
        assert!(found.by_t.images[..8].iter().all(|n| *n == 20));
        let error = found.unclipped.rate.standard_error.unwrap();
        squares += ((found.unclipped.rate.mean - found.prior.mean - want) / error).powi(2);
    }
    // Squares of about normal values; standard deviation 0.2.
    assert!((0.6..1.6).contains(&(squares / 60.0)), "{squares}");
}

#[test]
fn what_is_not_finite_has_a_name() {
    let bound = bound(Prediction::Eps, Sigma::Beta, 1);
    let broken = |x: &Tensor, t: &Tensor| {
        let out = x.zeros_like();
        if t.int64_value(&[0]) == 7 {
            let _ = out.get(2).get(0).fill_(f64::INFINITY);
        }
        out
    };
    let error = (bound.terms(&broken, &images(4), &[10, 11, 12, 13], &mut || ())).unwrap_err();
    let named = error.downcast_ref::<NotFiniteFor>().unwrap();
    assert_eq!((named.image, named.t), (12, 7));
    assert!(
        error.to_string().starts_with("the network's output"),
        "{error}"
    );
    // At t = 0 the probability of a bin is finite whatever x_0_hat is.
    let broken = |x: &Tensor, _: &Tensor| x.full_like(f64::NEG_INFINITY);
    let error = bound
        .terms(&broken, &images(1), &[4], &mut || ())
        .unwrap_err();
    assert_eq!(error.downcast_ref::<NotFiniteFor>().unwrap().t, 0);
    // Variances that overflow, of finite outputs.
    let bound = super::tests::bound(Prediction::Eps, Sigma::Learned, 1);
    let broken = |x: &Tensor, _: &Tensor| Tensor::cat(&[x.zeros_like(), x.full_like(-1e30)], 1);
    let error = bound
        .terms(&broken, &images(1), &[4], &mut || ())
        .unwrap_err();
    assert!(error.to_string().starts_with("the bound's term"), "{error}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let of = |bound: &Bound, denoiser: &Denoiser, n: usize| {
        let numbers: Vec<u64> = (0..n as u64).collect();
        let images = images(n as i64);
        let error = bound.terms(denoiser, &images, &numbers, &mut || ());
        error.unwrap_err().to_string()
    };
    let fixed = bound(Prediction::Eps, Sigma::Beta, 1);
    let same = |x: &Tensor, _: &Tensor| x.shallow_clone();
    assert!(of(&fixed, &same, 0).starts_with("0 images"));
    let grey = |x: &Tensor, _: &Tensor| x.narrow(1, 0, 1);
    assert!(of(&fixed, &grey, 2).contains("[2, 1, 4, 4] of images [2, 3, 4, 4]"));
    let learned = bound(Prediction::Eps, Sigma::Learned, 1);
    assert!(of(&learned, &same, 2).contains("learns no variances"));
    let settings = BoundSettings {
        every: 41,
        ..fixed.settings
    };
    let error = Bound::new(&schedule(), settings, Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("T = 40"), "{error}");
    let one = Schedule::from_betas(vec![0.5].into());
    let settings = BoundSettings {
        every: 1,
        ..settings
    };
    assert!(Bound::new(&one, settings, Device::Cpu).is_err());
}
