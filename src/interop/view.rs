//! One `state_dict` in a file, and the objects there that are not read.

use std::collections::HashMap;

use anyhow::{Result, bail};

use super::averages;
use super::keys::Keys;
use crate::checkpoint::Family;
use crate::formats::weights_file::{Node, TensorSlot};
use crate::text::{printable, shown};

/// Most networks that are looked for in one dict.
pub(super) const MOST_NETWORKS: usize = 64;
/// Most objects of other classes that an error lists.
const MOST_OBJECTS: usize = 8;

/// One `state_dict` in a file.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// The family whose network it fits.
    pub(super) family: Family,
    /// Path of keys to it, then its prefix, as in `ema.ema_model.model`.
    pub(super) path: String,
    /// The dict that holds it.
    pub(super) group: &'a [(String, Node)],
    /// Prefix of its keys there, for example `ema_model.model.`.
    pub(super) prefix: String,
    /// Its keys without the prefix.
    pub(super) keys: Keys,
    /// For keys that the dict spells otherwise than with the prefix before them, their names there.
    pub(super) names: HashMap<String, String>,
}

impl<'a> View<'a> {
    /// The whole of a file known to be of `family`.
    ///
    /// # Errors
    /// A file that is not a dict of tensors.
    pub(super) fn whole(family: Family, root: &'a Node) -> Result<View<'a>> {
        let Node::Group(group) = root else {
            bail!("it is {}, want a dict of tensors", root.kind());
        };
        Ok(View {
            family,
            path: String::new(),
            group,
            prefix: String::new(),
            keys: keys_of(group),
            names: HashMap::new(),
        })
    }
}

impl View<'_> {
    /// True if its path names averaged weights.
    pub(super) fn is_average(&self) -> bool {
        averages::named(&self.path)
    }

    /// The name in the dict of a key without the prefix.
    pub(super) fn name(&self, key: &str) -> String {
        let name = self.names.get(key).cloned();
        name.unwrap_or_else(|| format!("{}{key}", self.prefix))
    }

    /// The tensor at a key without the prefix.
    pub(super) fn slot(&self, key: &str) -> Option<&TensorSlot> {
        slot_at(self.group, &self.name(key))
    }

    /// The objects among its tensors, which are not read: a sentence for the error of what they leave out.
    pub(super) fn objects(&self) -> Option<String> {
        let below = |name: &String| name.starts_with(&self.prefix);
        let objects = self.group.iter().filter_map(|(name, node)| match node {
            Node::Object(class) if below(name) => Some((name.clone(), class.clone())),
            _ => None,
        });
        objects_text(objects.collect())
    }
}

/// The objects of other classes in a file, which are not read; `None` if there are none.
pub(super) fn objects_in(root: &Node) -> Option<String> {
    objects_text(root.objects(MOST_OBJECTS + 1))
}

fn objects_text(objects: Vec<(String, String)>) -> Option<String> {
    let list = |(name, class): &(String, String)| format!("{} ({class})", printable(&shown(name)));
    let mut listed: Vec<String> = objects.iter().take(MOST_OBJECTS).map(list).collect();
    if objects.len() > MOST_OBJECTS {
        listed.push("…".to_owned());
    }
    (!listed.is_empty()).then(|| {
        format!(
            "objects of Python classes are not read: {}; if the weights are in one, load the file in Python and save \
             them alone: torch.save(model.state_dict(), FILE)",
            listed.join(", ")
        )
    })
}

/// The tensor at `key` of a dict.
pub(super) fn slot_at<'a>(group: &'a [(String, Node)], key: &str) -> Option<&'a TensorSlot> {
    group.iter().find_map(|(name, node)| match node {
        Node::Tensor(slot) if name == key => Some(slot),
        _ => None,
    })
}

/// The tensors of a dict, with their shapes.
pub(super) fn keys_of(group: &[(String, Node)]) -> Keys {
    let tensors = group.iter().filter_map(|(name, node)| match node {
        Node::Tensor(slot) => Some((name.clone(), slot.shape.clone())),
        _ => None,
    });
    tensors.collect()
}
