//! Images larger than a network's own, tile by tile: at each step the network sees overlapping tiles of x_t, and what it
//! says of them is blended into what a network of the whole image would say.
//!
//! The sampler sees one whole image, so seams do not grow from step to step, and any sampler can be used.
//!
//! Source: Bar-Tal et al. 2023, MultiDiffusion <https://arxiv.org/abs/2302.08113>

use tch::{Device, Kind, Tensor};

use crate::native;

/// Overlapping tiles that cover an image.
#[derive(Debug)]
pub struct Tiles {
    /// First row and column of each.
    corners: Vec<(i64, i64)>,
    /// Height and width of each.
    tile: [i64; 2],
    /// How much a tile's pixels count, `[1, h, w]`: less towards its edges.
    weight: Tensor,
    /// The sum of all that counts at each pixel, `[1, H, W]`.
    total: Tensor,
}

impl Tiles {
    /// Tiles of `tile` pixels (height, width) for images of `size`, evenly, so that neighbours share at least `overlap`
    /// rows or columns.
    ///
    /// # Panics
    /// Tiles larger than the image, or no larger than the overlap.
    pub fn new(size: [i64; 2], tile: [i64; 2], overlap: i64, device: Device) -> Tiles {
        let firsts = |side: usize| firsts(size[side], tile[side], overlap);
        let columns = firsts(1);
        let corners: Vec<(i64, i64)> = firsts(0)
            .into_iter()
            .flat_map(|row| columns.iter().map(move |column| (row, *column)))
            .collect();
        let ramp = |side: i64| {
            let from_edge = Tensor::arange(side, (Kind::Float, device)) + 0.5;
            let from_edge = from_edge.minimum(&from_edge.flip([0]));
            (from_edge / overlap.max(1)).clamp_max(1.0)
        };
        let weight = ramp(tile[0]).outer(&ramp(tile[1])).unsqueeze(0);
        let total = Tensor::zeros([1, size[0], size[1]], (Kind::Float, device));
        for corner in &corners {
            let _ = at(&total, *corner, tile).g_add_(&weight);
        }
        Tiles {
            corners,
            tile,
            weight,
            total,
        }
    }

    /// Number of tiles.
    pub fn len(&self) -> usize {
        self.corners.len()
    }

    /// Always false: there is at least one.
    pub fn is_empty(&self) -> bool {
        self.corners.is_empty()
    }

    /// What `network` says of whole images. It gets at most `most` tiles at a time, with the number of the image that each
    /// is of.
    ///
    /// # Shapes
    /// - `x`: `[N, C, H, W]` f32
    /// - `network`: from `[n, C, h, w]` and `[n]` i64 to `[n, D, h, w]`
    /// - returns `[N, D, H, W]`
    pub fn blend(
        &self,
        x: &Tensor,
        most: usize,
        network: &dyn Fn(&Tensor, &Tensor) -> Tensor,
    ) -> Tensor {
        let images = x.size()[0];
        let all: Vec<(i64, (i64, i64))> = (0..images)
            .flat_map(|image| self.corners.iter().map(move |corner| (image, *corner)))
            .collect();
        let said = |some: &[(i64, (i64, i64))]| {
            let tiles: Vec<Tensor> = some
                .iter()
                .map(|(image, corner)| at(&x.get(*image), *corner, self.tile))
                .collect();
            let of: Vec<i64> = some.iter().map(|(image, _)| *image).collect();
            let of = native::send(&Tensor::from_slice(&of), x.device());
            let of = of.expect("there is host memory for a few numbers");
            network(&Tensor::stack(&tiles, 0), &of)
        };
        if self.len() == 1 {
            // The whole image: what the network says stays as it is, to the last bit.
            let parts: Vec<Tensor> = all.chunks(most.max(1)).map(said).collect();
            return Tensor::cat(&parts, 0);
        }
        let mut sum: Option<Tensor> = None;
        for some in all.chunks(most.max(1)) {
            let said = said(some) * &self.weight;
            let (_, h, w) = self.total.size3().expect("three dimensions");
            let sum = sum.get_or_insert_with(|| {
                said.new_zeros([images, said.size()[1], h, w], (said.kind(), said.device()))
            });
            for (place, (image, corner)) in (0..).zip(some) {
                let _ = at(&sum.get(*image), *corner, self.tile).g_add_(&said.get(place));
            }
        }
        sum.expect("there is a tile") / &self.total
    }
}

/// A tile of an image `[C, H, W]`: a view.
fn at(image: &Tensor, (row, column): (i64, i64), [h, w]: [i64; 2]) -> Tensor {
    image.narrow(1, row, h).narrow(2, column, w)
}

/// Where tiles of `tile` begin along a side.
fn firsts(side: i64, tile: i64, overlap: i64) -> Vec<i64> {
    assert!(
        tile == side || (tile < side && overlap < tile),
        "tiles of {tile} pixels that share {overlap}, for {side}"
    );
    let room = side - tile;
    if room == 0 {
        return vec![0];
    }
    let steps = (room as u64).div_ceil((tile - overlap) as u64) as i64;
    (0..=steps).map(|step| step * room / steps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, normal};

    #[test]
    fn tiles_cover_a_side_and_share_enough() {
        assert_eq!(firsts(8, 8, 3), [0]);
        assert_eq!(firsts(9, 8, 3), [0, 1]);
        for (side, tile, overlap) in [(100, 16, 4), (33, 32, 31), (64, 32, 0), (65, 32, 0)] {
            let firsts = firsts(side, tile, overlap);
            assert_eq!((firsts[0], *firsts.last().unwrap()), (0, side - tile));
            for pair in firsts.windows(2) {
                assert!(
                    pair[1] > pair[0] && pair[1] <= pair[0] + tile - overlap,
                    "{firsts:?}"
                );
            }
        }
        assert_eq!(firsts(64, 32, 0), [0, 32]);
    }

    fn noise(shape: &[i64]) -> Tensor {
        normal(3, Stream::Noise, 0, shape, Device::Cpu)
    }

    #[test]
    fn what_looks_at_a_pixel_alone_says_the_same_of_tiles() {
        let x = noise(&[2, 3, 20, 31]);
        let network = |x: &Tensor, _: &Tensor| {
            assert!(x.size()[0] <= 4);
            Tensor::cat(&[x * 2.0 + 1.0, x.sin()], 1)
        };
        for (tile, overlap, count) in [([8, 8], 3, 4 * 6), ([20, 31], 3, 1), ([20, 16], 4, 3)] {
            let tiles = Tiles::new([20, 31], tile, overlap, Device::Cpu);
            assert_eq!(tiles.len(), count);
            let got = tiles.blend(&x, 4, &network);
            let want = Tensor::cat(&[&x * 2.0 + 1.0, x.sin()], 1);
            let error = (&got - &want).abs().max().double_value(&[]);
            // A weighted mean of equal numbers, rounded.
            assert!(error < 2e-6, "{tile:?}: {error}");
            assert!(count > 1 || got == want);
        }
    }

    #[test]
    fn tiles_know_their_image() {
        let x = noise(&[3, 1, 12, 12]);
        let tiles = Tiles::new([12, 12], [8, 8], 2, Device::Cpu);
        let network = |x: &Tensor, of: &Tensor| x.zeros_like() + of.view([-1, 1, 1, 1]);
        let got = tiles.blend(&x, 5, &network);
        for image in 0..3 {
            let apart = (got.get(image) - image).abs().max().double_value(&[]);
            assert!(apart < 1e-6, "{image}: {apart}");
        }
    }

    #[test]
    fn neighbours_give_way_to_each_other_without_a_step() {
        // Each tile says another number: the blend goes from one to the other evenly.
        let tiles = Tiles::new([4, 28], [4, 16], 4, Device::Cpu);
        let x = Tensor::arange(28, (Kind::Float, Device::Cpu)).expand([1, 1, 4, 28], false);
        // The number of the first column.
        let network = |x: &Tensor, _: &Tensor| x.zeros_like() + x.narrow(3, 0, 1);
        let got = tiles.blend(&x, 1, &network).get(0).get(0).get(0);
        let got = Vec::<f32>::try_from(got).unwrap();
        assert_eq!((got[0], got[27]), (0.0, 12.0));
        let largest = got.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(largest.fold(0.0, f32::max) < 4.0, "{got:?}");
    }
}
