//! Weights of a network in a larger one: with classes, with one class more, or with an image beside x_t.

use std::fmt;

use tch::{Kind, Tensor, no_grad};

use super::classes::{CLASS_TABLE, embeds_classes};
use super::params::{Param, StateDictError, load_state_dict};

/// A tensor that is larger in the network than in a file, or new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grown {
    /// Its key.
    pub name: String,
    /// Its shape in the file, if it is there.
    pub from: Option<Vec<i64>>,
    /// Its shape in the network.
    pub to: Vec<i64>,
}

impl fmt::Display for Grown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grown { name, from, to } = self;
        match from {
            None => write!(f, "{name} {to:?} is new"),
            Some(from) => write!(f, "{name} grows from {from:?} to {to:?}"),
        }
    }
}

/// Copies `state`, the weights of the same network without classes, or with as many classes but no "no class", or without
/// an image beside x_t, into `params`; returns what that network lacks.
///
/// A new class embedding that is added to t's begins small, so that the network begins nearly as the function of the weights:
/// not with zeros, from which LAMB, whose steps are as long as the weights allow, would hardly get away. New columns of
/// lucidrains' blocks, which read the class beside t, are zeros, and so is a row for "no class" in an embedding that is there.
/// What embeds the class in lucidrains' network keeps its initial values. The weights by which the first layer reads the
/// image beside x_t are zeros.
///
/// # Errors
/// Keys or shapes of `state` that do not belong to such a network; nothing is copied then.
pub fn load_and_grow(
    params: &[Param],
    state: &[(String, Tensor)],
) -> Result<Vec<Grown>, StateDictError> {
    let mut grown = Vec::new();
    let mut whole: Vec<(String, Tensor)> = state
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
        .collect();
    for Param { name, tensor } in params {
        let given = whole.iter_mut().find(|(given, _)| given == name);
        let to = tensor.size();
        match given {
            Some((_, given)) => {
                let from = given.size();
                if let Some(larger) = padded(name, given, &to) {
                    *given = larger;
                    let (name, from) = (name.clone(), Some(from));
                    grown.push(Grown { name, from, to });
                }
            }
            None if embeds_classes(name) => {
                let initial = match name == CLASS_TABLE {
                    true => small(tensor),
                    false => tensor.detach().copy(),
                };
                whole.push((name.clone(), initial));
                let (name, from) = (name.clone(), None);
                grown.push(Grown { name, from, to });
            }
            None => {}
        }
    }
    load_state_dict(params, &whole)?;
    Ok(grown)
}

/// Largest standard deviation of a new class embedding: that of a new network of Keras-DDPM's.
const SMALL: f64 = 0.03;

/// The initial values of a tensor, or those on a smaller scale.
fn small(tensor: &Tensor) -> Tensor {
    let initial = tensor.detach();
    let deviation = initial.std(false).double_value(&[]);
    initial * (SMALL / deviation.max(SMALL))
}

/// The tensor with zeros where the network's is larger: a row of "no class" at the end of a class embedding, columns by
/// which a block of lucidrains' reads the class, or those by which a first layer reads an image beside x_t. None where
/// nothing grows.
fn padded(name: &str, given: &Tensor, to: &[i64]) -> Option<Tensor> {
    let from = given.size();
    let (&[rows, columns, ..], true) = (&from[..], from.len() == to.len()) else {
        return None;
    };
    let null_row = name == CLASS_TABLE && *to == [rows + 1, columns];
    let class_columns = name.ends_with(".mlp.1.weight") && *to == [rows, 2 * columns];
    let condition =
        FIRST_LAYERS.contains(&name) && (to[0], to[1], &to[2..]) == (rows, 2 * columns, &from[2..]);
    if !null_row && !class_columns && !condition {
        return None;
    }
    no_grad(|| {
        let larger = Tensor::zeros(to, (Kind::Float, given.device()));
        let mut old = larger.narrow(0, 0, rows).narrow(1, 0, columns);
        old.copy_(given);
        Some(larger)
    })
}

/// What reads x_t in a network of each kind. The image beside it comes behind it, with as many channels.
const FIRST_LAYERS: [&str; 3] = ["conv_in.weight", "init_conv.weight", "patch_in.weight"];

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::config::{ModelConfig, ModelKind, Preset, UpscaleConfig};
    use crate::model::Model;
    use crate::model::tests::{KINDS, batch, small};

    fn state(net: &Model) -> Vec<(String, Tensor)> {
        let params = net.params().into_iter();
        params.map(|p| (p.name, p.tensor.detach())).collect()
    }

    fn drawn(model: &ModelConfig, seed: u64) -> Model {
        let net = Model::new(model, 100, seed);
        // Layers that start near zero would hide what is before them.
        for p in net.params() {
            if p.tensor.dim() > 1 && p.tensor.abs().max().double_value(&[]) < 1e-4 {
                let _ = no_grad(|| p.tensor.shallow_clone().g_mul_scalar_(1e5));
            }
        }
        net
    }

    #[test]
    fn a_network_that_grows_classes_begins_nearly_with_the_function_of_its_weights() {
        for kind in KINDS {
            let plain = small(kind);
            let old = drawn(&plain, 0);
            let (x, t) = batch(2);
            let want = no_grad(|| old.forward(&x, &t, None, false));
            let mut model = plain.clone();
            model.set_classes(Some(5), true);
            let new = drawn(&model, 1);
            let grown = load_and_grow(&new.params(), &state(&old)).unwrap();
            let said: Vec<String> = grown.iter().map(ToString::to_string).collect();
            if kind == ModelKind::Lucidrains {
                assert!(
                    said.contains(&"null_classes_emb [8] is new".to_owned()),
                    "{said:?}"
                );
                let block = "downs.0.0.mlp.1.weight grows from [16, 32] to [16, 64]";
                assert!(said.contains(&block.to_owned()), "{said:?}");
            } else {
                assert_eq!(grown.len(), 1, "{said:?}");
                assert!(
                    said[0].starts_with("class_embedding.weight [6, "),
                    "{said:?}"
                );
            }
            for class in [0i64, 5] {
                let classes = Tensor::from_slice(&[class, 2]);
                let got = no_grad(|| new.forward(&x, &t, Some(&classes), false));
                let error = f64::try_from((&got - &want).norm() / want.norm()).unwrap();
                // A longer sum of f32, half of it zeros; elsewhere a small embedding is added to t's.
                let limit = if kind == ModelKind::Lucidrains {
                    1e-5
                } else {
                    0.2
                };
                println!("{kind:?}: {error}");
                assert!(error <= limit, "{kind:?}: {error}");
            }
            // And on from there: nothing grows any more.
            assert_eq!(
                load_and_grow(&drawn(&model, 2).params(), &state(&new)),
                Ok(vec![])
            );
        }
    }

    #[test]
    fn a_network_that_grows_a_condition_begins_as_the_function_of_its_weights() {
        for kind in KINDS {
            let mut config = Preset::Demo.config();
            config.model = small(kind);
            let old = drawn(&config.model, 0);
            let (x, t) = batch(2);
            let want = no_grad(|| old.forward(&x, &t, None, false));
            config.set_upscale(Some(UpscaleConfig::by(4)));
            let new = drawn(&config.model, 1);
            let grown = load_and_grow(&new.params(), &state(&old)).unwrap();
            assert_eq!(grown.len(), 1, "{kind:?}");
            assert!(FIRST_LAYERS.contains(&&*grown[0].name), "{kind:?}");
            let condition = Tensor::randn(x.size(), (Kind::Float, Device::Cpu));
            let input = Tensor::cat(&[&x, &condition], 1);
            let got = no_grad(|| new.forward(&input, &t, None, false));
            let error = f64::try_from((&got - &want).norm() / want.norm()).unwrap();
            // A longer sum of f32, half of it zeros.
            assert!(error <= 1e-5, "{kind:?}: {error}");
            assert_eq!(load_and_grow(&new.params(), &state(&new)), Ok(vec![]));
        }
    }

    #[test]
    fn classes_get_their_null_class_and_keep_their_rows() {
        let mut model = small(ModelKind::UnetAttention);
        model.set_classes(Some(3), false);
        let old = Model::new(&model, 100, 0);
        model.set_classes(Some(3), true);
        let new = Model::new(&model, 100, 1);
        let grown = load_and_grow(&new.params(), &state(&old)).unwrap();
        assert_eq!((grown.len(), &grown[0].from), (1, &Some(vec![3, 32])));
        let rows = |net: &Model| {
            let found = state(net).into_iter().find(|(name, _)| name == CLASS_TABLE);
            found.unwrap().1
        };
        assert_eq!(rows(&new).narrow(0, 0, 3), rows(&old));
        assert_eq!(
            rows(&new).narrow(0, 3, 1).abs().max().double_value(&[]),
            0.0
        );
    }

    #[test]
    fn weights_of_another_network_are_refused_and_nothing_is_copied() {
        let mut model = small(ModelKind::Unet);
        let old = Model::new(&model, 100, 0);
        model.set_classes(Some(3), false);
        let new = Model::new(&model, 100, 1);
        let before: Vec<Tensor> = new.params().iter().map(|p| p.tensor.copy()).collect();
        let mut other = state(&old);
        other.retain(|(name, _)| name != "conv_in.weight");
        let error = load_and_grow(&new.params(), &other).unwrap_err();
        assert_eq!(error.missing, ["conv_in.weight"]);
        let (to, from) = (state(&new), state(&old));
        let error = load_state_dict(&old.params(), &to).unwrap_err().to_string();
        assert!(
            error.contains("network, one with more classes\n"),
            "{error}"
        );
        let error = load_state_dict(&new.params(), &from)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("network, one with fewer classes or none\n"),
            "{error}"
        );
        // Another number of classes is another network.
        let mut more = state(&new);
        for (name, tensor) in &mut more {
            if name == CLASS_TABLE {
                *tensor = Tensor::zeros([9, 16], (Kind::Float, Device::Cpu));
            }
        }
        let error = load_and_grow(&new.params(), &more).unwrap_err();
        assert_eq!(
            error.misshaped,
            ["class_embedding.weight [9, 16], want [3, 16]"]
        );
        for (p, before) in new.params().iter().zip(before) {
            assert_eq!(p.tensor.detach(), before, "{}", p.name);
        }
    }
}
