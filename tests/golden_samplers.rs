//! Compares samplers with numbers of the original Keras-DDPM, dumped from its own code (weights/README.md).
//!
//! Tolerance: chains of 20 steps of the original in f32 differ from it in f64 by up to 7e-7, its network's forward by
//! 4.6e-6; all values are compared before the final clip.

mod common;

use common::{Golden, max_abs, rel_l2};
use ddpm::config::{DiffusionConfig, LossKind, Prediction, ScheduleKind, Sigma};
use ddpm::diffusion::Schedule;
use ddpm::images::to_array;
use ddpm::model::Model;
use ddpm::report::{beside, grid, grid_of_columns};
use ddpm::sample::{
    Ddim, Ddpm, Process, Respaced, Visit, analytic, ddcm_encode, ddim, ddpm, measure, mixing,
};
use ndarray::{Array1, Array3};
use tch::{Kind, Tensor};

/// Keras-DDPM's schedule and prediction.
fn keras(timesteps: i64) -> DiffusionConfig {
    DiffusionConfig {
        timesteps,
        schedule: ScheduleKind::KerasDdpm,
        betas: vec![],
        prediction: Prediction::Eps,
        loss: LossKind::Sum,
    }
}

fn visited(timesteps: i64, visit: &Visit) -> Respaced {
    Respaced::new(&Schedule::new(&keras(timesteps)), visit).unwrap()
}

/// Runs `sample` with the process of a network over `steps`.
fn with_process<T>(net: &Model, steps: &Respaced, sample: impl FnOnce(&Process) -> T) -> T {
    let denoiser = |x: &Tensor, t: &Tensor| tch::no_grad(|| net.forward(x, t, None, false));
    sample(&Process::new(&denoiser, steps, &keras(20), false))
}

#[test]
fn ddpm_chains_of_20_steps() {
    let golden = Golden::open("keras_ddpm_sample_T20");
    let net = Golden::open("keras_A").network();
    for (sigma, name) in [(Sigma::Beta, "beta"), (Sigma::Posterior, "ratio")] {
        let options = Ddpm {
            sigma,
            last_noise: true,
        };
        let out = with_process(&net, &visited(20, &Visit::All), |process| {
            let start = golden.get("z_T").copy();
            let mut noise = |k| golden.get("noise").get(k as i64 - 1);
            ddpm(process, options, start, &mut noise, &mut |_| ())
        });
        let want = golden.get(&format!("preclip_{name}"));
        let error = max_abs(&out, want);
        assert!(error <= 1e-5, "{name}: {error}");
        let clipped = max_abs(&out.clamp(-1.0, 1.0), golden.get(&format!("result_{name}")));
        assert!(clipped <= 1e-5, "{name}, clipped: {clipped}");
    }
}

#[test]
fn single_steps_of_a_1000_step_chain() {
    let golden = Golden::open("keras_ddpm_sample_T1000_segments");
    let net = Golden::open("keras_A").network();
    let options = Ddpm {
        sigma: Sigma::Beta,
        last_noise: true,
    };
    let steps = visited(1000, &Visit::All);
    for i in 0..golden.get("t").size()[0] {
        let at = |name: &str| golden.get(name).narrow(0, i, 1);
        let t = golden.get("t").int64_value(&[i]) as usize;
        let x_t = at("z_in").to_kind(Kind::Float);
        let (eps_hat, x_prev) = with_process(&net, &steps, |process| {
            let estimate = process.estimate(&x_t, t);
            let x_prev = options.step(&steps, &estimate, t, || at("noise"));
            (estimate.eps_hat(), x_prev)
        });
        // Values grow to about 100 in this chain; f32 has 24 bits for them.
        let error = rel_l2(&x_prev, &at("z_out"));
        assert!(error <= 1e-6, "t = {t}: {error}");
        let error = rel_l2(&eps_hat, &at("eps"));
        assert!(error <= 1e-5, "t = {t}: eps_hat {error}");
    }
}

/// Compares with a figure of the original, which may differ from ours only in rounding ties.
fn assert_same_figure(ours: Array3<u8>, want: &Tensor, what: &str) {
    let ours = Tensor::try_from(ours.as_standard_layout()).unwrap();
    let ours = ours.permute([2, 0, 1]);
    assert_eq!(ours.size(), want.size(), "{what}");
    let apart = (ours.to_kind(Kind::Int) - want.to_kind(Kind::Int)).abs();
    // f32 here and f64 there sometimes round a half differently.
    let (most, places) = (apart.max().int64_value(&[]), apart.ne(0).sum(Kind::Int64));
    assert!(most <= 1, "{what}: {most} levels apart");
    assert!(
        places.int64_value(&[]) < apart.numel() as i64 / 1000,
        "{what}: {places:?} places"
    );
}

/// The error is relative for chains that grow to about 100, else absolute.
fn assert_close(out: &Tensor, want: &Tensor, what: &str) {
    let largest = f64::try_from(want.abs().max()).unwrap();
    let error = max_abs(out, want) / (largest / 10.0).max(1.0);
    assert!(error <= 1e-5, "{what}: {error}, values up to {largest}");
}

#[test]
fn ddim_with_strides_and_etas() {
    let golden = Golden::open("keras_ddim");
    let net = Golden::open("keras_D").network();
    for (case, timesteps, stride, eta) in [
        ("T20_s5_eta0", 20, 5, 0.0),
        ("T20_s5_eta1", 20, 5, 1.0),
        ("T20_s1_eta1", 20, 1, 1.0),
        ("T20_s3_eta05", 20, 3, 0.5),
        ("T1000_s5_eta0", 1000, 5, 0.0),
        ("T1000_s100_eta0", 1000, 100, 0.0),
        ("T1000_s100_eta1", 1000, 100, 1.0),
    ] {
        let at = |name: &str| golden.get(&format!("{case}.{name}"));
        let steps = visited(timesteps, &Visit::Stride(stride));
        let falling: Vec<i64> = steps.times.iter().rev().copied().collect();
        assert_eq!(falling, Vec::<i64>::try_from(at("t")).unwrap(), "{case}");
        let out = with_process(&net, &steps, |process| {
            let mut noise = |k| at("noise").get(k as i64 - 1);
            let options = Ddim::new(eta).unwrap();
            ddim(process, &options, at("z_T").copy(), &mut noise, &mut |_| ())
        });
        assert_close(&out, at("preclip"), case);
    }
}

/// Two pairs of latents, three steps each: the figure has no images at its sides.
#[test]
fn latent_interpolation() {
    let golden = Golden::open("keras_ddim");
    let net = Golden::open("keras_D").network();
    let z = golden.get("inter.z");
    let rows = [0i64, 2].map(|i| {
        // The original starts from the second of a pair.
        mixing::spherical(&z.get(i + 1), &z.get(i), 3, std::f64::consts::FRAC_PI_2)
    });
    let x_start = Tensor::cat(&rows, 0);
    assert!(max_abs(&x_start, golden.get("inter.z_T")) < 1e-6);
    let out = with_process(&net, &visited(20, &Visit::Stride(5)), |process| {
        let options = Ddim::new(0.0).unwrap();
        ddim(
            process,
            &options,
            x_start,
            &mut |_| unreachable!(),
            &mut |_| (),
        )
    });
    assert_close(&out, golden.get("inter.preclip"), "inter");
    let figure = grid_of_columns(to_array(&out).view(), 3);
    assert_same_figure(figure, golden.get("inter.figure"), "inter");
}

#[test]
fn analytic_variances_measured_and_used() {
    let golden = Golden::open("keras_analytic");
    let net = Golden::open("keras_D").network();
    let all = visited(20, &Visit::All);
    // Three stored x_t, scaled to serve as images to which no noise is added.
    let measured = with_process(&net, &all, |process| {
        let mut noised =
            |t: u64| Ok(golden.get("inputs").get(t as i64) / all.signal_and_noise(t as usize).0);
        let mut none = |_| Tensor::zeros([3, 3, 32, 32], (Kind::Float, tch::Device::Cpu));
        measure(process, 1, &mut noised, &mut none, &mut || ()).unwrap()
    });
    let per_image = golden.get("mean_sq_per_picture");
    let of_three: Vec<f64> = Vec::try_from(per_image.narrow(1, 0, 3).mean_dim(
        [1].as_slice(),
        false,
        Kind::Double,
    ))
    .unwrap();
    for (t, (ours, want)) in measured.iter().zip(&of_three).enumerate() {
        assert!((ours - want).abs() < 1e-5, "t = {t}: {ours}, want {want}");
    }
    let of_ten: Vec<f64> =
        Vec::try_from(per_image.mean_dim([1].as_slice(), false, Kind::Double)).unwrap();
    for (mean, factor) in of_ten.iter().zip(golden.f64s("factors")) {
        assert!(((1.0 - mean).clamp(0.0, 1.0) - factor).abs() < 1e-6);
    }

    for (case, stride, eta, factors) in [
        ("s5_eta1", 5, 1.0, "factors"),
        ("s5_eta0", 5, 0.0, "factors"),
        ("s1_eta1", 1, 1.0, "factors"),
        ("s5_eta1_synthetic", 5, 1.0, "factors_synthetic"),
    ] {
        let at = |name: &str| golden.get(&format!("{case}.{name}"));
        let mean_sq_eps: Array1<f64> = golden.f64s(factors).iter().map(|f| 1.0 - f).collect();
        let steps = visited(20, &Visit::Stride(stride));
        let options = analytic(&steps, &mean_sq_eps, eta, true).unwrap();
        let sigmas: Vec<f64> = (0..steps.len()).map(|i| options.sigma(&steps, i)).collect();
        for (ours, want) in sigmas.iter().zip(golden.f64s(&format!("{case}.sigma"))) {
            assert!(
                (ours - want).abs() < 1e-6,
                "{case}: sigma {ours}, want {want}"
            );
        }
        let out = with_process(&net, &steps, |process| {
            let mut noise = |k| at("noise").get(k as i64 - 1);
            ddim(process, &options, at("z_T").copy(), &mut noise, &mut |_| ())
        });
        assert_close(&out, at("preclip"), case);
    }
}

#[test]
fn ddcm_samples_and_encodes() {
    let golden = Golden::open("keras_ddcm");
    let net = Golden::open("keras_D").network();
    let steps = visited(20, &Visit::All);
    let options = Ddpm {
        sigma: Sigma::Beta,
        last_noise: true,
    };
    let codebook = |k: u64| golden.get("codebook").get(k as i64);
    let decode = |indices: &Tensor, first: u64| {
        let entries = |k: u64| codebook(k).index_select(0, &indices.select(1, (k - first) as i64));
        let start = if first == 0 {
            entries(0)
        } else {
            codebook(0).narrow(0, 0, 1).repeat([4, 1, 1, 1])
        };
        with_process(&net, &steps, |process| {
            ddpm(process, options, start, &mut |k| entries(k), &mut |_| ())
        })
    };
    let sampled = decode(golden.get("sample.indices"), 0);
    assert_close(&sampled, golden.get("sample.preclip"), "sample");
    let figure = grid(to_array(&sampled).view());
    assert_same_figure(figure, golden.get("sample.figure"), "sample");

    let x_0 = golden.get("encode.x_0");
    let (indices, encoded) = with_process(&net, &steps, |process| {
        let start = codebook(0).narrow(0, 0, 1).repeat([4, 1, 1, 1]);
        // In two parts, as with large codebooks.
        let mut parts = |k: u64| -> Box<dyn Iterator<Item = Tensor>> {
            Box::new(codebook(k).split_with_sizes([5, 3], 0).into_iter())
        };
        ddcm_encode(process, options, x_0, start, &mut parts, &mut |_| ())
    });
    assert_eq!(&indices, golden.get("encode.indices"));
    assert_close(&encoded, golden.get("encode.preclip"), "encode");
    assert_eq!(decode(&indices, 1), encoded);
    // Each image with its decoded form to its right.
    let pairs = Tensor::stack(&[x_0, &encoded], 1).flatten(0, 1);
    assert_same_figure(
        grid_of_columns(to_array(&pairs).view(), 4),
        golden.get("encode.figure"),
        "encode",
    );
}

/// The original noises to t0 and starts at T - t0 - 1; we start at the step that we noised to.
#[test]
fn image_interpolation() {
    let golden = Golden::open("keras_ddpm_inter");
    let net = Golden::open("keras_A").network();
    let all = visited(20, &Visit::All);
    let x_0 = golden.get("x_0");
    let rows = [0i64, 2].map(|i| mixing::linear(&x_0.get(i), &x_0.get(i + 1), 3));
    let (signal, share) = all.signal_and_noise(8);
    let x_start = Tensor::cat(&rows, 0) * signal + golden.get("eps") * share;
    assert!(max_abs(&x_start, golden.get("x_t")) < 1e-6);
    let options = Ddpm {
        sigma: Sigma::Beta,
        last_noise: true,
    };
    let out = with_process(&net, &all.truncated(12), |process| {
        let mut noise = |k| golden.get("noise").get(k as i64 - 1);
        ddpm(process, options, x_start, &mut noise, &mut |_| ())
    });
    assert_close(&out, golden.get("preclip"), "inter");
    let column = |first: i64| {
        let images = [x_0.get(first), x_0.get(first + 2)];
        grid_of_columns(to_array(&Tensor::stack(&images, 0)).view(), 1)
    };
    let figure = beside(
        &[
            column(0),
            grid_of_columns(to_array(&out).view(), 3),
            column(1),
        ],
        10,
    );
    assert_same_figure(figure, golden.get("figure"), "inter");
}
