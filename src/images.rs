//! Conversion between images on the host and images on a device.
//!
//! On the host an image is an `ndarray` of u8 `[H, W, C]`, as in files, and a batch is `[N, H, W, C]`. A network's
//! inputs and outputs are `tch::Tensor`s `[N, C, H, W]` f32 in [-1, 1] on its device. C is 1 (grey) or 3 (RGB). The
//! bytes 0 to 255 map linearly to -1 to 1.

use ndarray::{Array4, ArrayView4};
use tch::{Device, Kind, Tensor};

/// Converts values in [-1, 1] to bytes on the same device: (x + 1) / 2 * 255, rounded half to even, clipped.
///
/// # Shapes
/// - `images`: any, f32; returns the same shape, u8
pub fn to_pixels(images: &Tensor) -> Tensor {
    ((images + 1.0) / 2.0 * 255.0)
        .round()
        .clamp(0.0, 255.0)
        .to_kind(Kind::Uint8)
}

/// Converts bytes to values in [-1, 1] on the same device.
///
/// # Shapes
/// - `pixels`: any, u8; returns the same shape, f32
pub fn from_pixels(pixels: &Tensor) -> Tensor {
    pixels.to_kind(Kind::Float) / 255.0 * 2.0 - 1.0
}

/// Converts a tensor to images on the host, rounded by [`to_pixels`].
///
/// # Shapes
/// - `images`: `[N, C, H, W]` f32 in [-1, 1], or u8 from [`to_pixels`]; returns `[N, H, W, C]`
///
/// # Panics
/// With another number of dimensions.
pub fn to_array(images: &Tensor) -> Array4<u8> {
    let pixels = match images.kind() {
        Kind::Uint8 => images.shallow_clone(),
        _ => to_pixels(images),
    };
    let nhwc = pixels.permute([0, 2, 3, 1]).to_device(Device::Cpu);
    let shape: [usize; 4] = std::array::from_fn(|axis| nhwc.size()[axis] as usize);
    let bytes = Vec::<u8>::try_from(nhwc.contiguous().view([-1])).expect("a flat tensor of bytes");
    Array4::from_shape_vec(shape, bytes).expect("as many bytes as the shape says")
}

/// Converts images on the host to a network's input.
///
/// # Shapes
/// - `images`: `[N, H, W, C]`; returns `[N, C, H, W]` f32 in [-1, 1] on CPU
pub fn to_tensor(images: ArrayView4<u8>) -> Tensor {
    let nchw = images.permuted_axes([0, 3, 1, 2]);
    let nchw = Tensor::try_from(nchw.as_standard_layout()).expect("an array without gaps");
    from_pixels(&nchw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even_and_clipped() {
        // 0 maps to 127.5, the only tie among f32 numbers; then values outside the range.
        let x = Tensor::from_slice(&[0.0f32, 1.0, -1.0, 1.2, -7.0]);
        assert_eq!(
            Vec::<u8>::try_from(to_pixels(&x)).unwrap(),
            [128, 255, 0, 255, 0]
        );
    }

    #[test]
    fn every_byte_comes_back_at_its_place() {
        let images = Array4::from_shape_fn((2, 4, 16, 3), |(n, y, x, c)| {
            (n * 128 + y * 16 + x) as u8 ^ (c * 85) as u8
        });
        let tensor = to_tensor(images.view());
        assert_eq!(tensor.size(), [2, 3, 4, 16]);
        let [n, c, y, x] = [1, 2, 3, 5];
        let want = f64::from(images[[n, y, x, c]]) / 127.5 - 1.0;
        let got = tensor.double_value(&[n, c, y, x].map(|i| i as i64));
        assert!((got - want).abs() < 1e-6, "{got}, want {want}");
        assert_eq!(to_array(&tensor), images);
        assert_eq!(to_array(&to_pixels(&tensor)), images);
    }
}
