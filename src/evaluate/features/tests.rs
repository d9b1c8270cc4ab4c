//! Ways of resizing in closed form, the networks that need no other program, and refusals.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::resize::to_inception;
use super::small_cnn::SmallCnn;
use super::*;
use crate::formats::safetensors;
use crate::rng::{Stream, normal};

type Tensors = Vec<(String, Tensor)>;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn bytes(values: &[u8], shape: &[i64]) -> Tensor {
    Tensor::from_slice(values).view(shape)
}

/// Smooth images with noise of a strength.
fn images(count: i64, size: i64, noise: f64) -> Tensor {
    let smooth = normal(1, Stream::Data, 0, &[count, 3, 5, 5], Device::Cpu);
    let smooth = smooth.upsample_bilinear2d([size, size], false, None, None);
    let grain = normal(2, Stream::Data, 0, &[count, 3, size, size], Device::Cpu);
    (smooth * 40.0 + grain * noise + 128.0)
        .clamp(0.0, 255.0)
        .to_kind(Kind::Uint8)
}

fn open_small(path: &Path) -> Result<SmallCnn> {
    SmallCnn::open(path, Device::Cpu)
}

/// Distance between the mean features of two sets.
fn apart(network: &dyn FeatureExtractor, a: &Tensor, b: &Tensor) -> f64 {
    let mean = |x: &Tensor| {
        let seen = network.features(x).unwrap().pooled;
        seen.mean_dim([0i64].as_slice(), false, Kind::Double)
    };
    (mean(a) - mean(b)).norm().double_value(&[])
}

#[test]
fn the_dialects_look_at_other_places() {
    let image = bytes(&[0, 100], &[1, 1, 1, 2]);
    let row = |dialect| {
        let x = to_inception(&image, 4, dialect, Device::Cpu).unwrap();
        assert_eq!(x.size(), [1, 3, 4, 4]);
        Vec::<f32>::try_from(x.get(0).get(2).get(3)).unwrap()
    };
    // At -1/4, 1/4, 3/4, 5/4 of a pixel, and at 0, 1/2, 1, 3/2.
    let wanted = |values: [f32; 4], f: fn(f32) -> f32| values.map(f);
    let half = wanted([0.0, 25.0, 75.0, 100.0], |x| x / 127.5 - 1.0);
    for (found, wanted) in row(Dialect::PytorchFid).iter().zip(half) {
        assert!((found - wanted).abs() < 1e-6, "{found}, wanted {wanted}");
    }
    let corner = wanted([0.0, 50.0, 100.0, 100.0], |x| (x - 128.0) / 128.0);
    assert_eq!(row(Dialect::Tf), corner);
}

#[test]
fn random_features_are_the_same_everywhere() {
    let network = open(Network::Random, None, Dialect::Tf, Device::Cpu).unwrap();
    assert_eq!(network.dims(), 256);
    let all = images(5, 24, 20.0);
    let seen = network.features(&all).unwrap().pooled;
    assert_eq!(seen.size(), [5, 256]);
    let alone = network.features(&all.narrow(0, 3, 1)).unwrap().pooled;
    assert!(alone.allclose(&seen.narrow(0, 3, 1), 1e-5, 1e-6, false));
    let grey = all.narrow(1, 0, 1);
    let as_rgb = grey.expand([-1, 3, -1, -1], false);
    let [grey, as_rgb] = [grey, as_rgb].map(|x| network.features(&x).unwrap().pooled);
    assert_eq!(grey, as_rgb);
    for shape in [[1, 1, 1, 1], [1, 3, 3, 300], [2, 1, 200, 7]] {
        let zeros = Tensor::zeros(shape, (Kind::Uint8, Device::Cpu));
        let seen = network.features(&zeros).unwrap();
        assert_eq!(seen.pooled.size(), [shape[0], 256]);
        assert!(seen.logits.is_none());
    }
    // Other weights would be another network, whose distances do not compare.
    let black = Tensor::zeros([1, 3, 64, 64], (Kind::Uint8, Device::Cpu));
    let sum = network
        .features(&black)
        .unwrap()
        .pooled
        .sum(Kind::Double)
        .double_value(&[]);
    assert!((sum - PINNED_SUM).abs() < 1e-3, "{sum}");
}

/// The sum of all features of a black image.
const PINNED_SUM: f64 = 32.8483;

#[test]
fn random_features_move_with_noise_and_blur() {
    let network = open(Network::Random, None, Dialect::Tf, Device::Cpu).unwrap();
    let clear = images(16, 32, 5.0);
    let noisy: Vec<f64> = [10.0, 20.0, 40.0]
        .map(|noise| apart(&*network, &clear, &images(16, 32, noise)))
        .into();
    assert!(noisy.is_sorted() && noisy[0] > 0.0, "{noisy:?}");
    let blurred: Vec<f64> = [3, 5, 9]
        .map(|k| {
            let x = images(16, 32, 40.0);
            let soft =
                x.to_kind(Kind::Float)
                    .avg_pool2d([k; 2], [1; 2], [k / 2; 2], false, false, None);
            apart(&*network, &x, &soft.to_kind(Kind::Uint8))
        })
        .into();
    assert!(blurred.is_sorted() && blurred[0] > 0.0, "{blurred:?}");
}

#[test]
fn what_is_no_image_is_refused() {
    let network = open(Network::Random, None, Dialect::Tf, Device::Cpu).unwrap();
    for (shape, kind) in [
        (&[1, 2, 8, 8][..], Kind::Uint8),
        (&[1, 4, 8, 8], Kind::Uint8),
        (&[0, 3, 8, 8], Kind::Uint8),
        (&[1, 3, 0, 8], Kind::Uint8),
        (&[3, 8, 8], Kind::Uint8),
        (&[1, 3, 8, 8], Kind::Float),
    ] {
        let images = Tensor::zeros(shape, (kind, Device::Cpu));
        let error = network.features(&images).unwrap_err().to_string();
        let found = format!("found {kind:?} of {shape:?}");
        assert!(error.ends_with(&found), "{error}");
    }
}

/// Writes a network of one block that takes x to `relu(2 x + 1)`, with this description.
fn write_small(path: &Path, about: &str, edit: impl Fn(&mut Tensors)) {
    let center = Tensor::zeros([1, 1, 3, 3], CPU);
    let _ = center.narrow(2, 1, 1).narrow(3, 1, 1).fill_(2.0);
    let mut tensors = vec![
        ("blocks.0.weight".to_owned(), center),
        ("blocks.0.bias".to_owned(), Tensor::ones([1], CPU)),
        (
            "head.weight".to_owned(),
            Tensor::from_slice(&[1f32, -1.0]).view([2, 1]),
        ),
        ("head.bias".to_owned(), Tensor::from_slice(&[0f32, 0.5])),
    ];
    edit(&mut tensors);
    let metadata = (small_cnn::METADATA_KEY.to_owned(), about.to_owned());
    safetensors::write(path, metadata, &tensors).unwrap();
}

const ABOUT: &str = r#"{"channels": 1, "size": 2, "widths": [1], "classes": 2}"#;

#[test]
fn a_small_classifier_computes_what_its_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.safetensors");
    write_small(&path, ABOUT, |_| ());
    let network = open(Network::SmallCnn, Some(&path), Dialect::Tf, Device::Cpu).unwrap();
    assert_eq!(network.dims(), 1);
    // -1, -0.6, 0.2, 1 become relu(-1, -0.2, 1.4, 3): mean 1.1.
    let image = bytes(&[0, 51, 153, 255], &[1, 1, 2, 2]);
    let seen = network.features(&image).unwrap();
    assert!((seen.pooled.double_value(&[0, 0]) - 1.1).abs() < 1e-6);
    let logits = Vec::<f32>::try_from(seen.logits.unwrap().get(0)).unwrap();
    assert!((logits[0] - 1.1).abs() < 1e-6 && (logits[1] + 0.6).abs() < 1e-6);
    // Each pixel four times: resized to the same.
    let large = image
        .repeat_interleave_self_int(2, 2, None)
        .repeat_interleave_self_int(2, 3, None);
    let seen = network.features(&large).unwrap();
    assert!((seen.pooled.double_value(&[0, 0]) - 1.1).abs() < 0.2);
    // Grey, read in three channels.
    let rgb = image.repeat([1, 3, 1, 1]);
    let seen = network.features(&rgb).unwrap();
    assert!((seen.pooled.double_value(&[0, 0]) - 1.1).abs() < 1e-6);
    let _ = rgb.narrow(1, 2, 1).fill_(7);
    let error = network.features(&rgb).unwrap_err().to_string();
    assert!(error.contains("trained on grey images"), "{error}");
}

#[test]
fn a_small_classifier_of_another_form_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.safetensors");
    let refusal = |about: &str, edit: &dyn Fn(&mut Tensors)| {
        write_small(&path, about, edit);
        format!("{:#}", open_small(&path).unwrap_err())
    };
    let described = |text: &str| refusal(text, &|_| ());
    for (about, wanted) in [
        ("{}", "missing field `channels`"),
        (
            &ABOUT.replace("}", ", \"depth\": 3}"),
            "unknown field `depth`",
        ),
        (
            &ABOUT.replace("\"channels\": 1", "\"channels\": 2"),
            "channels is 2, wanted 1 or 3",
        ),
        (
            &ABOUT.replace("[1]", "[]"),
            "widths has 0 entries, wanted 1 to 8",
        ),
        (
            &ABOUT.replace("[1]", "[1, 1, 1]"),
            "size is 2, wanted 4 to 1024 for 3 blocks",
        ),
        (
            &ABOUT.replace("\"classes\": 2", "\"classes\": 99999999"),
            "classes is 99999999, wanted 1 to 4096",
        ),
        (
            &ABOUT.replace("[1]", "[3]"),
            "blocks.0.weight is [1, 1, 3, 3], wanted [3, 1, 3, 3], blocks.0.bias is [1], wanted [3], head.weight is",
        ),
    ] {
        let error = described(about);
        assert!(
            error.contains(wanted) && error.contains("small.safetensors"),
            "{error}"
        );
    }
    let error = refusal(ABOUT, &|tensors| drop(tensors.pop()));
    assert!(
        error.contains("of the 4 tensors wanted it lacks head.bias"),
        "{error}"
    );
    let error = refusal(ABOUT, &|tensors| {
        tensors.push(("more".to_owned(), Tensor::zeros([1], CPU)))
    });
    assert!(
        error.contains("it holds more that the network does not have"),
        "{error}"
    );
    let error = refusal(ABOUT, &|tensors| {
        tensors[3].1 = Tensor::from_slice(&[1i64, 2])
    });
    assert!(error.contains("head.bias holds Int64"), "{error}");
    let error = refusal(ABOUT, &|tensors| {
        tensors[1].1 = Tensor::from_slice(&[f32::NAN])
    });
    assert!(error.contains("blocks.0.bias is not finite"), "{error}");
    let other = ("about".to_owned(), "else".to_owned());
    safetensors::write(&path, other, &[("w".to_owned(), Tensor::zeros([1], CPU))]).unwrap();
    let error = format!("{:#}", open_small(&path).unwrap_err());
    assert!(
        error.contains("without metadata of the name small-cnn"),
        "{error}"
    );
}
