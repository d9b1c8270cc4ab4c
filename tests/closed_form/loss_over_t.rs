//! The loss in parts of the time steps.

use ddpm::config::{LossKind, Prediction};
use ddpm::diffusion::{Objective, Schedule};
use tch::{Device, Kind, Tensor};

use super::linear;

#[test]
fn each_image_counts_in_the_part_of_its_t_and_nowhere_else() {
    let mut config = linear(24, Prediction::Eps);
    // Images of 48 values whose errors are 0.5, 1, 2 and not a number, everywhere; powers of two, so that f32 is exact.
    let errors = [0.5, 1.0, 2.0, f64::NAN];
    let t = [0i64, 1, 3, 23];
    for (kind, values) in [(LossKind::Sum, 48.0), (LossKind::Mse, 1.0)] {
        config.loss = kind;
        let objective = Objective::new(&config, &Schedule::new(&config), false, Device::Cpu);
        let x_0 = Tensor::zeros([4, 3, 4, 4], (Kind::Float, Device::Cpu));
        let noised = objective.noise(&x_0, Tensor::from_slice(&t), x_0.zeros_like());
        let error = Tensor::from_slice(&errors).to_kind(Kind::Float);
        let out = &x_0 + error.view([4, 1, 1, 1]);
        let sums = objective.sums_by_t(&out, &noised, 12);
        let sums = Vec::<f64>::try_from(sums.to_kind(Kind::Double)).unwrap();
        // Two time steps a part: the first two images share one.
        assert_eq!(sums[0], values * (0.25 + 1.0), "{kind:?}");
        assert_eq!(sums[1], values * 4.0, "{kind:?}");
        assert!(sums[11].is_nan(), "{kind:?}");
        assert_eq!(
            sums[2..11],
            [0.0; 9],
            "{kind:?}: one that is not finite stays alone"
        );
    }
}
