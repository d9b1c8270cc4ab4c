//! Values that are NaN or infinite.

use tch::{Kind, TchError, Tensor};

use crate::text::{printable, shown};

/// A tensor of weights with values that are NaN or infinite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "tensor {name} is not finite: {bad} of its {values} values {} NaN or infinite. The file was saved so, after \
     training that diverged or an overflow in half precision; use an earlier checkpoint",
    verb(.bad)
)]
pub struct NotFinite {
    /// Its name, safe to print.
    pub name: String,
    /// Values that are NaN or infinite.
    pub bad: u64,
    /// Values in all.
    pub values: u64,
}

fn verb(bad: &u64) -> &'static str {
    if *bad == 1 { "is" } else { "are" }
}

/// The least and the largest value, two scalars on the tensor's device: finite only if all values are. One pass, no
/// copy, and nothing waits for the device.
///
/// # Errors
/// A tensor without values, or of a type without an order.
pub(crate) fn extremes(tensor: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    tensor.detach().f_aminmax(None, false)
}

/// Refuses a tensor with values that are NaN or infinite; `name` is what the file calls it.
///
/// # Errors
/// Such values.
pub(crate) fn check_finite(name: &str, tensor: &Tensor) -> Result<(), NotFinite> {
    match count(tensor) {
        0 => Ok(()),
        bad => Err(NotFinite {
            name: printable(&shown(name)),
            bad,
            values: tensor.numel() as u64,
        }),
    }
}

/// Number of values that are NaN or infinite.
pub(crate) fn count(tensor: &Tensor) -> u64 {
    if tensor.numel() == 0 || !tensor.is_floating_point() {
        return 0;
    }
    let finite = |x: &Tensor| x.to_kind(Kind::Double).double_value(&[]).is_finite();
    match extremes(tensor) {
        Ok((least, largest)) if finite(&least) && finite(&largest) => 0,
        _ => {
            let bad = tensor.detach().isfinite().logical_not();
            bad.sum(Kind::Int64).int64_value(&[]).unsigned_abs()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_finite_are_counted_in_every_type() {
        let numbers = [
            1.0,
            f32::NAN,
            f32::MAX,
            f32::INFINITY,
            f32::NEG_INFINITY,
            -0.0,
        ];
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
            // The largest f32 rounds to infinity in bf16.
            let wanted = if kind == Kind::BFloat16 { 4 } else { 3 };
            assert_eq!(count(&Tensor::from_slice(&numbers).to_kind(kind)), wanted);
        }
        let half = Tensor::from_slice(&[1.0f32, f32::NAN, 65_504.0]).to_kind(Kind::Half);
        assert_eq!(count(&half), 1);
        assert_eq!(count(&Tensor::from_slice(&[f32::MAX, f32::MIN])), 0);
        assert_eq!(count(&Tensor::from_slice(&[i64::MAX])), 0);
        assert_eq!(count(&Tensor::from_slice::<f32>(&[])), 0);
        assert_eq!(count(&Tensor::from(f64::NAN)), 1);
    }

    #[test]
    fn a_tensor_is_named_without_steering_the_terminal() {
        let error = check_finite("a\u{1b}[2J", &Tensor::from(f32::NAN)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("tensor a\\u{1b}[2J is not finite: 1 of its 1 values is NaN"),
            "{text}"
        );
        let two = Tensor::from_slice(&[f32::NAN, 1.0, f32::INFINITY]);
        let text = check_finite("w", &two).unwrap_err().to_string();
        assert!(text.contains("2 of its 3 values are NaN"), "{text}");
    }
}
