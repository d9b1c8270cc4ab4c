use super::*;
use crate::config::Preset;
use crate::data::Store;
use crate::device::Precision;

fn tiny() -> (RunConfig, Store) {
    let mut config = Preset::Demo.config();
    let m = config.model.unet_mut();
    (m.height, m.width, m.base_width, m.norm_groups) = (8, 8, 8, 2);
    m.multipliers = vec![1, 2];
    config.train.batch = 4;
    config.data.flip = true;
    config.optim.lr_schedule = vec![(0, 1.0)];
    let pixels = Tensor::arange(6 * 3 * 64, (Kind::Int64, Device::Cpu))
        .fmod(251)
        .to_kind(Kind::Uint8);
    (
        config,
        Store::new(pixels.view([6, 3, 8, 8]), Device::Cpu).unwrap(),
    )
}

fn weights_after(config: &RunConfig, data: &Store, steps: u64) -> Tensor {
    let mut trainer = Trainer::new(config, data.len(), Device::Cpu).unwrap();
    for _ in 0..steps {
        trainer.train_step(data).unwrap();
    }
    trainer.arena.params.copy()
}

#[test]
fn microbatches_give_the_gradients_of_the_whole_batch() {
    let (mut config, data) = tiny();
    config.model.set_dropout(0.0);
    let grads = |config: &RunConfig| {
        let mut trainer = Trainer::new(config, data.len(), Device::Cpu).unwrap();
        let draw = trainer.draw(0);
        let x_0 = data.batch(&draw.indices, draw.mirrored.as_ref()).unwrap();
        let loss = trainer.backward(&x_0, &draw.t, None, 0).unwrap();
        (trainer.arena.grads.copy(), f64::try_from(loss).unwrap())
    };
    let (whole, loss) = grads(&config);
    config.train.accumulate = 4;
    let (split, split_loss) = grads(&config);
    let error = f64::try_from((&whole - split).norm() / whole.norm()).unwrap();
    // f32 sums in another order.
    assert!(
        error < 1e-5 && (loss - split_loss).abs() < 1e-5 * loss,
        "{error} {loss} {split_loss}"
    );
}

#[test]
fn shares_of_a_batch_are_the_batch() {
    let (mut config, data) = tiny();
    config.model.set_dropout(0.3);
    config.train.accumulate = 2;
    let mut trainer = Trainer::new(&config, data.len(), Device::Cpu).unwrap();
    let draw = trainer.draw(5);
    let x_0 = data.batch(&draw.indices, draw.mirrored.as_ref()).unwrap();
    let grads = |loss: Result<Tensor>| (loss.unwrap(), trainer.arena.grads.copy());
    let (loss, whole) = grads(trainer.backward(&x_0, &draw.t, None, 5));
    // The last share first: neither needs what the other draws.
    let [second, first] = [2, 0].map(|first| {
        let [x_0, t] = [&x_0, &draw.t].map(|all| all.narrow(0, first, 2));
        grads(trainer.backward_share(&x_0, &t, None, 5, first))
    });
    assert_ne!(first.1, second.1);
    assert_eq!(first.0 + second.0, loss);
    assert_eq!(first.1 + second.1, whole);
}

#[test]
fn shares_are_whole_microbatches_of_a_batch_with_draws_by_image() {
    let (mut config, data) = tiny();
    let share = |config: &RunConfig, first, images| {
        let trainer = Trainer::new(config, data.len(), Device::Cpu).unwrap();
        let x_0 = data.batch(&[0, 1, 2, 3][..images], None).unwrap();
        let t = Tensor::zeros([images as i64], (Kind::Int64, Device::Cpu));
        let loss = trainer.backward_share(&x_0, &t, None, 0, first);
        loss.map(drop).map_err(|error| error.to_string())
    };
    config.train.accumulate = 2;
    assert_eq!(share(&config, 2, 2), Ok(()));
    for (first, images) in [(1, 2), (2, 1), (2, 4), (-2, 2)] {
        let error = share(&config, first, images).unwrap_err();
        assert!(
            error.contains("microbatches of 2 in a batch of 4"),
            "{error}"
        );
    }
    config.train.draws = Draws::Batch;
    let error = share(&config, 2, 2).unwrap_err();
    assert!(error.contains("`train.draws` = image"), "{error}");
}

#[test]
fn a_step_is_a_function_of_seed_and_step() {
    let (mut config, data) = tiny();
    config.model.set_dropout(0.1);
    for draws in [Draws::Batch, Draws::Image] {
        (config.train.draws, config.train.seed) = (draws, 0);
        let once = weights_after(&config, &data, 3);
        seeded(5, || ());
        assert_eq!(once, weights_after(&config, &data, 3));
        config.train.seed = 1;
        assert_ne!(once, weights_after(&config, &data, 3));
    }
}

#[test]
fn checkpointed_blocks_train_the_same_weights() {
    let (mut config, data) = tiny();
    config.model.set_dropout(0.0);
    config.train.accumulate = 2;
    let kept = weights_after(&config, &data, 5);
    config.train.checkpoint_blocks = true;
    assert_eq!(kept, weights_after(&config, &data, 5));
}

#[test]
fn checkpointed_blocks_that_are_not_fused_give_the_same_gradients() {
    let (mut config, data) = tiny();
    for (dropout, precision) in [(0.1, Precision::F32), (0.1, Precision::Bf16)] {
        config.model.set_dropout(dropout);
        let [kept, again] = [false, true].map(|checkpointed| {
            config.train.checkpoint_blocks = checkpointed;
            let mut trainer = Trainer::new(&config, data.len(), Device::Cpu).unwrap();
            trainer.net.set_precision(precision);
            trainer.gradients(&data).unwrap();
            trainer.arena.grads.copy()
        });
        let error = f64::try_from((&kept - again).norm() / kept.norm()).unwrap();
        // The terms of a gradient are added in another order.
        let most = if precision == Precision::Bf16 {
            1e-2
        } else {
            1e-5
        };
        assert!(error < most, "{dropout} {precision}: {error}");
    }
}

#[test]
fn images_of_a_mapped_file_train_the_same_weights() {
    let (mut config, data) = tiny();
    // Seven steps of four go through six images more than four times.
    config.train.batch = 4;
    let mapped = Store::mapped(data.pixels().shallow_clone(), Device::Cpu).unwrap();
    assert!(mapped.reads_ahead() && !data.reads_ahead());
    let steps = |data: &Store| weights_after(&config, data, 7);
    assert_eq!(steps(&data), steps(&mapped));
    assert!(data.waited().is_zero());
}

#[test]
fn clipping_bounds_the_gradient() {
    let (mut config, data) = tiny();
    config.optim.clip_norm = Some(0.5);
    let mut trainer = Trainer::new(&config, data.len(), Device::Cpu).unwrap();
    let output = trainer.train_step(&data).unwrap();
    let before = output.numbers.double_value(&[1]);
    let after = f64::try_from(trainer.arena.grads.norm()).unwrap();
    assert!(
        before > 0.5 && (after - 0.5).abs() < 1e-4,
        "{before} {after}"
    );
}

#[test]
fn every_optimizer_lowers_the_loss() {
    use crate::config::OptimizerKind::{Adam, Adamw, Lamb};
    let (mut config, data) = tiny();
    config.data.flip = false;
    for (optimizer, lr) in [(Lamb, 1e-2), (Adam, 1e-2), (Adamw, 1e-2)] {
        config.optim.optimizer = optimizer;
        config.optim.lr = lr;
        let mut trainer = Trainer::new(&config, data.len(), Device::Cpu).unwrap();
        let losses: Vec<f64> = (0..40)
            .map(|_| {
                trainer
                    .train_step(&data)
                    .unwrap()
                    .numbers
                    .double_value(&[0])
            })
            .collect();
        let (first, last) = (losses[0], losses[30..].iter().sum::<f64>() / 10.0);
        assert!(last < 0.9 * first, "{optimizer:?}: {first} to {last}");
    }
}
