//! Named parameters, and strict loading of them from a `state_dict`.

use std::collections::HashMap;

use anyhow::Result;
use tch::nn::VarStore;
use tch::{Device, Tensor, no_grad};

use super::classes::embeds_classes;

/// A trainable tensor and its `state_dict` key.
#[derive(Debug)]
pub struct Param {
    /// Key, for example `down.0.0.conv1.weight`.
    pub name: String,
    /// Shares storage with the network.
    pub tensor: Tensor,
}

impl Param {
    /// True for the scale or shift of a normalisation, or of a GAU's queries or keys: one value per channel,
    /// initially 1 (scale) or 0 (shift). A scale without a shift is called `g`.
    pub fn is_norm(&self) -> bool {
        const NAMES: [&str; 9] = [
            "norm",
            "norm1",
            "norm2",
            "group_norm",
            "norm_out",
            "conv_norm_out",
            "q_affine",
            "k_affine",
            "g",
        ];
        self.name.split('.').any(|part| NAMES.contains(&part))
    }

    /// True for the bias of a linear map or a convolution.
    pub fn is_bias(&self) -> bool {
        self.name.ends_with(".bias") && !self.is_norm()
    }
}

/// Moves the storage of `params` to `device`; on CPU, convolution weights become channels-last, as in training.
///
/// # Errors
/// Out of memory on `device`.
pub(super) fn move_params(params: &[Param], device: Device) -> Result<()> {
    for param in params {
        let mut moved = param.tensor.detach().f_to_device(device)?;
        if device == Device::Cpu && moved.dim() == 4 {
            moved = channels_last(&moved);
        }
        param.tensor.shallow_clone().set_data(&moved);
    }
    Ok(())
}

/// Lays the weights of convolutions out channels last.
pub(super) fn put_channels_last(params: &[Param]) {
    for param in params.iter().filter(|param| param.tensor.dim() == 4) {
        let last = channels_last(&param.tensor.detach());
        param.tensor.shallow_clone().set_data(&last);
    }
}

/// `[A, B, C, D]` in channels-last memory: B innermost.
pub(super) fn channels_last(tensor: &Tensor) -> Tensor {
    tensor
        .permute([0, 2, 3, 1])
        .contiguous()
        .permute([0, 3, 1, 2])
}

/// The trainable tensors of a store in creation order.
///
/// `VarStore` keeps names and order apart (`variables()` has no stable order,
/// `trainable_variables()` no names); storage addresses join them.
pub fn params_of(store: &VarStore) -> Vec<Param> {
    let names: HashMap<_, _> = store
        .variables()
        .into_iter()
        .map(|(name, tensor)| (tensor.data_ptr(), name))
        .collect();
    store
        .trainable_variables()
        .into_iter()
        .map(|tensor| Param {
            name: names[&tensor.data_ptr()].clone(),
            tensor,
        })
        .collect()
}

/// A `state_dict` whose keys or shapes do not fit the network.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "these weights are of another network{}{}{}{}",
    differing_classes(missing, unexpected),
    list("\n  missing: ", missing),
    list("\n  unexpected: ", unexpected),
    list("\n  wrong shape: ", misshaped)
)]
pub struct StateDictError {
    /// Keys that the network has but the file does not.
    pub missing: Vec<String>,
    /// Keys that the file has but the network does not.
    pub unexpected: Vec<String>,
    /// `key [seen], want [wanted]`.
    pub misshaped: Vec<String>,
}

/// What is known of two networks that differ in classes alone.
fn differing_classes(missing: &[String], unexpected: &[String]) -> &'static str {
    let only_of_classes = |names: &[String]| names.iter().all(|name| embeds_classes(name));
    match (missing, unexpected) {
        ([], []) => "",
        (missing, []) if only_of_classes(missing) => ", one with fewer classes or none",
        ([], unexpected) if only_of_classes(unexpected) => ", one with more classes",
        _ => "",
    }
}

fn list(head: &str, items: &[String]) -> String {
    if items.is_empty() {
        String::new()
    } else {
        format!("{head}{}", items.join(head))
    }
}

/// Copies `state` into `params`, which must match it key by key and shape by shape.
///
/// # Errors
/// Lists every missing, unexpected and misshaped key; nothing is copied then.
pub fn load_state_dict(
    params: &[Param],
    state: &[(String, Tensor)],
) -> std::result::Result<(), StateDictError> {
    let given: HashMap<&str, &Tensor> = state.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let mut error = StateDictError {
        missing: vec![],
        unexpected: vec![],
        misshaped: vec![],
    };
    for p in params {
        match given.get(p.name.as_str()) {
            None => error.missing.push(p.name.clone()),
            Some(t) if t.size() != p.tensor.size() => {
                error.misshaped.push(format!(
                    "{} {:?}, want {:?}",
                    p.name,
                    t.size(),
                    p.tensor.size()
                ));
            }
            Some(_) => {}
        }
    }
    let known: std::collections::HashSet<&str> = params.iter().map(|p| p.name.as_str()).collect();
    error.unexpected = state
        .iter()
        .map(|(k, _)| k)
        .filter(|k| !known.contains(k.as_str()))
        .cloned()
        .collect();
    if error
        != (StateDictError {
            missing: vec![],
            unexpected: vec![],
            misshaped: vec![],
        })
    {
        return Err(error);
    }
    no_grad(|| {
        for p in params {
            p.tensor.shallow_clone().copy_(given[p.name.as_str()]);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// In networks whose convolutions have no biases, every vector belongs to a norm. In all networks, every
    /// vector is a norm's or a bias, and no matrix is.
    #[test]
    fn scales_and_shifts_are_told_from_weights() {
        use crate::config::ModelKind;
        use crate::model::Model;
        for kind in [
            ModelKind::Unet,
            ModelKind::UnetAttention,
            ModelKind::UnetConcat,
            ModelKind::Gau,
        ] {
            let mut model = kind.config([3, 64, 64]);
            match &mut model {
                crate::config::ModelConfig::Gau(m) => (m.base_width, m.units) = (8, 8),
                crate::config::ModelConfig::UnetConcat(m) => m.base_width = 32,
                _ => {}
            }
            for p in Model::new(&model, 4, 0).params() {
                let vector = p.tensor.dim() == 1;
                assert_eq!(vector, p.is_norm() || p.is_bias(), "{}", p.name);
                let biased = !matches!(kind, ModelKind::Unet | ModelKind::UnetConcat);
                assert!(biased || !p.is_bias(), "{}", p.name);
            }
        }
    }

    #[test]
    fn everything_that_does_not_fit_is_named_and_nothing_is_copied() {
        let store = VarStore::new(Device::Cpu);
        let root = &store.root();
        let a = (root / "a").zeros("weight", &[2]);
        let _ = (root / "b").zeros("weight", &[3]);
        let _ = (root / "c").zeros("weight", &[1]);
        let ones = |n: i64| Tensor::ones([n], (Kind::Float, Device::Cpu));
        let state = [
            ("a.weight".into(), ones(2)),
            ("b.weight".into(), ones(4)),
            ("d".into(), ones(1)),
        ];
        let error = load_state_dict(&params_of(&store), &state).unwrap_err();
        assert_eq!(error.missing, ["c.weight"]);
        assert_eq!(error.unexpected, ["d"]);
        assert_eq!(error.misshaped, ["b.weight [4], want [3]"]);
        assert!(error.to_string().contains("\n  missing: c.weight"));
        assert_eq!(f64::try_from(a.sum(Kind::Float)).unwrap(), 0.0);
    }
}
