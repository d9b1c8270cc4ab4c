//! Shared by the integration tests.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddpm::config::{ModelConfig, RunConfig};
use ddpm::formats::safetensors;
use ddpm::model::{Model, load_state_dict};
use tch::{Kind, Tensor};
use tempfile::TempDir;

/// A file of this repository.
pub(crate) fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The folder of the libtorch that this was built with.
pub(crate) fn libtorch() -> PathBuf {
    std::env::var_os("LIBTORCH").map_or(repo(".venv/libtorch"), PathBuf::from)
}

/// A folder with a library of this C source by the name of NVIDIA's driver, for `LD_LIBRARY_PATH`.
pub(crate) fn driver(source: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    library(&dir.path().join("libcuda.so.1"), source, &[]);
    dir
}

/// Compiles a C source to a shared library.
pub(crate) fn library(path: &Path, source: &str, flags: &[&str]) {
    let file = path.with_extension("c");
    std::fs::write(&file, source).unwrap();
    let compiler = Command::new("gcc")
        .args(["-shared", "-fPIC", "-w", "-o"])
        .args([path, &file])
        .args(flags)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&compiler.stderr);
    assert!(compiler.status.success(), "{said}");
}

/// The functions of the driver that a library is linked to, with others that look like them.
pub(crate) fn driver_functions(library: &Path) -> Vec<String> {
    let bytes = std::fs::read(library).unwrap();
    let mut names: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"cu") && name.get(2).is_some_and(u8::is_ascii_uppercase))
        .filter(|name| name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_'))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// A file of golden numbers; what it holds is in weights/README.md.
pub(crate) struct Golden {
    pub(crate) metadata: HashMap<String, String>,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub(crate) fn open(name: &str) -> Golden {
        Golden::open_path(&repo("weights/golden").join(format!("{name}.safetensors")))
    }

    pub(crate) fn open_path(path: &Path) -> Golden {
        let file = safetensors::open(path).unwrap();
        Golden {
            metadata: file.metadata,
            tensors: file.tensors.into_iter().collect(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("no golden tensor {name}"))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    pub(crate) fn f64s(&self, name: &str) -> Vec<f64> {
        Vec::try_from(self.get(name).to_kind(Kind::Double).view([-1])).unwrap()
    }

    /// Tensors below `prefix`, without it.
    pub(crate) fn section(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let strip =
            |(k, t): (&String, &Tensor)| Some((k.strip_prefix(prefix)?.to_owned(), t.copy()));
        self.tensors.iter().filter_map(strip).collect()
    }

    /// The network's settings; the simplified U-Net's do not name their kind.
    pub(crate) fn config(&self) -> ModelConfig {
        let mut config: serde_json::Value = serde_json::from_str(&self.metadata["config"]).unwrap();
        let settings = config.as_object_mut().unwrap();
        settings.entry("kind").or_insert("unet".into());
        serde_json::from_value(config).unwrap()
    }

    pub(crate) fn zero_gradient(&self) -> Vec<String> {
        serde_json::from_str(&self.metadata["zero_gradient"]).unwrap()
    }

    /// Parameters that the original's exclusion list matches, so that LAMB does not adapt them.
    pub(crate) fn not_adapted(&self) -> Vec<String> {
        let names = self.metadata.get("not_adapted");
        names.map_or(vec![], |names| serde_json::from_str(names).unwrap())
    }

    /// The network of this file with its weights `w.*`.
    pub(crate) fn network(&self) -> Model {
        let net = Model::new(&self.config(), 1000, 0);
        load_state_dict(&net.params(), &self.section("w.")).unwrap();
        net
    }
}

/// Largest absolute difference.
pub(crate) fn max_abs(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    f64::try_from(
        (a.to_kind(Kind::Double) - b.to_kind(Kind::Double))
            .abs()
            .max(),
    )
    .unwrap()
}

/// ‖a - b‖ / ‖b‖.
pub(crate) fn rel_l2(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    f64::try_from((a - &b).norm() / b.norm()).unwrap()
}

/// The settings of a network small enough for tests.
pub(crate) fn tiny_config() -> RunConfig {
    let mut config = ddpm::config::Preset::Demo.config();
    config.diffusion = ddpm::config::Preset::Celebahq128.config().diffusion;
    let m = config.model.unet_mut();
    (m.height, m.width, m.base_width, m.norm_groups) = (16, 16, 16, 4);
    m.multipliers = vec![1, 2];
    config.train.batch = 8;
    config.data.builtin_images = 20;
    config
}

/// The Python with PyTorch that scripts/setup.sh makes; `None`, with a message, where it is not.
pub(crate) fn python() -> Option<PathBuf> {
    let python = repo(".venv/bin/python");
    let usable = std::process::Command::new(&python)
        .args(["-c", "import torch, safetensors"])
        .output()
        .is_ok_and(|out| out.status.success());
    if !usable {
        eprintln!("skipped: no PyTorch in .venv; run ./scripts/setup.sh");
    }
    usable.then_some(python)
}
