//! Files of statistics: `.npz` with `mu` and `sigma`, as pytorch-fid, clean-fid, EDM and guided-diffusion write them.
//!
//! What this program adds, they pass over: `n`, the number of images, `features`, the network that saw them, and
//! `sqrt_sigma`, the matrix square root of sigma, which is the slowest part of a distance. The root comes with the
//! hash of the sigma that it is of (`sqrt_sigma_of`), and is passed over if another program replaced sigma.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use ndarray::{Array2, ArrayD, Ix1, Ix2, arr0};

use super::Moments;
use crate::formats::npz::{self, NumpyFile, Values};

/// Most numbers of a feature vector: their covariance takes 2 GiB.
const MAX_DIMS: u64 = 16384;
/// Largest difference of sigma and its transpose, compared with sigma's largest value.
const MAX_ASYMMETRY: f64 = 1e-6;

/// What a file of statistics holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// Mean and covariance.
    pub moments: Moments,
    /// The network that saw the images, and how; `None` if the file does not say.
    pub features: Option<String>,
    /// The matrix square root of the covariance, `[d, d]`, if it was computed.
    pub sqrt_cov: Option<Array2<f64>>,
}

impl Statistics {
    /// Reads `mu` and `sigma` of a `.npz` file, and what this program adds to them.
    ///
    /// # Errors
    /// Not such a file, arrays of other shapes, values that are NaN or infinite, or a sigma that is no covariance; all
    /// name the file.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = npz::open(path)?;
        if !file.has("mu") || !file.has("sigma") {
            let found = file.names().join(", ");
            let found: String = crate::text::printable(&crate::text::shown(&found));
            bail!(
                "{} holds no statistics: it has the arrays {found}, wanted mu and sigma, as pytorch-fid writes them",
                path.display()
            );
        }
        let mut read = || -> Result<Self> {
            let mean = numbers(&mut file, "mu", MAX_DIMS)?;
            // clean-fid and others write [d]; some keep the axis of the images.
            let mean = mean.into_dimensionality::<Ix1>();
            let mean = mean.ok().context("mu should have one axis")?;
            let dims = mean.len();
            ensure!(dims > 0, "mu is empty");
            let cov = square(&mut file, "sigma", dims)?;
            check_covariance(&cov)?;
            let count = count(&mut file)?;
            let features = match file.has("features").then(|| file.read("features", 1 << 16)) {
                Some(Ok(Values::Text(name))) => Some(name),
                _ => None,
            };
            let sqrt_cov = sqrt_of(&mut file, &cov);
            Ok(Self {
                moments: Moments { count, mean, cov },
                features,
                sqrt_cov,
            })
        };
        read().with_context(|| format!("cannot use the statistics in {}", path.display()))
    }

    /// Writes a `.npz` file, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let Moments { count, mean, cov } = &self.moments;
        let mut arrays = vec![
            ("mu", Values::F64(mean.clone().into_dyn())),
            ("sigma", Values::F64(cov.clone().into_dyn())),
        ];
        if let Some(count) = count {
            arrays.push(("n", Values::I64(arr0(*count as i64).into_dyn())));
        }
        if let Some(features) = &self.features {
            arrays.push(("features", Values::Text(features.clone())));
        }
        if let Some(root) = &self.sqrt_cov {
            arrays.push(("sqrt_sigma", Values::F64(root.clone().into_dyn())));
            arrays.push(("sqrt_sigma_of", Values::Text(hash(cov))));
        }
        npz::write(path, &arrays)
    }
}

fn numbers(file: &mut NumpyFile, name: &str, most: u64) -> Result<ArrayD<f64>> {
    let values = file.read(name, most * 8)?.into_f64();
    let values = values.with_context(|| format!("{name} is text, wanted numbers"))?;
    let bad = values.iter().filter(|value| !value.is_finite()).count();
    ensure!(
        bad == 0,
        "{bad} of the {} values of {name} are NaN or infinite",
        values.len()
    );
    Ok(values)
}

fn square(file: &mut NumpyFile, name: &str, dims: usize) -> Result<Array2<f64>> {
    let shape = file.shape(name)?;
    ensure!(
        shape == [dims, dims],
        "{name} has the shape {shape:?}, wanted {:?}, as mu has {dims} numbers",
        [dims, dims]
    );
    let values = numbers(file, name, (dims * dims) as u64)?;
    Ok(values.into_dimensionality::<Ix2>().expect("two axes"))
}

/// Refuses what is no covariance; slight differences of the two halves are evened out by its users.
fn check_covariance(cov: &Array2<f64>) -> Result<()> {
    let largest = cov
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    for ((i, j), value) in cov.indexed_iter() {
        let other = cov[[j, i]];
        ensure!(
            (value - other).abs() <= largest * MAX_ASYMMETRY,
            "sigma is not symmetric: {value} at [{i}, {j}] and {other} at [{j}, {i}]"
        );
    }
    if let Some(least) = cov.diag().iter().find(|value| **value < 0.0) {
        bail!("sigma has the negative variance {least}, and is no covariance");
    }
    Ok(())
}

fn count(file: &mut NumpyFile) -> Result<Option<u64>> {
    if !file.has("n") {
        return Ok(None);
    }
    // Of another program's array of this name nothing is known.
    let Some(value) = file.read("n", 8).ok().and_then(Values::into_f64) else {
        return Ok(None);
    };
    match value.first() {
        Some(&n) if value.len() == 1 && n.fract() == 0.0 && n >= 2.0 => Ok(Some(n as u64)),
        Some(n) if value.len() == 1 => bail!("n is {n}, wanted the number of images, 2 or more"),
        _ => Ok(None),
    }
}

/// The root in the file, if it is of this covariance.
fn sqrt_of(file: &mut NumpyFile, cov: &Array2<f64>) -> Option<Array2<f64>> {
    if !file.has("sqrt_sigma") || !file.has("sqrt_sigma_of") {
        return None;
    }
    match file.read("sqrt_sigma_of", 1 << 10) {
        Ok(Values::Text(of)) if of == hash(cov) => {}
        _ => return None,
    }
    let root = square(file, "sqrt_sigma", cov.nrows()).ok()?;
    // Of a root that is not one, every distance would be wrong: its trace of squares is known.
    let found: f64 = root.iter().map(|value| value * value).sum();
    let wanted = cov.diag().sum();
    ((found - wanted).abs() <= 1e-6 * wanted.abs()).then_some(root)
}

fn hash(cov: &Array2<f64>) -> String {
    let mut hasher = blake3::Hasher::new();
    for value in cov {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
