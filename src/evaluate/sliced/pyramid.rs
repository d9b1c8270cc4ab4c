//! Laplacian pyramids: the details of an image by their size.

use tch::{Device, Kind, Tensor};

use super::MIN_SIDE;

/// Height and width of each level of images of this size: halved, rounded up, while both are 16 or more.
pub(super) fn sides([_, height, width]: [i64; 3]) -> Vec<[i64; 2]> {
    let mut sides = Vec::new();
    let mut side = [height, width];
    while side.iter().all(|&side| side >= MIN_SIDE) {
        sides.push(side);
        side = side.map(|side| (side + 1) / 2);
    }
    sides
}

/// The levels of some images: what the next does not say of each, and the last as it is.
///
/// # Shapes
/// - `images`: `[N, C, H, W]`; returns the same with the sides of each level, f32
pub(super) fn pyramid(images: &Tensor, levels: usize) -> Vec<Tensor> {
    let mut pyramid = vec![images.to_kind(Kind::Float)];
    for _ in 1..levels {
        let image = pyramid.pop().expect("a level");
        let small = down(&image);
        let size = [image.size()[2], image.size()[3]];
        pyramid.push(image - up(&small, size));
        pyramid.push(small);
    }
    pyramid
}

/// Every second pixel of the blurred images.
fn down(images: &Tensor) -> Tensor {
    let blurred = blur(images);
    blurred.slice(2, None, None, 2).slice(3, None, None, 2)
}

/// Images of twice the size: between the pixels 0, blurred, and four times as bright.
fn up(images: &Tensor, [height, width]: [i64; 2]) -> Tensor {
    let size = images.size();
    let large = Tensor::zeros(
        [size[0], size[1], height, width],
        (Kind::Float, Device::Cpu),
    );
    large
        .slice(2, None, None, 2)
        .slice(3, None, None, 2)
        .copy_(images);
    blur(&large) * 4.0
}

/// Blurs along both axes; beyond the edge the image is mirrored at its last pixel.
fn blur(images: &Tensor) -> Tensor {
    let padded = images.reflection_pad2d([2, 2, 2, 2]);
    blur_along(2, &blur_along(3, &padded))
}

/// Binomial weights along one axis, as sums of shifted images: a convolution of one channel takes libtorch five times
/// as long.
fn blur_along(axis: i64, padded: &Tensor) -> Tensor {
    let length = padded.size()[axis as usize] - 4;
    let shifted = |by| padded.narrow(axis, by, length);
    let outer = (shifted(0) + shifted(4)) * (1.0 / 16.0);
    outer + (shifted(1) + shifted(3)) * (4.0 / 16.0) + shifted(2) * (6.0 / 16.0)
}
