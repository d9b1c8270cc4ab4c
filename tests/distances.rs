//! Distances of feature vectors and of pixels: against pytorch-fid, torch-fidelity and NumPy on the same arrays,
//! against closed forms, and on files and features that are broken.

#[path = "distances/broken.rs"]
mod broken;
#[path = "distances/closed.rs"]
mod closed;
mod common;
#[path = "distances/peers.rs"]
mod peers;
#[path = "distances/pixels.rs"]
mod pixels;

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use ddpm::evaluate::moments::{Moments, Statistics, Sums};
use ddpm::formats::npz;
use ndarray::{Array1, Array2, array};
use tch::Tensor;
use tempfile::TempDir;

/// What distances/reference.py computed, once for all tests.
struct Reference {
    folder: TempDir,
    values: serde_json::Value,
}

/// `None` without a .venv with the peers.
fn reference() -> Option<&'static Reference> {
    static REFERENCE: LazyLock<Option<Reference>> = LazyLock::new(|| {
        let python = common::python()?;
        let folder = tempfile::tempdir().unwrap();
        our_statistics()
            .write(&folder.path().join("ours.npz"))
            .unwrap();
        let script = common::repo("tests/distances/reference.py");
        let out = Command::new(python).arg(script).arg(folder.path()).output();
        let out = out.unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}");
        let values = std::fs::read_to_string(folder.path().join("values.json")).unwrap();
        Some(Reference {
            folder,
            values: serde_json::from_str(&values).unwrap(),
        })
    });
    REFERENCE.as_ref()
}

/// Statistics that Python is to read.
fn our_statistics() -> Statistics {
    let cov = array![[2.0, 0.5, 0.1], [0.5, 1.0, 0.0], [0.1, 0.0, 0.25]];
    Statistics {
        moments: Moments {
            count: Some(12_345),
            mean: array![0.1, -2.0, 1e300],
            cov: cov.clone(),
        },
        features: Some("inception, tf dialect — é".into()),
        sqrt_cov: Some(ddpm::evaluate::frechet::sqrt(&cov).unwrap()),
    }
}

impl Reference {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An array that Python wrote.
    fn array(&self, file: &str, name: &str) -> ndarray::ArrayD<f64> {
        let values = npz::open(&self.path(file)).unwrap().read(name, 1 << 30);
        values.unwrap().into_f64().unwrap()
    }

    /// A set of features, `[n, d]` f64.
    fn set(&self, name: &str) -> Tensor {
        Tensor::try_from(&self.array("sets.npz", name)).unwrap()
    }

    /// Its moments by NumPy.
    fn stats(&self, name: &str) -> Moments {
        let array = |what| self.array("stats.npz", &format!("{name}.{what}"));
        Moments {
            count: None,
            mean: array("mu").into_dimensionality().unwrap(),
            cov: array("sigma").into_dimensionality().unwrap(),
        }
    }

    /// A mean and a deviation, or another pair.
    fn pair(&self, path: &str) -> [f64; 2] {
        let pair = self.values.pointer(path).expect(path);
        [0, 1].map(|i| pair[i].as_f64().unwrap())
    }
}

/// Moments of features that come in batches of `some`.
fn measured(features: &Tensor, some: i64) -> Moments {
    let mut sums = Sums::new(features.size()[1]);
    for batch in features.split(some, 0) {
        sums.add(&batch).unwrap();
    }
    sums.moments().unwrap()
}

#[track_caller]
fn close(found: f64, wanted: f64, relative: f64) {
    let error = (found - wanted).abs();
    assert!(
        error <= relative * wanted.abs(),
        "{found}, wanted {wanted}: {error:e} apart"
    );
}

/// Largest difference of two matrices, compared with the largest value.
fn relative(found: &Array2<f64>, wanted: &Array2<f64>) -> f64 {
    let largest = |values: &Array2<f64>| values.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    largest(&(found - wanted)) / largest(wanted)
}

fn diagonal(values: Array1<f64>) -> Array2<f64> {
    Array2::from_diag(&values)
}
