//! All parameters as views of one flat tensor, all gradients as views of another.
//!
//! On CPU the weights of convolutions lie there channels last, as oneDNN reads and writes them (docs/performance.md); on
//! CUDA as the run says (`train.layout`).

use std::sync::Arc;

use anyhow::Result;
use tch::{Device, Kind, Tensor, no_grad};

use crate::config::MapLayout;
use crate::model::Param;
use crate::native;

/// Parameters start at multiples of this many f32, one cache line, so that kernels see aligned
/// tensors. The gaps hold zeros for ever: their gradient is zero.
const ALIGNMENT: i64 = 16;

/// Where one parameter lies in the flat tensor.
#[derive(Debug, Clone)]
struct Span {
    name: String,
    shape: Vec<i64>,
    strides: Vec<i64>,
    start: i64,
    len: i64,
    is_norm: bool,
    is_bias: bool,
}

/// The flat parameters and gradients of a network.
#[derive(Debug)]
pub struct Arena {
    /// All parameters, `[P]` f32; the network's tensors are views of it.
    pub params: Tensor,
    /// All gradients, `[P]` f32; `backward` accumulates into views of it.
    pub grads: Tensor,
    /// Scalar f32, 0 or 1. While it is 1, the optimizer and the average change nothing: a bad step is
    /// stopped on the device, before the host hears of it.
    pub frozen: Tensor,
    layout: Layout,
}

/// Where each parameter lies in a flat tensor; cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout {
    spans: Arc<[Span]>,
}

impl Arena {
    /// Moves `params`, all on one device, into a new arena there; the network that owns them follows. On CUDA the weights
    /// of convolutions lie in the order of their indices.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new(params: &[Param]) -> Result<Arena> {
        Arena::laid_out(params, MapLayout::Nchw)
    }

    /// As [`new`](Arena::new), with the weights of convolutions in `layout` on CUDA.
    ///
    /// # Errors
    /// As `new`.
    pub fn laid_out(params: &[Param], layout: MapLayout) -> Result<Arena> {
        let device = params.first().map_or(Device::Cpu, |p| p.tensor.device());
        let spans = lay_out(params, device == Device::Cpu || layout == MapLayout::Nhwc);
        let len = spans.last().map_or(0, |s| round_up(s.start + s.len));
        let arena = Arena {
            params: Tensor::f_zeros([len], (Kind::Float, device))?,
            grads: Tensor::f_zeros([len], (Kind::Float, device))?,
            frozen: Tensor::f_zeros([], (Kind::Float, device))?,
            layout: Layout {
                spans: spans.into(),
            },
        };
        let views = arena
            .views(&arena.params)
            .into_iter()
            .zip(arena.views(&arena.grads));
        for (param, (mut view, grad)) in params.iter().zip(views) {
            no_grad(|| view.copy_(&param.tensor));
            param.tensor.shallow_clone().set_data(&view);
            native::set_grad(&param.tensor, &grad)?;
        }
        Ok(arena)
    }

    /// Number of trained values, without the gaps.
    pub fn parameters(&self) -> i64 {
        self.layout.spans.iter().map(|s| s.len).sum()
    }

    /// Where each parameter begins in the flat tensors, in parameter order.
    pub fn starts(&self) -> Vec<i64> {
        self.layout.spans.iter().map(|s| s.start).collect()
    }

    /// Device of the arena.
    pub fn device(&self) -> Device {
        self.params.device()
    }

    /// A zeroed tensor laid out like the parameters.
    pub fn zeros_like(&self) -> Tensor {
        self.params.zeros_like()
    }

    /// Zeroes all gradients.
    pub fn zero_grad(&self) {
        let _ = self.grads.shallow_clone().zero_();
    }

    /// The parts of `flat`, which is laid out like the parameters, in parameter order.
    pub fn views(&self, flat: &Tensor) -> Vec<Tensor> {
        self.layout.spans.iter().map(|s| s.view(flat)).collect()
    }

    /// The tensors that LAMB adapts, each as one row of numbers: no biases, and no norm scales and shifts unless
    /// `norms` is true.
    ///
    /// What starts at zero would hardly move otherwise: its norm is its first step's, and every later
    /// step is scaled to that.
    pub fn adapted_views(&self, flat: &Tensor, norms: bool) -> Vec<Tensor> {
        self.layout
            .spans
            .iter()
            .filter(|s| s.is_adapted(norms))
            .map(|s| flat.narrow(0, s.start, s.len))
            .collect()
    }

    /// The flat tensor as rows of 16 values: for each row the number of its tensor among
    /// [`adapted_views`](Arena::adapted_views), or the number of those views if it is none of them. `[P / 16]` i32 on
    /// the arena's device.
    pub fn adapted_rows(&self, norms: bool) -> Tensor {
        let adapted = |s: &&Span| s.is_adapted(norms);
        let none = self.layout.spans.iter().filter(adapted).count() as i32;
        let mut next = 0..;
        let mut rows = Vec::new();
        for span in self.layout.spans.iter() {
            let number = if span.is_adapted(norms) {
                next.next()
            } else {
                None
            };
            let end = round_up(span.start + span.len) / ALIGNMENT;
            rows.resize(end as usize, number.unwrap_or(none));
        }
        Tensor::from_slice(&rows).to_device(self.device())
    }

    /// `flat`, which is laid out like the parameters, as the rows of [`adapted_rows`](Arena::adapted_rows).
    pub fn as_rows(flat: &Tensor) -> Tensor {
        flat.view([-1, ALIGNMENT])
    }

    /// The parts of `flat` under their `state_dict` keys, as views.
    pub fn state_dict(&self, flat: &Tensor) -> Vec<(String, Tensor)> {
        self.layout.state_dict(flat)
    }

    /// Where each parameter lies.
    pub fn layout(&self) -> Layout {
        self.layout.clone()
    }

    /// As [`state_dict`](Arena::state_dict), in the form that the loaders accept.
    pub fn as_params(&self, flat: &Tensor) -> Vec<Param> {
        self.state_dict(flat)
            .into_iter()
            .map(|(name, tensor)| Param { name, tensor })
            .collect()
    }

    /// Runs `body` while the network's weights are `weights`, then restores them bit for bit, also if it panics.
    pub fn with_weights<T>(&self, weights: &Tensor, body: impl FnOnce() -> T) -> T {
        struct Restore {
            params: Tensor,
            kept: Tensor,
        }
        impl Drop for Restore {
            fn drop(&mut self) {
                let _guard = tch::no_grad_guard();
                self.params.copy_(&self.kept);
            }
        }
        let _guard = tch::no_grad_guard();
        let mut restore = Restore {
            params: self.params.shallow_clone(),
            kept: self.params.copy(),
        };
        restore.params.copy_(weights);
        body()
    }
}

impl Layout {
    /// The parts of `flat` under their `state_dict` keys, as views.
    pub fn state_dict(&self, flat: &Tensor) -> Vec<(String, Tensor)> {
        self.spans
            .iter()
            .map(|s| (s.name.clone(), s.view(flat)))
            .collect()
    }

    /// The same parts at the same places, with the numbers of each in the order of its indices, as files have them.
    pub fn in_index_order(&self) -> Layout {
        let in_order = |s: &Span| Span {
            strides: strides(&s.shape, false),
            ..s.clone()
        };
        Layout {
            spans: self.spans.iter().map(in_order).collect(),
        }
    }

    /// Whether the numbers are in the order of their indices already.
    pub fn is_in_index_order(&self) -> bool {
        self.spans
            .iter()
            .all(|s| s.strides == strides(&s.shape, false))
    }
}

impl Span {
    fn is_adapted(&self, norms: bool) -> bool {
        !self.is_bias && (norms || !self.is_norm)
    }

    fn view(&self, flat: &Tensor) -> Tensor {
        let part = flat.narrow(0, self.start, self.len);
        part.as_strided(&self.shape, &self.strides, None)
    }
}

/// Strides of a tensor without gaps: the last axis is the innermost, or the channels of a convolution's weight.
fn strides(shape: &[i64], channels_last: bool) -> Vec<i64> {
    match shape {
        &[_, c, h, w] if channels_last => vec![h * w * c, 1, w * c, c],
        _ => (1..=shape.len())
            .map(|axis| shape[axis..].iter().product())
            .collect(),
    }
}

fn lay_out(params: &[Param], channels_last: bool) -> Vec<Span> {
    let mut start = 0;
    params
        .iter()
        .map(|p| {
            let len = p.tensor.numel() as i64;
            let shape = p.tensor.size();
            let span = Span {
                name: p.name.clone(),
                strides: strides(&shape, channels_last),
                shape,
                start,
                len,
                is_norm: p.is_norm(),
                is_bias: p.is_bias(),
            };
            start = round_up(start + len);
            span
        })
        .collect()
}

fn round_up(n: i64) -> i64 {
    (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::VarStore;

    #[test]
    fn biases_are_never_adapted_and_norms_where_asked() {
        let store = VarStore::new(Device::Cpu);
        let root = &store.root();
        for (i, module) in ["conv", "norm", "q_affine"].iter().enumerate() {
            let path = &(root / *module);
            let _ = path.ones("weight", &[1 + i as i64]);
            let _ = path.zeros("bias", &[11 + i as i64]);
        }
        let arena = Arena::new(&crate::model::params_of(&store)).unwrap();
        let lengths = |norms| -> Vec<i64> {
            let views = arena.adapted_views(&arena.params, norms);
            views.iter().map(|v| v.numel() as i64).collect()
        };
        assert_eq!(lengths(false), [1]);
        assert_eq!(lengths(true), [1, 2, 12, 3, 13]);
    }

    #[test]
    fn weights_of_convolutions_lie_channels_last_and_can_be_put_in_index_order() {
        let store = VarStore::new(Device::Cpu);
        let weight = (&store.root() / "conv").zeros("weight", &[2, 3, 2, 2]);
        let values = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 3, 2, 2]);
        no_grad(|| weight.shallow_clone().copy_(&values));
        let arena = Arena::new(&crate::model::params_of(&store)).unwrap();
        assert_eq!(weight.stride(), [12, 1, 6, 3]);
        assert_eq!(weight, values);
        let first: Vec<f32> = arena.params.narrow(0, 0, 4).try_into().unwrap();
        assert_eq!(first, [0.0, 4.0, 8.0, 1.0]);

        let files = arena.layout().in_index_order();
        assert!(files.is_in_index_order() && !arena.layout().is_in_index_order());
        let flat = arena.zeros_like();
        let (_, mut view) = files.state_dict(&flat).remove(0);
        view.copy_(&weight.detach());
        assert_eq!(flat.narrow(0, 0, 24).view([2, 3, 2, 2]), values);
    }

    #[test]
    fn weights_of_convolutions_are_channels_last_elsewhere_only_where_asked() {
        let store = VarStore::new(Device::Cpu);
        let _ = (&store.root() / "conv").zeros("weight", &[2, 3, 2, 2]);
        let params = crate::model::params_of(&store);
        let strides = |last| lay_out(&params, last)[0].strides.clone();
        assert_eq!(strides(false), [12, 4, 2, 1]);
        assert_eq!(strides(true), [12, 1, 6, 3]);
    }

    #[test]
    fn backward_fills_the_flat_gradient_and_weights_swap_back_exactly() {
        let store = VarStore::new(Device::Cpu);
        let root = &store.root();
        let a = (root / "a").ones("weight", &[3]);
        let b = (root / "norm").ones("weight", &[2]);
        let arena = Arena::new(&crate::model::params_of(&store)).unwrap();
        assert_eq!(arena.parameters(), 5);
        for _ in 0..2 {
            arena.zero_grad();
            ((&a * 2.0).sum(Kind::Float) + (&b * 3.0).sum(Kind::Float)).backward();
        }
        assert_eq!(
            f64::try_from(arena.grads.sum(Kind::Float)).unwrap(),
            3.0 * 2.0 + 2.0 * 3.0
        );
        let sum = || f64::try_from(a.sum(Kind::Float)).unwrap();
        let inside = arena.with_weights(&(&arena.params * 4.0).detach(), sum);
        assert_eq!((inside, sum()), (12.0, 3.0));
    }
}
