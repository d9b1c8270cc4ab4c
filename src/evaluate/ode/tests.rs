use super::*;
use crate::config::{DiffusionConfig, LossKind, ScheduleKind};
use crate::rng::{Stream, normal, seeded};

/// Standard deviation of the data.
const STD: f64 = 0.5;

fn schedule(timesteps: i64) -> Schedule {
    Schedule::new(&DiffusionConfig {
        timesteps,
        schedule: ScheduleKind::Cosine,
        betas: vec![],
        prediction: Prediction::Eps,
        loss: LossKind::Sum,
    })
}

fn settings(prediction: Prediction, probes: usize) -> OdeSettings {
    OdeSettings {
        prediction,
        probes,
        seed: 1,
    }
}

fn images(n: i64) -> Tensor {
    normal(0, Stream::Data, 0, &[n, 1, 4, 4], Device::Cpu) * STD
}

/// The ideal network of Gaussian data, for levels (signal, noise) as a function of t.
fn ideal(
    prediction: Prediction,
    level: impl Fn(f64) -> (f64, f64),
) -> impl Fn(&Tensor, &Tensor) -> Tensor {
    move |x: &Tensor, t: &Tensor| {
        let (signal, noise) = level(t.double_value(&[0]));
        let x_0 = signal * STD * STD / (signal * signal * STD * STD + noise * noise);
        let eps = (1.0 - signal * x_0) / noise;
        x * match prediction {
            Prediction::Eps => eps,
            Prediction::X0 => x_0,
            Prediction::V => signal * eps - noise * x_0,
        }
    }
}

fn levels(schedule: &Schedule) -> impl Fn(f64) -> (f64, f64) {
    let alphas_cumprod = schedule.alphas_cumprod.clone();
    move |t| {
        let alpha_bar = alphas_cumprod[t as usize];
        (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt())
    }
}

/// Bits per dimension of the images with noise of a level, as the path's exact density: a normal distribution of the
/// noise at its end, widened along the path.
fn exact(ode: &Ode, n: i64) -> Vec<f64> {
    let numbers = (0..n as u64).collect::<Vec<_>>();
    let drawn = batch_noise(1, LEVEL, numbers, [1, 4, 4], Device::Cpu).to_kind(Kind::Double);
    let y = images(n).to_kind(Kind::Double) + (drawn / 2f64.sqrt()).erf() / 255.0;
    let (first, last) = (ode.points[0].sigma(), ode.points[ode.points.len() - 1]);
    let wider = (last.sigma().powi(2) + STD * STD) / (first * first + STD * STD);
    let end = (y * wider.sqrt() * last.signal).square();
    let power = Vec::<f64>::try_from(end.flatten(1, -1).sum_dim_intlist(1, false, Kind::Double));
    let of = |power: f64| {
        let log = -0.5 * power - 8.0 * (2.0 * PI).ln() + 16.0 * last.signal.ln() + 8.0 * wider.ln();
        -log / (16.0 * LN_2) + 127.5f64.log2()
    };
    power.unwrap().into_iter().map(of).collect()
}

fn largest_error(found: &Array2<f64>, want: &[f64]) -> f64 {
    let errors = found.rows().into_iter().zip(want);
    errors
        .flat_map(|(row, want)| {
            row.iter()
                .map(|bits| (bits - want).abs())
                .collect::<Vec<_>>()
        })
        .fold(0.0, f64::max)
}

#[test]
fn gaussian_data_have_their_exact_likelihood_and_the_error_falls_by_the_square() {
    let schedule = schedule(257);
    let numbers = [0, 1, 2];
    for prediction in [Prediction::Eps, Prediction::X0, Prediction::V] {
        let mut ode = Ode::new(&schedule, settings(prediction, 2), Device::Cpu).unwrap();
        let denoiser = ideal(prediction, levels(&schedule));
        let want = exact(&ode, 3);
        let mut errors = vec![];
        // Without the ends, where this schedule has larger and larger steps.
        for _ in 0..3 {
            let found = ode
                .likelihoods(&denoiser, &images(3), &numbers, &mut || ())
                .unwrap();
            errors.push(largest_error(&found.bits, &want));
            let report = found.report(&ode);
            let coarse = largest_error(&found.coarse_bits, &want);
            // What is said of the grid is what it costs, within a factor.
            let gap = report.grid_error.abs();
            assert!(gap > 0.5 * coarse && gap < 1.5 * coarse, "{gap} {coarse}");
            // Every probe sees all of a multiple of the identity.
            assert!(report.trace_error.unwrap() < 1e-6, "{report:?}");
            ode.points = ode.coarse();
        }
        assert!(errors[0] < 2e-3, "{errors:?}");
        for pair in errors.windows(2) {
            let ratio = pair[1] / pair[0];
            assert!(ratio > 2.8 && ratio < 5.5, "{prediction:?}: {errors:?}");
        }
    }
}

#[test]
fn a_finer_grid_is_for_networks_that_take_any_t() {
    let schedule = schedule(20);
    let settings = settings(Prediction::Eps, 1);
    let ode = Ode::between(&schedule, 201, settings, Device::Cpu).unwrap();
    let t = |i: usize| match ode.points[i].t {
        Time::Between(t) => t,
        Time::Step(_) => panic!("a time step"),
    };
    assert_eq!((t(0), t(200)), (0.0, 19.0));
    for point in &ode.points {
        assert!((point.signal.powi(2) + point.noise.powi(2) - 1.0).abs() < 1e-12);
    }
    let points = ode.points.clone();
    let level = move |t: f64| {
        let near = |point: &&Point| matches!(point.t, Time::Between(at) if (at - t).abs() < 1e-5);
        let point = points.iter().find(near).unwrap();
        (point.signal, point.noise)
    };
    let denoiser = ideal(Prediction::Eps, level);
    let found = ode
        .likelihoods(&denoiser, &images(3), &[0, 1, 2], &mut || ())
        .unwrap();
    let error = largest_error(&found.bits, &exact(&ode, 3));
    assert!(error < 1e-3, "{error}");
    let own = Ode::new(&schedule, settings, Device::Cpu).unwrap();
    let denoiser = ideal(Prediction::Eps, levels(&schedule));
    let found = own
        .likelihoods(&denoiser, &images(3), &[0, 1, 2], &mut || ())
        .unwrap();
    assert!(largest_error(&found.bits, &exact(&own, 3)) > 10.0 * error);
    let few = Ode::between(&schedule, 2, settings, Device::Cpu).unwrap_err();
    assert!(few.to_string().contains("want 3 or more"), "{few}");
}

#[test]
fn probes_estimate_the_trace_and_their_own_error() {
    let schedule = schedule(5);
    let mixing = seeded(4, || Tensor::randn([16, 16], (Kind::Float, Device::Cpu))) * 0.1;
    let mixed = |x: &Tensor, _: &Tensor| {
        let rows = x.reshape([-1, 16]);
        rows.matmul(&mixing).tanh().reshape(x.size())
    };
    let divergence = |probes: usize, point: usize| {
        let ode = Ode::new(&schedule, settings(Prediction::V, probes), Device::Cpu).unwrap();
        let draw = |k: u64| {
            let drawn = batch_noise(1, FIRST_PROBE + k, [0, 1], [1, 4, 4], Device::Cpu);
            drawn.ge(0.0).to_kind(Kind::Float) * 2.0 - 1.0
        };
        let probes: Vec<Tensor> = (0..probes as u64).map(draw).collect();
        let mut path = Path {
            ode: &ode,
            denoiser: &mixed,
            images: &[0, 1],
            probes: &probes,
            finite: vec![],
            on_evaluation: &mut || (),
        };
        let y = images(2).to_kind(Kind::Double);
        let at = ode.points[point];
        let (_, divergence) = path.slope_and_divergence(&y, &at).unwrap();
        // The trace by differences, value by value.
        let mut trace = vec![0.0; 2];
        for i in 0..16 {
            let step = Tensor::zeros([16], (Kind::Double, Device::Cpu));
            drop(step.get(i).fill_(1e-2));
            let step = step.view([1, 1, 4, 4]);
            let [more, less] =
                [&y + &step, &y - &step].map(|y| path.slope(&y, &at).unwrap().flatten(1, -1));
            let slopes = (more - less) / 2e-2;
            for (image, trace) in trace.iter_mut().enumerate() {
                *trace += slopes.double_value(&[image as i64, i]);
            }
        }
        (divergence, trace)
    };
    let probes = 400;
    let (found, want) = divergence(probes, 1);
    for (image, want) in want.into_iter().enumerate() {
        let of_image = found.get(image as i64);
        let mean = of_image.mean(Kind::Double).double_value(&[]);
        let error = of_image.std(true).double_value(&[]) / (probes as f64).sqrt();
        assert!(error > 1e-3, "{error}");
        assert!((mean - want).abs() < 4.0 * error, "{mean} {want} {error}");
    }
}

#[test]
fn an_estimate_does_not_depend_on_company_and_says_what_is_not_finite() {
    let schedule = schedule(9);
    let ode = Ode::new(&schedule, settings(Prediction::Eps, 2), Device::Cpu).unwrap();
    let denoiser = ideal(Prediction::Eps, levels(&schedule));
    let mut evaluations = 0;
    let mut count = || evaluations += 1;
    let all = ode
        .likelihoods(&denoiser, &images(3), &[4, 5, 6], &mut count)
        .unwrap();
    assert_eq!(evaluations, ode.evaluations());
    let one = ode.likelihoods(&denoiser, &images(3).narrow(0, 2, 1), &[6], &mut || ());
    let one = one.unwrap();
    assert_eq!(one.bits.row(0), all.bits.row(2));
    assert_eq!(
        Likelihoods::of_values(all.clone().into_values(), 2).unwrap(),
        all
    );
    let twice = [one.clone().into_values(), one.into_values()].concat();
    let again = Likelihoods::of_values(twice, 2).unwrap();
    assert_eq!(again.bits.dim(), (2, 2));
    assert_eq!(again.report(&ode).bits.standard_error, Some(0.0));

    let broken = |x: &Tensor, t: &Tensor| {
        let t = t.int64_value(&[0]);
        x * if t == 3 { f64::NAN } else { 1.0 }
    };
    let error = (ode.likelihoods(&broken, &images(2), &[8, 9], &mut || ())).unwrap_err();
    let named = error.downcast_ref::<NotFiniteFor>().unwrap();
    assert_eq!((named.image, named.t), (8, 3));
    let none = ode.likelihoods(&broken, &images(2), &[], &mut || ());
    assert!(none.unwrap_err().to_string().starts_with("0 images"));
    assert!(Ode::new(&schedule, settings(Prediction::Eps, 0), Device::Cpu).is_err());
}
