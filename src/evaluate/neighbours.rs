//! Does a network copy? The nearest training images of generated ones, and duplicates inside a data set.
//!
//! Two images are compared by the pixels that are left when both are made small ([`thumbnails`]): small enough that a
//! shift of a pixel and the noise of sampling do not count, and that 200,000 images fit into memory; or by any other
//! vectors, such as the features of a network. A distance alone says little, as it is small for dull images. What tells a
//! copy is the comparison with images that the network never saw: [`Copying`] says how many generated images lie nearer
//! to the training images than such held-out images do.

use std::cmp::Ordering;

use anyhow::{Result, ensure};
use ndarray::{Array1, Array2, Axis};
use tch::{Device, Kind, Tensor};

use super::ImageSet;

/// Side of a thumbnail in pixels; a smaller image stays as it is.
pub const THUMBNAIL_SIDE: i64 = 32;

/// Vectors of the base that are compared at a time.
const CHUNK: i64 = 8192;

/// Candidates beyond the nearest ones whose distance is computed exactly.
const MARGIN: i64 = 8;

/// Pixels of all images of a set as vectors, each made small by averaging areas and divided by 255 and by the root of
/// its length, so that a distance is the root mean square difference of two thumbnails, from 0 to 1.
///
/// # Shapes
/// Returns `[N, d]` f32 on the CPU, d at most `C * 32 * 32`: 12 KB an RGB image.
///
/// # Errors
/// Those of the set, and a set without images.
pub fn thumbnails(set: &dyn ImageSet) -> Result<Tensor> {
    vectors(set, &mut |images| Ok(thumbnail(images)))
}

/// What `measure` makes of all images of a set, one vector of each.
///
/// # Shapes
/// `measure` receives `[some, C, H, W]` u8 and returns `[some, d]` f32; returns `[N, d]`.
///
/// # Errors
/// Those of the set and of `measure`, and a set without images.
pub fn vectors(
    set: &dyn ImageSet,
    measure: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut parts = Vec::new();
    set.measure(&mut |images| Ok(vec![measure(images)?]), &mut |found| {
        parts.extend(found);
        Ok(())
    })?;
    ensure!(!parts.is_empty(), "{}: no images", set.origin());
    Ok(Tensor::cat(&parts, 0))
}

/// Thumbnails of images `[N, C, H, W]` u8, `[N, d]` f32.
pub fn thumbnail(images: &Tensor) -> Tensor {
    let size = images.size();
    let sides = [size[2].min(THUMBNAIL_SIDE), size[3].min(THUMBNAIL_SIDE)];
    let small = (images.to_kind(Kind::Float) / 255.0).adaptive_avg_pool2d(sides);
    let flat = small.flatten(1, -1);
    let root = (flat.size()[1] as f64).sqrt();
    flat / root
}

/// The thumbnails of the same images mirrored left to right.
///
/// # Shapes
/// - `thumbnails`: `[N, C * h * w]`, as [`thumbnail`] of images `[_, C, H, W]` makes them; returns the same
pub fn mirrored(thumbnails: &Tensor, chw: [i64; 3]) -> Tensor {
    let [c, h, w] = [
        chw[0],
        chw[1].min(THUMBNAIL_SIDE),
        chw[2].min(THUMBNAIL_SIDE),
    ];
    thumbnails.view([-1, c, h, w]).flip([3]).flatten(1, -1)
}

/// The nearest vectors of a base to each query.
#[derive(Debug, Clone, PartialEq)]
pub struct Nearest {
    /// Their places in the base, nearest first, `[queries, k]`.
    pub places: Array2<usize>,
    /// Their Euclidean distances, `[queries, k]`.
    pub distances: Array2<f64>,
}

/// Finds the `k` vectors of `base` that are nearest to each of `queries`; of equally near ones the first in the base come
/// first. `skip_own`: query i is vector i of the base, and does not count for itself.
///
/// Candidates are found by products in f32; their distances are computed in f64, so that equal vectors are at distance 0.
///
/// # Shapes
/// - `queries`: `[m, d]` f32, `base`: `[n, d]` f32
///
/// # Errors
/// Vectors of different lengths, values that are not finite, fewer than `k` vectors to find.
pub fn nearest(queries: &Tensor, base: &Tensor, k: usize, skip_own: bool) -> Result<Nearest> {
    let (m, d) = queries.size2()?;
    let (n, base_d) = base.size2()?;
    ensure!(
        d == base_d,
        "vectors of {d} and of {base_d} numbers cannot be compared"
    );
    let others = n - i64::from(skip_own);
    ensure!(
        k as i64 <= others,
        "{k} nearest images are wanted, and there are {others} to find them among"
    );
    for (which, vectors) in [("first", queries), ("second", base)] {
        ensure!(
            vectors.isfinite().all().int64_value(&[]) == 1,
            "the {which} set has values that are not finite (NaN or infinite)"
        );
    }
    let _guard = tch::no_grad_guard();
    // Distances do not change, and products lose less.
    let centre = base.mean_dim(0, true, Kind::Float);
    let base = base - &centre;
    let squares = base.square().sum_dim_intlist(1, false, Kind::Float);
    let mut places = Array2::zeros((m as usize, k));
    let mut distances = Array2::zeros((m as usize, k));
    let wanted = (k as i64 + i64::from(skip_own) + MARGIN).min(n);
    // As many queries at a time as there may be vectors in a chunk of the base.
    for start in (0..m).step_by(CHUNK as usize) {
        let count = CHUNK.min(m - start);
        let some = queries.narrow(0, start, count) - &centre;
        let candidates = candidates(&some, &base, &squares, wanted);
        for i in 0..count {
            let own = skip_own.then_some(start + i);
            let found = exact(&some.get(i), &base, &candidates.get(i), own);
            for (rank, (distance, place)) in found.into_iter().take(k).enumerate() {
                places[[(start + i) as usize, rank]] = place as usize;
                distances[[(start + i) as usize, rank]] = distance;
            }
        }
    }
    Ok(Nearest { places, distances })
}

/// Places of the `wanted` vectors of the base that look nearest, `[queries, wanted]`, in any order.
fn candidates(queries: &Tensor, base: &Tensor, squares: &Tensor, wanted: i64) -> Tensor {
    let n = base.size()[0];
    let mut best: Option<(Tensor, Tensor)> = None;
    for start in (0..n).step_by(CHUNK as usize) {
        let count = CHUNK.min(n - start);
        // |q - b|² without |q|², which is the same for all b.
        let far = squares.narrow(0, start, count).unsqueeze(0)
            - queries.matmul(&base.narrow(0, start, count).tr()) * 2.0;
        let (values, at) = far.topk(wanted.min(count), 1, false, false);
        let (values, at) = match best {
            None => (values, at + start),
            Some((v, a)) => (
                Tensor::cat(&[v, values], 1),
                Tensor::cat(&[a, at + start], 1),
            ),
        };
        let (values, order) = values.topk(wanted.min(values.size()[1]), 1, false, false);
        let at = at.gather(1, &order, false);
        best = Some((values, at));
    }
    best.expect("a base of one vector or more").1
}

/// Distance and place of each candidate, nearest first.
fn exact(query: &Tensor, base: &Tensor, candidates: &Tensor, own: Option<i64>) -> Vec<(f64, i64)> {
    let rows = base.index_select(0, candidates).to_kind(Kind::Double);
    let apart = (rows - query.to_kind(Kind::Double)).square();
    let distances = apart.sum_dim_intlist(1, false, Kind::Double).sqrt();
    let on_host = |x: &Tensor| x.to_device(Device::Cpu);
    let distances = Vec::<f64>::try_from(on_host(&distances)).expect("a row of numbers");
    let places = Vec::<i64>::try_from(on_host(candidates)).expect("a row of numbers");
    let mut found: Vec<(f64, i64)> = distances.into_iter().zip(places).collect();
    found.retain(|(_, place)| Some(*place) != own);
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    found
}

/// How near generated images are to those of the training, measured by images that the network never saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Copying {
    /// Share of the generated images that are nearer to a training image than half of the held-out ones are: 0.5 is
    /// expected of a network that does not copy, 0 to 1.
    pub nearer_than_half: f64,
    /// Share of the generated images that are nearer than all but the nearest 1 % of the held-out ones: 0.01 is expected.
    pub nearer_than_99_percent: f64,
    /// Standard error of the second share if 0.01 were true, which is what chance alone does.
    pub chance: f64,
}

impl Copying {
    /// Compares distances to the nearest training image.
    ///
    /// # Errors
    /// No generated or no held-out images.
    pub fn new(generated: &Array1<f64>, held_out: &Array1<f64>) -> Result<Copying> {
        ensure!(!generated.is_empty(), "no generated images to compare");
        ensure!(!held_out.is_empty(), "no held-out images to compare with");
        let mut sorted = held_out.to_vec();
        sorted.sort_by(f64::total_cmp);
        let limit = |quantile: f64| sorted[(quantile * (sorted.len() - 1) as f64).floor() as usize];
        let share = |limit: f64| {
            // As near as the limit itself counts half, so that sets that are alike come out as expected.
            let nearer = |distance: &f64| match distance.partial_cmp(&limit) {
                Some(Ordering::Less) => 1.0,
                Some(Ordering::Equal) => 0.5,
                _ => 0.0,
            };
            generated.iter().map(nearer).sum::<f64>() / generated.len() as f64
        };
        // The quantile itself is known only as well as the held-out images are many.
        let (n, m) = (generated.len() as f64, held_out.len() as f64);
        Ok(Copying {
            nearer_than_half: share(limit(0.5)),
            nearer_than_99_percent: share(limit(0.01)),
            chance: (0.01 * 0.99 * (1.0 / n + 1.0 / m)).sqrt(),
        })
    }
}

/// Groups of images at most `limit` apart, each in the order of the set, the largest group first: an image belongs to the
/// group of every image that near to it.
///
/// # Errors
/// As [`nearest`].
pub fn duplicates(vectors: &Tensor, limit: f64) -> Result<Vec<Vec<usize>>> {
    let n = vectors.size2()?.0 as usize;
    // Enough to link a group of any size, as each image is linked with its nearest ones.
    let k = 16.min(n - 1);
    if k == 0 {
        return Ok(Vec::new());
    }
    let near = nearest(vectors, vectors, k, true)?;
    let mut leader: Vec<usize> = (0..n).collect();
    for (image, (places, distances)) in (near
        .places
        .axis_iter(Axis(0))
        .zip(near.distances.axis_iter(Axis(0))))
    .enumerate()
    {
        for (place, _) in places.iter().zip(distances).filter(|(_, d)| **d <= limit) {
            let (a, b) = (find(&mut leader, image), find(&mut leader, *place));
            leader[a.max(b)] = a.min(b);
        }
    }
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); n];
    for image in 0..n {
        let first = find(&mut leader, image);
        groups[first].push(image);
    }
    groups.retain(|group| group.len() > 1);
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    Ok(groups)
}

/// The first image of a group (union-find).
fn find(leader: &mut [usize], image: usize) -> usize {
    let mut at = image;
    while leader[at] != at {
        leader[at] = leader[leader[at]];
        at = leader[at];
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, normal};

    fn vectors(n: i64, d: i64, index: u64) -> Tensor {
        normal(3, Stream::Data, index, &[n, d], Device::Cpu)
    }

    #[test]
    fn the_nearest_are_those_of_a_search_through_all() {
        let (queries, base) = (vectors(20, 7, 0), vectors(9000, 7, 1));
        let found = nearest(&queries, &base, 3, false).unwrap();
        for query in 0..20 {
            let apart = (&base - queries.get(query)).to_kind(Kind::Double);
            let all = apart
                .square()
                .sum_dim_intlist(1, false, Kind::Double)
                .sqrt();
            let (want, at) = all.topk(3, 0, false, true);
            for k in 0..3 {
                let place = [query as usize, k];
                assert_eq!(found.places[place] as i64, at.int64_value(&[k as i64]));
                let distance = want.double_value(&[k as i64]);
                // Both from f32 vectors, one of them shifted by their mean.
                assert!((found.distances[place] - distance).abs() < 1e-5 * distance.max(1.0));
            }
        }
    }

    #[test]
    fn equal_vectors_are_at_distance_0_and_an_image_is_not_its_own_neighbour() {
        let base = Tensor::cat(&[vectors(50, 5, 0) + 1e3, vectors(1, 5, 2) + 1e3], 0);
        let base = Tensor::cat(&[&base, &base.narrow(0, 7, 1)], 0);
        let found = nearest(&base, &base, 1, true).unwrap();
        assert_eq!((found.places[[7, 0]], found.distances[[7, 0]]), (51, 0.0));
        assert_eq!((found.places[[51, 0]], found.distances[[51, 0]]), (7, 0.0));
        assert!((0..52).all(|i| found.places[[i, 0]] != i));
    }

    #[test]
    fn duplicates_are_found_as_groups() {
        let base = vectors(40, 6, 0);
        let again = |i| base.narrow(0, i, 1) + 1e-4;
        let all = Tensor::cat(&[&base, &again(3), &again(9), &again(3)], 0);
        assert_eq!(
            duplicates(&all, 1e-2).unwrap(),
            [vec![3, 40, 42], vec![9, 41]]
        );
        assert!(duplicates(&base, 1e-2).unwrap().is_empty());
        assert!(duplicates(&base.narrow(0, 0, 1), 1.0).unwrap().is_empty());
    }

    #[test]
    fn a_network_that_copies_is_nearer_than_held_out_images() {
        let held_out = Array1::linspace(1.0, 2.0, 1001);
        let honest = Copying::new(&held_out, &held_out).unwrap();
        assert!((honest.nearer_than_half - 0.5).abs() < 1e-3);
        assert!((honest.nearer_than_99_percent - 0.01).abs() < 1e-3);
        let copies = Copying::new(&Array1::from_elem(10, 0.1), &held_out).unwrap();
        assert_eq!(
            (copies.nearer_than_half, copies.nearer_than_99_percent),
            (1.0, 1.0)
        );
        assert!(Copying::new(&Array1::zeros(0), &held_out).is_err());
    }

    #[test]
    fn thumbnails_are_root_mean_square_differences_and_can_be_mirrored() {
        let image = Tensor::arange(3 * 64 * 48, (Kind::Int64, Device::Cpu)).remainder(251);
        let image = image.view([1, 3, 64, 48]).to_kind(Kind::Uint8);
        let (grey, white) = (image.full_like(100.0), image.full_like(200.0));
        let apart = f64::try_from((thumbnail(&grey) - thumbnail(&white)).norm()).unwrap();
        assert!((apart - 100.0 / 255.0).abs() < 1e-6, "{apart}");
        let flipped = mirrored(&thumbnail(&image), [3, 64, 48]);
        let error = (flipped - thumbnail(&image.flip([3]))).abs().max();
        assert!(f64::try_from(error).unwrap() < 1e-6);
        assert_eq!(thumbnail(&image).size(), [1, 3 * 32 * 32]);
        assert_eq!(
            thumbnail(&image.narrow(2, 0, 8).narrow(3, 0, 40)).size(),
            [1, 3 * 8 * 32]
        );
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let base = vectors(4, 3, 0);
        assert!(nearest(&vectors(2, 4, 0), &base, 1, false).is_err());
        assert!(nearest(&base, &base, 4, true).is_err());
        assert!(nearest(&(&base * f64::NAN), &base, 1, false).is_err());
    }
}
