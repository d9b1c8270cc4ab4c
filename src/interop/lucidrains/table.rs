//! Every key and shape of the package's two U-Nets, for reading and writing files.
//!
//! Separate from the network, so that a file is checked before memory is allocated for a network of its
//! size.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::{MEMORIES, NULL_CLASS};
use crate::config::{LucidrainsConfig, LucidrainsNorm, LucidrainsStructure};
use crate::interop::Keys;

/// Most keys that an error lists.
const MAX_LISTED: usize = 8;

/// Keys and shapes in the order of the `state_dict`.
pub(super) fn parameters(config: &LucidrainsConfig) -> Vec<(String, Vec<i64>)> {
    let mut table = Table {
        rows: Vec::new(),
        config,
    };
    let levels = config.multipliers.len();
    let (base, init) = (config.base_width, config.init_width);
    let scaled = config.multipliers.iter().map(|m| m * base);
    let widths: Vec<i64> = [init].into_iter().chain(scaled).collect();
    let mid = widths[levels];

    if config.null_class {
        table.rows.push((NULL_CLASS.to_owned(), vec![base]));
    }
    table.conv("init_conv", config.channels, init, 7);
    table.linear("time_mlp.1", base, 4 * base);
    table.linear("time_mlp.3", 4 * base, 4 * base);
    if let Some(classes) = config.classes {
        table.add("classes_emb", "weight", &[classes, base]);
        table.linear("classes_mlp.0", base, 4 * base);
        table.linear("classes_mlp.2", 4 * base, 4 * base);
    }
    for i in 0..levels {
        let (path, here, next) = (format!("downs.{i}"), widths[i], widths[i + 1]);
        table.level(&path, here, here, i);
        if i + 1 == levels {
            table.conv(&format!("{path}.3"), here, next, 3);
        } else if table.is_main() {
            table.conv(&format!("{path}.3.1"), 4 * here, next, 1);
        } else {
            table.conv(&format!("{path}.3"), here, next, 4);
        }
    }
    for (u, i) in (0..levels).rev().enumerate() {
        let (path, here, next) = (format!("ups.{u}"), widths[i + 1], widths[i]);
        table.level(&path, here + next, here, i);
        let inner = if i > 0 { "3.1" } else { "3" };
        table.conv(&format!("{path}.{inner}"), here, next, 3);
    }
    table.block("mid_block1", mid, mid);
    table.attention("mid_attn", mid, levels - 1, true);
    table.block("mid_block2", mid, mid);
    table.block("final_res_block", 2 * init, init);
    let out = config.channels * if config.learned_variance { 2 } else { 1 };
    table.conv("final_conv", init, out, 1);
    table.rows
}

struct Table<'a> {
    rows: Vec<(String, Vec<i64>)>,
    config: &'a LucidrainsConfig,
}

impl Table<'_> {
    fn is_main(&self) -> bool {
        self.config.structure == LucidrainsStructure::Main
    }

    fn add(&mut self, path: &str, name: &str, shape: &[i64]) {
        self.rows.push((format!("{path}.{name}"), shape.to_vec()));
    }

    fn conv(&mut self, path: &str, c_in: i64, c_out: i64, kernel: i64) {
        self.add(path, "weight", &[c_out, c_in, kernel, kernel]);
        self.add(path, "bias", &[c_out]);
    }

    fn linear(&mut self, path: &str, c_in: i64, c_out: i64) {
        self.add(path, "weight", &[c_out, c_in]);
        self.add(path, "bias", &[c_out]);
    }

    fn block(&mut self, path: &str, c_in: i64, c_out: i64) {
        // Of t, and of the class beside it.
        let embeddings = if self.config.classes.is_some() { 2 } else { 1 };
        let embedded = embeddings * 4 * self.config.base_width;
        self.linear(&format!("{path}.mlp.1"), embedded, 2 * c_out);
        for (half, c_in) in [("block1", c_in), ("block2", c_out)] {
            self.conv(&format!("{path}.{half}.proj"), c_in, c_out, 3);
            let norm = format!("{path}.{half}.norm");
            match self.config.norm {
                LucidrainsNorm::Rms => self.add(&norm, "g", &[1, c_out, 1, 1]),
                LucidrainsNorm::Group => {
                    self.add(&norm, "weight", &[c_out]);
                    self.add(&norm, "bias", &[c_out]);
                }
            }
        }
        if c_in != c_out {
            self.conv(&format!("{path}.res_conv"), c_in, c_out, 1);
        }
    }

    fn attention(&mut self, path: &str, width: i64, level: usize, full: bool) {
        let (heads, each) = (self.config.heads[level], self.config.head_channels[level]);
        let hidden = heads * each;
        let memory = if full {
            [MEMORIES, each]
        } else {
            [each, MEMORIES]
        };
        if self.is_main() {
            self.add(path, "mem_kv", &[2, heads, memory[0], memory[1]]);
            self.add(path, "norm.g", &[1, width, 1, 1]);
            self.attend(path, hidden, width, full);
        } else {
            // Its wrappers list what is within first.
            self.attend(&format!("{path}.fn.fn"), hidden, width, full);
            self.add(path, "fn.norm.g", &[1, width, 1, 1]);
        }
    }

    fn attend(&mut self, path: &str, hidden: i64, width: i64, full: bool) {
        self.add(path, "to_qkv.weight", &[3 * hidden, width, 1, 1]);
        if full {
            self.conv(&format!("{path}.to_out"), hidden, width, 1);
        } else {
            self.conv(&format!("{path}.to_out.0"), hidden, width, 1);
            self.add(path, "to_out.1.g", &[1, width, 1, 1]);
        }
    }

    /// The two blocks and the attention of a level.
    fn level(&mut self, path: &str, c_in: i64, width: i64, level: usize) {
        self.block(&format!("{path}.0"), c_in, width);
        self.block(&format!("{path}.1"), c_in, width);
        let full = self.config.full_attention[level];
        self.attention(&format!("{path}.2"), width, level, full);
    }
}

/// Checks every key and shape of a file against the table.
///
/// # Errors
/// The first few that are missing, of another shape, or unexpected.
pub(super) fn check(keys: &Keys, config: &LucidrainsConfig) -> Result<()> {
    let rows = parameters(config);
    let wanted: BTreeMap<&str, &[i64]> = rows
        .iter()
        .map(|(key, shape)| (key.as_str(), shape.as_slice()))
        .collect();
    let absent = rows
        .iter()
        .filter(|(key, _)| !keys.has(key))
        .map(|(key, shape)| format!("{key} is missing, want {shape:?}"));
    let others = keys.iter().filter_map(|(key, seen)| match wanted.get(key) {
        Some(want) if *want == seen => None,
        Some(want) => Some(format!("{key} is {seen:?}, want {want:?}")),
        None => Some(format!("{key} {seen:?} is not in this network")),
    });
    let wrong: Vec<String> = absent.chain(others).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let more = match wrong.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    bail!(
        "its tensors do not fit together as a U-Net of denoising-diffusion-pytorch 1.9 or later:\n  \
         {}{more}",
        wrong[..wrong.len().min(MAX_LISTED)].join("\n  ")
    )
}
