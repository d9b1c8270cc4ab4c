//! Weights of a feature network, by the names and shapes that it wants.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, bail, ensure};
use tch::{Kind, Tensor};

use crate::formats::finite::check_finite;
use crate::formats::weights_file::{TensorSlot, WeightsFile};
use crate::text::{plural, printable, shown};

/// Most names or shapes that a message lists.
const MAX_LISTED: usize = 4;

/// Reads the tensors of a file that must hold exactly those `wanted`, each by its name and shapes that it may have;
/// those that are `ignored` may be there or not. Returns them in f64 on the CPU, finite.
///
/// # Errors
/// Tensors that are missing, too many, of other shapes or kinds, or not finite: all of the first such group are listed.
pub(super) fn read(
    file: &WeightsFile,
    network: &str,
    wanted: &[(String, Vec<Vec<i64>>)],
    ignored: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Tensor>> {
    let slots = file.all_slots();
    let refuse = |what: String| -> Result<()> {
        bail!(
            "{} does not hold the weights of {network}: {what}",
            file.path.display()
        )
    };
    let found: BTreeMap<&str, &TensorSlot> = (slots.iter())
        .map(|(name, slot)| (name.as_str(), *slot))
        .collect();
    let missing: Vec<String> = (wanted.iter())
        .filter(|(name, _)| !found.contains_key(name.as_str()))
        .map(|(name, _)| name.clone())
        .collect();
    if !missing.is_empty() {
        refuse(format!(
            "of the {} wanted it lacks {}",
            plural(wanted.len() as u64, "tensor"),
            listed(&missing)
        ))?;
    }
    let names: HashSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    let extra: Vec<String> = (slots.iter())
        .filter(|(name, _)| !names.contains(name.as_str()) && !ignored(name))
        .map(|(name, _)| printable(&shown(name)))
        .collect();
    if !extra.is_empty() {
        refuse(format!(
            "it holds {} that the network does not have",
            listed(&extra)
        ))?;
    }
    ensure!(
        found.len() == slots.len(),
        "{}: two tensors have the same name",
        file.path.display()
    );
    let other: Vec<String> = (wanted.iter())
        .filter(|(name, shapes)| !shapes.contains(&found[name.as_str()].shape))
        .map(|(name, shapes)| {
            let shape = &found[name.as_str()].shape;
            format!("{name} is {shape:?}, wanted {:?}", shapes[0])
        })
        .collect();
    if !other.is_empty() {
        refuse(listed(&other))?;
    }
    let order: Vec<(&str, &TensorSlot)> = (wanted.iter())
        .map(|(name, _)| (name.as_str(), found[name.as_str()]))
        .collect();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in file.tensors(&order)? {
        if !tensor.is_floating_point() {
            let kind = tensor.kind();
            refuse(format!(
                "{name} holds {kind:?}, wanted floating-point numbers"
            ))?;
        }
        let tensor = tensor.f_to_kind(Kind::Double)?;
        check_finite(&name, &tensor)
            .map_err(|error| anyhow::Error::new(error).context(cannot_use(file)))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// What the file's other errors begin with.
pub(super) fn cannot_use(file: &WeightsFile) -> String {
    format!("cannot use the weights of {}", file.path.display())
}

/// The first few of some names, and how many there are.
pub(super) fn listed(names: &[String]) -> String {
    let first = names[..names.len().min(MAX_LISTED)].join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
