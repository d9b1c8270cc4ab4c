//! L2 norms of gradients, weights and updates.

use anyhow::Result;
use tch::{Device, Tensor};

use crate::config::Norms;
use crate::native;

/// Values whose squares are added up first. More would lose digits; fewer would leave more sums to add.
const BLOCK: i64 = 1024;

/// L2 norm of a tensor, as a scalar f32 on its device.
///
/// libtorch's CPU kernel adds the squares of a whole tensor in 8 or 16 sums of f32, which lose what is added once they
/// are large: with two threads normal values come out 0.004 % too small for 2.4 million, 0.14 % for 25 million, 0.9 % for
/// 92 million.
///
/// # Shapes
/// - `tensor`: any, f32; copied if its numbers are not in the order of their indices
pub fn norm(tensor: &Tensor, norms: Norms) -> Tensor {
    match norms {
        Norms::Blocked => blocked(tensor),
        Norms::Plain => tensor.norm(),
    }
}

/// L2 norm of each of `tensors`, `[tensors.len()]` f32 on their device; each as in [`norm`]. On CUDA it is one call of
/// libtorch, whose kernel adds in blocks itself.
///
/// # Errors
/// No tensors; errors of libtorch.
pub fn norms_of(tensors: &[Tensor], norms: Norms) -> Result<Tensor> {
    match (norms, tensors.first().map(Tensor::device)) {
        (Norms::Blocked, Some(Device::Cpu)) => {
            let norms: Vec<Tensor> = tensors.iter().map(blocked).collect();
            Ok(Tensor::stack(&norms, 0))
        }
        _ => native::foreach_norm(tensors),
    }
}

fn blocked(tensor: &Tensor) -> Tensor {
    let flat = tensor.reshape([-1]);
    let len = flat.size()[0];
    let whole = len / BLOCK * BLOCK;
    if whole == 0 {
        return flat.norm();
    }
    let blocks = flat.narrow(0, 0, whole).view([-1, BLOCK]);
    let blocks = blocks.norm_scalaropt_dim(2, [1].as_slice(), false);
    let rest = flat.narrow(0, whole, len - whole).norm();
    Tensor::cat(&[blocks, rest.view(1)], 0).norm()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    use crate::rng::{Stream, normal};

    #[test]
    fn blocks_keep_the_digits_that_one_sum_loses() {
        for len in [1, 1023, 1024, 1025, 4_000_001] {
            let values = normal(1, Stream::Init, 0, &[len], Device::Cpu);
            let exact = f64::try_from(values.to_kind(Kind::Double).norm()).unwrap();
            let error = (norm(&values, Norms::Blocked).double_value(&[]) / exact - 1.0).abs();
            // Half a unit of f32's last place for the result, and as much for the sums.
            assert!(error < 1.5e-7, "{len}: {error}");
            // How far off this is depends on the processor and the threads; runs that began with it keep its bits.
            assert_eq!(norm(&values, Norms::Plain), values.norm());
            let rows = [values.shallow_clone(), &values * 2.0];
            let each = norms_of(&rows, Norms::Blocked).unwrap();
            assert_eq!(each.get(0), norm(&values, Norms::Blocked));
            assert_eq!(each.get(1), norm(&rows[1], Norms::Blocked));
        }
        assert!(norms_of(&[], Norms::Blocked).is_err());
    }
}
