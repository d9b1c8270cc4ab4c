//! Rotary positions in two dimensions.

use tch::{Device, Kind, Tensor};

/// Wavelengths grow from 2π to this times 2π patches: a fixed choice of the original; text models use 10000.
const BASE: f64 = 1000.0;

/// Sines and cosines that rotate queries and keys by their patch's position: the first half of the
/// channels by its row, the second half by its column.
///
/// Channels 2k and 2k+1 of a half are a pair, rotated by `row / BASE^(2k / half)`, so that the product of
/// a query and a key depends only on the offset between their patches.
///
/// Source: Su et al. 2021, section 3.2.2 <https://arxiv.org/abs/2104.09864>
#[derive(Debug)]
pub(super) struct Positions {
    /// `[patches, key_width / 2]` f32.
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Positions {
    /// For `rows` × `columns` patches in reading order; `key_width` must be divisible by 4.
    pub(super) fn new(rows: i64, columns: i64, key_width: i64, device: Device) -> Positions {
        let pairs = key_width / 4;
        let f64_there = (Kind::Double, device);
        let exponents = Tensor::arange(pairs, f64_there) / -(pairs as f64);
        let frequencies = (exponents * BASE.ln()).exp();
        let angles = |count: i64| Tensor::arange(count, f64_there).outer(&frequencies);
        let grid = [rows, columns, pairs];
        let by_row = angles(rows).unsqueeze(1).expand(grid, false);
        let by_column = angles(columns).unsqueeze(0).expand(grid, false);
        let angles = Tensor::cat(&[by_row, by_column], -1).flatten(0, 1);
        Positions {
            cos: angles.cos().to_kind(Kind::Float),
            sin: angles.sin().to_kind(Kind::Float),
        }
    }

    /// `[N, patches, key_width]` to the same.
    pub(super) fn rotate(&self, x: &Tensor) -> Tensor {
        let size = x.size();
        let pairs = x.reshape([size[0], size[1], size[2] / 2, 2]);
        let (a, b) = (pairs.select(-1, 0), pairs.select(-1, 1));
        let rotated = [
            &a * &self.cos - &b * &self.sin,
            &b * &self.cos + &a * &self.sin,
        ];
        Tensor::stack(&rotated, -1).flatten(-2, -1)
    }
}
