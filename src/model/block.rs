//! The residual block of the simplified U-Net.

use tch::nn::Path;
use tch::{Device, Kind, Tensor};

use super::layers::{Norm, conv_weight, conv2d, conv3x3, linear, linear_weight};
use crate::config::UNetConfig;
use crate::native::{self, BlockWeights};

/// Post-norm residual block with an additive time embedding:
///
/// ```text
/// r = shortcut(x)                      1×1 conv, only where the width changes
/// h = x + time_proj(t_emb)             projected to the input width
/// h = swish(conv2(swish(conv1(h))))
/// out = norm(h + r)
/// ```
///
/// Source: Keras-DDPM, `residual_block` of `ddpm.py`.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    shortcut: Option<Tensor>,
    time_proj: Tensor,
    conv1: Tensor,
    conv2: Tensor,
    norm: Norm,
    dropout: f64,
    form: Form,
}

/// How the residual blocks of a network are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Form {
    /// Training keeps only the input of each block, and computes the rest again in the backward pass.
    pub(super) checkpointed: bool,
    /// On CUDA each block is separate operations.
    pub(super) plain: bool,
    /// Convolutions are in bf16.
    pub(super) in_bf16: bool,
}

impl ResidualBlock {
    pub(super) fn new(path: &Path, c_in: i64, c_out: i64, config: &UNetConfig) -> ResidualBlock {
        let scale = 1.0 / (2.0 * config.multipliers.len() as f64 + 1.0).sqrt();
        ResidualBlock {
            shortcut: (c_in != c_out)
                .then(|| conv_weight(&(path / "shortcut"), c_in, c_out, 1, 1.0)),
            time_proj: linear_weight(&(path / "time_proj"), config.base_width, c_in),
            conv1: conv_weight(&(path / "conv1"), c_in, c_out, 3, scale),
            conv2: conv_weight(&(path / "conv2"), c_out, c_out, 3, scale),
            norm: Norm::new(&(path / "norm"), c_out, config),
            dropout: config.dropout,
            form: Form::default(),
        }
    }

    /// Input and output channels.
    pub(super) fn widths(&self) -> (i64, i64) {
        let size = self.conv1.size();
        (size[1], size[0])
    }

    /// Weights of the convolutions.
    pub(super) fn convs(&self) -> impl Iterator<Item = &Tensor> {
        self.shortcut.iter().chain([&self.conv1, &self.conv2])
    }

    /// True if training applies dropout here.
    pub(super) fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    pub(super) fn set_form(&mut self, form: Form) {
        self.form = form;
    }

    /// True if training keeps only the block's input.
    pub(super) fn checkpointed(&self) -> bool {
        self.form.checkpointed
    }

    /// True if the block is computed as one operation with its own loops: so far on CPU only.
    pub(super) fn fuses(&self, train: bool) -> bool {
        self.conv1.device() == Device::Cpu && !(self.drops() && train)
    }

    /// True if the block is computed as one operation composed of libtorch's: on CUDA, where that takes no more
    /// operators than the parts. In f32 it does, unless the parts would be computed twice.
    pub(super) fn composes(&self) -> bool {
        let pays = self.form.in_bf16 || self.form.checkpointed;
        pays && !self.form.plain && self.conv1.device().is_cuda()
    }

    /// True if convolutions are in bf16.
    pub(super) fn in_bf16(&self) -> bool {
        self.form.in_bf16
    }

    /// The block's output plus `skip`.
    ///
    /// # Shapes
    /// - `x`: `[N, Cin, H, W]`; `t_emb`: `[N, base_width]`; `skip`: `[N, Cout, H, W]`, as is the result
    pub(super) fn forward(
        &self,
        x: &Tensor,
        t_emb: &Tensor,
        skip: Option<&Tensor>,
        train: bool,
    ) -> Tensor {
        let t = linear(t_emb, &self.time_proj, None);
        if self.fuses(train) {
            return self.fused(x, &t, skip);
        }
        if self.composes() {
            return self.composed(x, &t, skip, train);
        }
        let out = if self.checkpointed() && train {
            self.computed_twice(x, &t)
        } else {
            self.plain(x, &t, train)
        };
        match skip {
            Some(skip) => out + skip,
            None => out,
        }
    }

    /// The block as separate operations.
    fn plain(&self, x: &Tensor, t: &Tensor, train: bool) -> Tensor {
        let mut h = conv3x3(&(x + t.unsqueeze(-1).unsqueeze(-1)), &self.conv1, None).silu();
        if self.dropout > 0.0 {
            h = h.dropout(self.dropout, train);
        }
        // In bf16, the sum has the kind of the convolution's output.
        h = conv3x3(&h, &self.conv2, None).silu().to_kind(x.kind());
        // In place: the backward passes of swish and the norms use their inputs, not their outputs.
        match &self.shortcut {
            Some(weight) => h += conv2d(x, weight, None, 1, 0),
            None => h += x,
        }
        self.norm.forward(&h)
    }

    /// The same for training, keeping only x.
    fn computed_twice(&self, x: &Tensor, t: &Tensor) -> Tensor {
        native::checkpointed_block(x, t, self.weights(), self.dropout)
            .expect("shapes are those of the block")
    }

    /// The same, keeping little for the backward pass.
    fn composed(&self, x: &Tensor, t: &Tensor, skip: Option<&Tensor>, train: bool) -> Tensor {
        let dropout = if train { self.dropout } else { 0.0 };
        native::composed_block(x, t, self.weights(), skip, dropout, self.checkpointed())
            .expect("shapes are those of the block")
    }

    /// The same with fewer passes over memory.
    fn fused(&self, x: &Tensor, t: &Tensor, skip: Option<&Tensor>) -> Tensor {
        // With bf16 products t comes in bf16, and so do x and the skip in the first block.
        let [x, t] = [x, t].map(|map| map.to_kind(Kind::Float));
        let skip = skip.map(|skip| skip.to_kind(Kind::Float));
        native::residual_block(&x, &t, self.weights(), skip.as_ref(), self.checkpointed())
            .expect("shapes are those of the block")
    }

    fn weights(&self) -> BlockWeights<'_> {
        BlockWeights {
            conv1: &self.conv1,
            conv2: &self.conv2,
            shortcut: self.shortcut.as_ref(),
            norm: self.norm.parts(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::native::Bf16;
    use crate::rng::seeded;
    use tch::nn::VarStore;

    struct Case {
        block: ResidualBlock,
        /// x, t, skip and the weights, whose gradients are compared.
        inputs: Vec<Tensor>,
        /// Gradient of the output.
        d: Tensor,
    }

    fn case([n, c_in, c_out, groups, height, width]: [i64; 6]) -> Case {
        let store = VarStore::new(Device::Cpu);
        let mut config = Preset::Demo.config();
        let config = config.model.unet_mut();
        config.norm_groups = groups;
        seeded(7, || {
            let block = ResidualBlock::new(&store.root(), c_in, c_out, config);
            let norm = block.norm.parts();
            tch::no_grad(|| {
                let _ = norm.weight.shallow_clone().uniform_(0.5, 1.5);
                let _ = norm.bias.shallow_clone().uniform_(-1.0, 1.0);
            });
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
            let inputs = [
                random(&[n, c_in, height, width]) * 2.0 + 1.0,
                random(&[n, c_in]),
                random(&[n, c_out, height, width]),
            ];
            let mut inputs: Vec<Tensor> = inputs
                .into_iter()
                .map(|x| x.set_requires_grad(true))
                .collect();
            // The projection of t is outside the fused operation.
            inputs.extend(
                store
                    .trainable_variables()
                    .into_iter()
                    .filter(|w| w.dim() != 2),
            );
            Case {
                block,
                inputs,
                d: random(&[n, c_out, height, width]),
            }
        })
    }

    /// The ways to compute a block in training.
    #[derive(Debug, Clone, Copy)]
    enum Way {
        Plain,
        PlainTwice,
        Fused,
        Composed,
    }

    impl Case {
        /// The output and all gradients.
        fn outcome(&self, way: Way) -> Vec<Tensor> {
            self.with_gradients(self.forward(way))
        }

        /// The same with products in bf16.
        fn outcome_in_bf16(&self, way: Way) -> Vec<Tensor> {
            self.with_gradients(self.forward_in_bf16(way))
        }

        fn forward_in_bf16(&self, way: Way) -> Tensor {
            let _casting = Bf16::begin(Device::Cpu).unwrap();
            self.forward(way)
        }

        fn with_gradients(&self, out: Tensor) -> Vec<Tensor> {
            let loss = (&out * &self.d).sum(Kind::Float);
            let mut outcome = Tensor::run_backward(&[loss], &self.inputs, false, false);
            outcome.push(out.detach());
            outcome
        }

        fn forward(&self, way: Way) -> Tensor {
            let [x, t, skip] = [0, 1, 2].map(|i| &self.inputs[i]);
            match way {
                Way::Plain => self.block.plain(x, t, true) + skip,
                Way::PlainTwice => self.block.computed_twice(x, t) + skip,
                Way::Fused => self.block.fused(x, t, Some(skip)),
                Way::Composed => self.block.composed(x, t, Some(skip), true),
            }
        }
    }

    /// n, c_in, c_out, groups, height, width
    const SHAPES: [[i64; 6]; 7] = [
        [2, 32, 32, 8, 16, 16],
        [1, 16, 32, 4, 5, 7],
        [3, 48, 24, 24, 9, 4],
        [2, 8, 8, 1, 40, 60],
        [5, 6, 6, 2, 3, 1],
        // Winograd convolutions, with and without gradients of the weights.
        [2, 128, 128, 8, 23, 24],
        [3, 64, 96, 8, 19, 20],
    ];

    #[test]
    fn fused_gives_the_values_and_gradients_of_the_parts() {
        for shape in SHAPES {
            let case = case(shape);
            let (fused, plain) = (case.outcome(Way::Fused), case.outcome(Way::Plain));
            assert_eq!(fused.len(), plain.len());
            for (i, (a, b)) in fused.iter().zip(&plain).enumerate() {
                assert_eq!(a.size(), b.size());
                let error = f64::try_from((a - b).norm() / b.norm()).unwrap();
                // f32 sums in another order.
                assert!(error < 2e-6, "{shape:?}, tensor {i}: {error}");
            }
            let [x, t] = [0, 1].map(|i| &case.inputs[i]);
            let alone = case.block.fused(x, t, None) - case.block.plain(x, t, true);
            assert!(f64::try_from(alone.abs().max()).unwrap() < 1e-4);
            let sampled =
                tch::no_grad(|| case.block.fused(x, t, None) - case.block.plain(x, t, false));
            assert!(f64::try_from(sampled.abs().max()).unwrap() < 1e-4);
        }
    }

    #[test]
    fn fused_in_bf16_is_as_near_to_f32_as_the_parts() {
        let distance = |a: &Tensor, b: &Tensor| f64::try_from((a - b).norm() / b.norm()).unwrap();
        for shape in SHAPES {
            let case = case(shape);
            let exact = case.outcome(Way::Plain);
            let [fused, plain] = [Way::Fused, Way::Plain].map(|way| case.outcome_in_bf16(way));
            for (i, exact) in exact.iter().enumerate() {
                let [ours, theirs] = [&fused, &plain].map(|outcome| distance(&outcome[i], exact));
                assert_eq!(fused[i].kind(), Kind::Float);
                // The fused block rounds less often, but a small shape has few errors, so chance decides.
                let what = format!("{shape:?}, tensor {i}: {ours}, of the parts {theirs}");
                assert!(ours < theirs * 1.25 + 1e-6 && ours < 0.02, "{what}");
                assert!(ours > theirs / 10.0 || theirs < 1e-6, "{what}");
            }
            let sampled = tch::no_grad(|| case.forward_in_bf16(Way::Fused));
            let error = distance(&sampled, exact.last().unwrap());
            assert!(error > 1e-5 && error < 0.02, "{shape:?}: {error}");
        }
    }

    #[test]
    fn a_checkpointed_block_gives_the_same_bits() {
        for shape in SHAPES {
            let mut case = case(shape);
            let outcomes = |case: &Case| {
                [Case::outcome, Case::outcome_in_bf16].map(|outcome| outcome(case, Way::Fused))
            };
            let (fused, plain) = (outcomes(&case), case.outcome(Way::Plain));
            case.block.form.checkpointed = true;
            assert_eq!(outcomes(&case), fused, "{shape:?}");
            assert_eq!(case.outcome(Way::PlainTwice), plain, "{shape:?}");
        }
    }

    #[test]
    fn a_block_computed_again_casts_and_drops_what_it_did_at_first() {
        for shape in SHAPES {
            let mut case = case(shape);
            case.block.dropout = 0.3;
            // As in a network's first block, whose input comes from a convolution in bf16.
            for kind in [Kind::Float, Kind::BFloat16] {
                case.inputs[0] = case.inputs[0]
                    .detach()
                    .to_kind(kind)
                    .set_requires_grad(true);
                let outcome = |way| {
                    seeded(11, || {
                        let out = case.forward_in_bf16(way);
                        let loss = (&out * &case.d).sum(Kind::Float);
                        let mut outcome = Tensor::run_backward(&[loss], &case.inputs, false, false);
                        // The generator's next draw is the same, too.
                        outcome.push(Tensor::rand([4], (Kind::Float, Device::Cpu)));
                        outcome.push(out.detach());
                        outcome
                    })
                };
                let (plain, twice) = (outcome(Way::Plain), outcome(Way::PlainTwice));
                assert_eq!(twice[0].kind(), kind);
                assert_eq!(twice, plain, "{shape:?} {kind:?}");
                let other = seeded(12, || case.forward_in_bf16(Way::PlainTwice));
                assert_ne!(&other, plain.last().unwrap(), "another mask");
            }
        }
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        f64::try_from((a - b).norm() / b.norm()).unwrap()
    }

    /// The outcome after the generator is seeded, and its next draw.
    fn drawn(case: &Case, way: Way, in_bf16: bool) -> (Vec<Tensor>, Tensor) {
        seeded(11, || {
            let outcome = match in_bf16 {
                true => case.outcome_in_bf16(way),
                false => case.outcome(way),
            };
            (outcome, Tensor::rand([4], (Kind::Float, Device::Cpu)))
        })
    }

    #[test]
    fn composed_gives_the_values_and_gradients_of_the_parts() {
        for shape in SHAPES {
            let case = case(shape);
            let [plain, composed] = [Way::Plain, Way::Composed].map(|way| case.outcome(way));
            assert_eq!(composed.len(), plain.len());
            for (i, (a, b)) in composed.iter().zip(&plain).enumerate() {
                let error = distance(a, b);
                // f32 sums in another order, and large convolutions of the parts by tiles.
                assert!(error < 5e-6, "{shape:?}, tensor {i}: {error}");
            }
        }
    }

    #[test]
    fn composed_in_bf16_gives_the_values_of_the_parts_and_gradients_as_near_to_f32() {
        for shape in SHAPES {
            for dropout in [0.0, 0.3] {
                let mut case = case(shape);
                case.block.dropout = dropout;
                let [exact, plain, composed] = [
                    (Way::Plain, false),
                    (Way::Plain, true),
                    (Way::Composed, true),
                ]
                .map(|(way, in_bf16)| drawn(&case, way, in_bf16));
                assert_eq!(composed.1, plain.1, "the generator's next draw");
                // The parts' maps are channels last here, and the norm's sums in another order.
                let out = distance(composed.0.last().unwrap(), plain.0.last().unwrap());
                assert!(out < 1e-6, "{shape:?} {dropout}: {out}");
                for (i, exact) in exact.0.iter().enumerate() {
                    let [ours, theirs] =
                        [&composed, &plain].map(|(outcome, _)| distance(&outcome[i], exact));
                    // x is read from x + t in bf16, one more rounding: at most 2^-8 of x + t.
                    let what = format!("{shape:?} {dropout}, tensor {i}: {ours}, {theirs}");
                    assert!(ours < theirs * 1.5 + 0.004, "{what}");
                    assert_eq!(composed.0[i].kind(), Kind::Float);
                }
            }
        }
    }

    #[test]
    fn a_composed_block_that_is_checkpointed_gives_the_same_values_and_gradients() {
        for shape in SHAPES {
            for dropout in [0.0, 0.3] {
                let mut case = case(shape);
                case.block.dropout = dropout;
                let [kept, again] = [false, true].map(|checkpointed| {
                    case.block.form.checkpointed = checkpointed;
                    [false, true].map(|in_bf16| drawn(&case, Way::Composed, in_bf16).0)
                });
                for (in_bf16, (kept, again)) in kept.iter().zip(&again).enumerate() {
                    assert_eq!(again.last(), kept.last(), "{shape:?} {dropout} {in_bf16}");
                    // x is read from x + t, which rounds once more.
                    let most = [2e-6, 0.01][in_bf16];
                    for (i, (a, b)) in again.iter().zip(kept).enumerate() {
                        let error = distance(a, b);
                        assert!(error < most, "{shape:?} {dropout}, tensor {i}: {error}");
                    }
                }
            }
        }
    }

    /// In a network's first block x and the skip come from a convolution in bf16; without gradients nothing is kept.
    #[test]
    fn composed_takes_maps_and_weights_in_bf16_and_samples_the_same() {
        for shape in SHAPES {
            let mut case = case(shape);
            for i in [0, 1, 2] {
                let rounded = case.inputs[i].detach().to_kind(Kind::BFloat16);
                case.inputs[i] = rounded.set_requires_grad(true);
            }
            let [plain, composed] =
                [Way::Plain, Way::Composed].map(|way| case.outcome_in_bf16(way));
            for (i, (a, b)) in composed.iter().zip(&plain).enumerate() {
                assert_eq!(a.kind(), b.kind(), "{shape:?}, tensor {i}");
                assert!(distance(a, b) < 0.02, "{shape:?}, tensor {i}");
            }
            let sampled = tch::no_grad(|| case.forward_in_bf16(Way::Composed));
            assert_eq!(&sampled, composed.last().unwrap(), "{shape:?}");

            let [w1, w2] = [&case.block.conv1, &case.block.conv2].map(|w| {
                let rounded = w.detach().to_kind(Kind::BFloat16);
                rounded.set_requires_grad(true)
            });
            let weights = BlockWeights {
                conv1: &w1,
                conv2: &w2,
                ..case.block.weights()
            };
            let casting = Bf16::begin(Device::Cpu).unwrap();
            let [x, t, skip] = [0, 1, 2].map(|i| &case.inputs[i]);
            let out = native::composed_block(x, t, weights, Some(skip), 0.0, false).unwrap();
            drop(casting);
            assert_eq!(&out.detach(), composed.last().unwrap(), "{shape:?}");
            let loss = (out * &case.d).sum(Kind::Float);
            for grad in Tensor::run_backward(&[loss], &[w1, w2], false, false) {
                assert_eq!(grad.kind(), Kind::BFloat16);
            }
        }
    }

    #[test]
    fn a_number_that_is_none_stays_none() {
        let case = case([1, 8, 8, 2, 4, 4]);
        let [x, t] = [0, 1].map(|i| case.inputs[i].detach());
        let _ = x.get(0).get(3).get(1).get(2).fill_(f64::NAN);
        let out = case.block.fused(&x, &t, None);
        assert!(bool::try_from(out.isnan().all()).unwrap());
    }
}
