//! A whole file of the package's `Trainer`, for export.
//!
//! `Trainer.load` of 2.3.4 reads `model-{milestone}.pt` with `torch.load(weights_only=True)` and requires
//! six entries: `step`; `model`, the `GaussianDiffusion`'s `state_dict`; `opt`, Adam's, whose
//! empty `state` means that it has not stepped; `ema`, that of ema-pytorch's `EMA`, which holds the model
//! twice; `scaler`, `None` without mixed precision; `version`, which is printed.

use anyhow::Result;
use tch::Tensor;

use super::diffusion::buffers;
use crate::config::DiffusionConfig;
use crate::formats::pt::write::Item;
use crate::formats::state_dict::tensor_item;

/// Version of the package with this layout.
const VERSION: &str = "2.3.4";

/// The file: `weights` are the U-Net's under its own keys, in the order of `layout`, and stand for both the
/// trained and the averaged ones.
///
/// # Errors
/// A dtype that PyTorch files do not have.
pub(in crate::interop) fn file(
    step: u64,
    diffusion: &DiffusionConfig,
    weights: &[(String, Tensor)],
) -> Result<Item<'static>> {
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    let model = model(diffusion, weights);
    let ema = ema(step, &model);
    Ok(Item::Dict(vec![
        ("step".into(), Item::Int(step)),
        ("model".into(), state_dict(&model)?),
        ("opt".into(), fresh_adam(weights.len())),
        ("ema".into(), state_dict(&ema)?),
        ("scaler".into(), Item::None),
        ("version".into(), Item::Text(VERSION.into())),
    ]))
}

fn state_dict(entries: &[(String, Tensor)]) -> Result<Item<'static>> {
    let item = |(key, t): &(String, Tensor)| Ok((key.clone(), tensor_item(t)?));
    Ok(Item::OrderedDict(
        entries.iter().map(item).collect::<Result<_>>()?,
    ))
}

/// The 13 buffers, then the U-Net's weights under `model.`.
pub(super) fn model(
    diffusion: &DiffusionConfig,
    weights: &[(String, Tensor)],
) -> Vec<(String, Tensor)> {
    let tables = buffers(diffusion).into_iter();
    let tables = tables.map(|(name, values)| (name.to_owned(), Tensor::from_slice(&values)));
    let weights = weights.iter();
    let weights = weights.map(|(key, t)| (format!("model.{key}"), t.shallow_clone()));
    tables.chain(weights).collect()
}

/// `initted` and `step` (ema-pytorch 0.4 to 0.8.3 has them as scalars, bool and int64), then the model as `online_model.` and as `ema_model.`.
pub(super) fn ema(step: i64, model: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let mut entries = vec![
        ("initted".to_owned(), Tensor::from(true)),
        ("step".to_owned(), Tensor::from(step)),
    ];
    for prefix in ["online_model.", "ema_model."] {
        let prefixed = |(key, t): &(String, Tensor)| (format!("{prefix}{key}"), t.shallow_clone());
        entries.extend(model.iter().map(prefixed));
    }
    entries
}

/// Adam as `Trainer` makes it by default, before its first step.
fn fresh_adam(parameters: usize) -> Item<'static> {
    let indices = (0..parameters).map(|i| Item::Int(i as i64)).collect();
    let group = [
        ("lr", Item::Float(1e-4)),
        (
            "betas",
            Item::Tuple(vec![Item::Float(0.9), Item::Float(0.99)]),
        ),
        ("eps", Item::Float(1e-8)),
        ("weight_decay", Item::Float(0.0)),
        ("amsgrad", Item::Bool(false)),
        ("maximize", Item::Bool(false)),
        ("foreach", Item::None),
        ("capturable", Item::Bool(false)),
        ("differentiable", Item::Bool(false)),
        ("fused", Item::None),
        ("params", Item::List(indices)),
    ];
    let group = group.map(|(key, item)| (key.to_owned(), item));
    Item::Dict(vec![
        ("state".into(), Item::Dict(vec![])),
        (
            "param_groups".into(),
            Item::List(vec![Item::Dict(group.into())]),
        ),
    ])
}
