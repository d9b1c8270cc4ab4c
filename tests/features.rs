//! What networks see in images, against pytorch-fid and torch-fidelity where .venv has them.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Golden, python, repo};
use ddpm::evaluate::features::inception::Inception;
use ddpm::evaluate::features::{Dialect, FeatureExtractor, Network, open};
use ddpm::formats::{read_state_dict, safetensors, write_state_dict};
use tch::{Device, Kind, Tensor};

/// f32 through 94 convolutions.
const TOLERANCE: f64 = 1e-5;

/// The largest difference, relative to the largest number.
fn difference(found: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(found.size(), wanted.size());
    let largest = |x: &Tensor| x.to_kind(Kind::Double).abs().max().double_value(&[]);
    largest(&(found - wanted)) / largest(wanted)
}

fn message<T>(result: anyhow::Result<T>) -> String {
    match result {
        Ok(_) => panic!("wanted an error"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn the_inception_network_is_that_of_pytorch_fid_and_torch_fidelity() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let out = Command::new(python)
        .arg(repo("tests/features/reference.py"))
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    // Both programs are in scripts/requirements.txt: without them nothing was compared.
    assert!(out.status.success(), "{said}");
    let expected = Golden::open_path(&file("expected.safetensors"));
    let network = |name: &str, dialect| Inception::open(&file(name), dialect, Device::Cpu).unwrap();

    let pytorch_fid = network("weights.pth", Dialect::PytorchFid);
    let tf = network("weights.pth", Dialect::Tf);
    let close = |name: &str, found: &Tensor| {
        let off = difference(found, expected.get(name));
        assert!(off < TOLERANCE, "{name}: {off}");
    };
    for name in ["grey", "rgb", "not_square", "tiny", "pixel", "large"] {
        let images = expected.get(&format!("{name}.images"));
        let seen = pytorch_fid.features(images).unwrap();
        close(&format!("{name}.pytorch_fid"), &seen.pooled);
    }
    for name in ["rgb", "pixel", "large"] {
        let images = expected.get(&format!("{name}.images"));
        let seen = tf.features(images).unwrap();
        close(&format!("{name}.tf"), &seen.pooled);
        close(&format!("{name}.tf_logits"), &seen.logits.unwrap());
    }
    assert_eq!(tf.name(), "Inception v3 of FID, dialect tf");
    assert_eq!(tf.dims(), 2048);

    other_files(dir.path(), &expected);
}

/// The same weights in other files: the same features. Weights that are NaN: an error.
fn other_files(dir: &Path, expected: &Golden) {
    let images = expected.get("pixel.images");
    let seen = |name: &str| {
        let network = Inception::open(&dir.join(name), Dialect::Tf, Device::Cpu)?;
        anyhow::Ok(network.features(images)?.pooled)
    };
    let close = |name: &str| {
        let off = difference(&seen(name).unwrap(), expected.get("pixel.tf"));
        assert!(off < TOLERANCE, "{name}: {off}");
    };
    close("script.pt");

    let mut state = read_state_dict(&dir.join("weights.pth")).unwrap();
    state.retain(|(name, _)| !name.ends_with("num_batches_tracked"));
    let about = ("about".to_owned(), "test".to_owned());
    safetensors::write(&dir.join("w.safetensors"), about, &state).unwrap();
    close("w.safetensors");

    for (_, tensor) in state
        .iter_mut()
        .filter(|(name, _)| name == "Mixed_6a.branch3x3.bn.bias")
    {
        let _ = tensor.narrow(0, 7, 1).fill_(f64::NAN);
    }
    write_state_dict(&dir.join("nan.pth"), &state).unwrap();
    let error = message(seen("nan.pth"));
    assert!(
        error.contains("nan.pth")
            && error.contains("Mixed_6a.branch3x3.bn.bias is not finite: 1 of its 384"),
        "{error}"
    );
}

#[test]
fn weights_of_other_networks_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.pth");
    let error_of = |names: &[(&str, &[i64])]| {
        let tensors: Vec<_> = (names.iter())
            .map(|(name, shape)| {
                (
                    (*name).to_owned(),
                    Tensor::zeros(*shape, (Kind::Float, Device::Cpu)),
                )
            })
            .collect();
        write_state_dict(&path, &tensors).unwrap();
        message(open(
            Network::Inception,
            Some(&path),
            Dialect::Tf,
            Device::Cpu,
        ))
    };
    let first: (&str, &[i64]) = ("Conv2d_1a_3x3.conv.weight", &[32, 3, 3, 3]);
    for (names, wanted) in [
        (
            &[
                ("layer1.0.conv1.weight", [64, 64, 3, 3].as_slice()),
                ("bn1.bias", &[64]),
            ][..],
            "found 2 tensors: layer1.0.conv1.weight, bn1.bias; wanted Conv2d_1a_3x3.conv.weight",
        ),
        (
            &[first],
            "of the 472 tensors wanted it lacks Conv2d_1a_3x3.bn.weight, Conv2d_1a_3x3.bn.bias, \
             Conv2d_1a_3x3.bn.running_mean, Conv2d_1a_3x3.bn.running_var and 467 more",
        ),
        (
            &[first, ("AuxLogits.conv0.conv.weight", &[1])],
            "holds torchvision's Inception v3 (1,000 classes)",
        ),
        (
            &[first, ("fc.weight", &[1000, 2048])],
            "holds torchvision's Inception v3",
        ),
        (&[], "found no tensors"),
    ] {
        let error = error_of(names);
        assert!(error.contains(wanted) && error.contains("w.pth"), "{error}");
    }
}

#[test]
fn networks_without_their_weights_say_which() {
    let error = |network, weights| message(open(network, weights, Dialect::Tf, Device::Cpu));
    assert!(error(Network::Inception, None).contains("needs a file of its weights"));
    assert!(error(Network::SmallCnn, None).contains("needs a file of its weights"));
    let file = Path::new("w.pth");
    assert!(error(Network::Random, Some(file)).contains("has no weights to read from w.pth"));
    assert!(error(Network::Inception, Some(file)).contains("cannot read w.pth"));
}

/// A trained network, its batch norms far from the identity, and what it says of images.
const TRAINER: &str = r"
import json, sys, torch
sys.path.insert(0, sys.argv[2])
from train_classifier import SmallCnn, scaled
from safetensors.torch import save_file
torch.manual_seed(3)
torch.set_num_threads(1)
net = SmallCnn(3, [8, 16, 24], 5)
images = torch.randint(0, 256, (6, 3, 13, 13), dtype=torch.uint8)
for _ in range(5):
    net(scaled(torch.randint(0, 256, (16, 3, 13, 13), dtype=torch.uint8)))
net.eval()
for norm in net.norms:
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.nn.init.normal_(norm.bias)
shape = dict(channels=3, size=13, widths=[8, 16, 24], classes=5)
save_file(net.folded(), sys.argv[1] + '/small.safetensors', {'small-cnn': json.dumps(shape)})
with torch.no_grad():
    save_file({'images': images, 'logits': net(scaled(images))}, sys.argv[1] + '/expected.safetensors')
";

#[test]
fn a_small_classifier_is_the_one_that_was_trained() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new(python)
        .args(["-c", TRAINER])
        .arg(dir.path())
        .arg(repo("scripts/evaluate"))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let expected = Golden::open_path(&dir.path().join("expected.safetensors"));
    let path = dir.path().join("small.safetensors");
    let network = open(Network::SmallCnn, Some(&path), Dialect::Tf, Device::Cpu).unwrap();
    let logits = network.features(expected.get("images")).unwrap().logits;
    let off = difference(&logits.unwrap(), expected.get("logits"));
    assert!(off < TOLERANCE, "{off}");
}
