//! Safe wrapper of `fused/inference.cpp`: convolutions of a network that only looks.

use std::ffi::{c_int, c_void};

use tch::{Device, Kind, TchError, Tensor};

use super::{outcome, ptr};

type Result<T> = std::result::Result<T, TchError>;

unsafe extern "C" {
    fn ddpm_kept_filter(
        weight: *const c_void,
        maps: *const i64,
        stride: i64,
        padding: *const i64,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_conv_relu(
        x: *const c_void,
        filter: *const c_void,
        bias: *const c_void,
        stride: i64,
        padding: *const i64,
        out: *mut *mut c_void,
    ) -> c_int;
}

/// A filter in the memory layout that oneDNN likes for maps of a shape.
#[derive(Debug)]
pub struct KeptFilter {
    tensor: Tensor,
    bias: Tensor,
    stride: i64,
    padding: [i64; 2],
    inputs: i64,
}

impl KeptFilter {
    /// Lays `weight` out for maps of the shape `maps`; others are computed too, but may take longer.
    ///
    /// # Shapes
    /// All f32 on a CPU.
    /// - `weight`: `[Cout, Cin, height, width]`; `bias`: `[Cout]`; `maps`: `[N, Cin, H, W]`
    ///
    /// # Errors
    /// Other shapes and kinds, a libtorch without oneDNN, and errors of libtorch.
    pub fn new(
        weight: &Tensor,
        bias: &Tensor,
        stride: i64,
        padding: [i64; 2],
        maps: [i64; 4],
    ) -> Result<Self> {
        let (outputs, inputs, _, _) = weight.size4()?;
        let fits = bias.size() == [outputs] && maps[1] == inputs && stride > 0;
        if !fits || ![weight, bias].into_iter().all(is_f32_on_cpu) {
            let message = "a filter, its bias and its maps of shapes or kinds that do not fit";
            return Err(TchError::Shape(message.to_owned()));
        }
        let mut out = std::ptr::null_mut();
        let (weight, bias) = (weight.f_detach()?, bias.f_contiguous()?);
        // SAFETY: the weight is a live tensor; the shim reads 4 and 2 numbers.
        let status = unsafe {
            ddpm_kept_filter(
                ptr(&weight),
                maps.as_ptr(),
                stride,
                padding.as_ptr(),
                &mut out,
            )
        };
        outcome(status).map_err(TchError::Torch)?;
        Ok(Self {
            // SAFETY: the shim made a tensor that we own.
            tensor: unsafe { Tensor::from_ptr(out.cast()) },
            bias,
            stride,
            padding,
            inputs,
        })
    }

    /// `relu(conv(x) + bias)`, without gradients, channels last in memory.
    ///
    /// # Shapes
    /// - `x`: `[N, Cin, H, W]` f32 on a CPU
    ///
    /// # Errors
    /// Other shapes and kinds, and errors of libtorch.
    pub fn conv_relu(&self, x: &Tensor) -> Result<Tensor> {
        let (_, inputs, _, _) = x.size4()?;
        if inputs != self.inputs || !is_f32_on_cpu(x) {
            let message = format!(
                "maps of {inputs} channels, wanted {} in f32 on a CPU",
                self.inputs
            );
            return Err(TchError::Shape(message));
        }
        let mut out = std::ptr::null_mut();
        // SAFETY: all are live tensors of the shapes that the shim expects; it reads 2 numbers.
        let status = unsafe {
            ddpm_conv_relu(
                ptr(x),
                ptr(&self.tensor),
                ptr(&self.bias),
                self.stride,
                self.padding.as_ptr(),
                &mut out,
            )
        };
        outcome(status).map_err(TchError::Torch)?;
        // SAFETY: the shim made a tensor that we own.
        Ok(unsafe { Tensor::from_ptr(out.cast()) })
    }
}

fn is_f32_on_cpu(tensor: &Tensor) -> bool {
    tensor.kind() == Kind::Float && tensor.device() == Device::Cpu
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, normal};

    fn draw(index: u64, shape: &[i64]) -> Tensor {
        normal(4, Stream::Data, index, shape, Device::Cpu)
    }

    #[test]
    fn a_kept_filter_is_a_convolution_and_its_relu() {
        for (inputs, outputs, kernel, stride, padding) in [
            (3, 32, [3, 3], 2, [0, 0]),
            (32, 16, [1, 7], 1, [0, 3]),
            (20, 48, [5, 5], 1, [2, 2]),
            (48, 8, [1, 1], 1, [0, 0]),
        ] {
            let weight = draw(0, &[outputs, inputs, kernel[0], kernel[1]]);
            let bias = draw(1, &[outputs]);
            let maps = [2, inputs, 17, 15];
            let kept = KeptFilter::new(&weight, &bias, stride, padding, maps).unwrap();
            // The maps that it was laid out for, and others.
            for shape in [maps, [3, inputs, 9, 11]] {
                let x = draw(2, &shape);
                let found = kept.conv_relu(&x).unwrap();
                let wanted = x
                    .conv2d(&weight, Some(&bias), [stride; 2], padding, [1, 1], 1)
                    .relu();
                assert!(
                    found.allclose(&wanted, 1e-4, 1e-4, false),
                    "{kernel:?} {shape:?}"
                );
            }
        }
    }

    #[test]
    fn filters_and_maps_that_do_not_fit_are_refused() {
        let weight = draw(0, &[4, 3, 3, 3]);
        let bias = draw(1, &[4]);
        let keep =
            |weight: &Tensor, bias: &Tensor, maps| KeptFilter::new(weight, bias, 1, [1, 1], maps);
        let maps = [1, 3, 8, 8];
        assert!(keep(&weight, &draw(1, &[3]), maps).is_err());
        assert!(keep(&weight, &bias, [1, 4, 8, 8]).is_err());
        assert!(keep(&weight.to_kind(Kind::Double), &bias, maps).is_err());
        assert!(keep(&weight.get(0), &bias, maps).is_err());
        let kept = keep(&weight, &bias, maps).unwrap();
        assert!(kept.conv_relu(&draw(2, &[1, 4, 8, 8])).is_err());
        assert!(
            kept.conv_relu(&draw(2, &maps).to_kind(Kind::Double))
                .is_err()
        );
        assert!(kept.conv_relu(&draw(2, &[3, 8, 8])).is_err());
    }
}
