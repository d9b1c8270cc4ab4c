//! The layout of a family's file: the network's settings and the family's names in one table.

use anyhow::{Result, bail, ensure};

use super::names::{AttentionNames, Grid, Kind, Names, Place, modules, ours};
use crate::config::AttentionUNetConfig;
use crate::interop::{Entry, Form, Keys};

/// One tensor of theirs.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::interop) struct TheirTensor {
    /// The tensors of ours in it.
    pub(in crate::interop) entry: Entry,
    /// Its shape in their file.
    pub(in crate::interop) shape: Vec<i64>,
}

/// Every tensor of a network under a family's names.
pub(in crate::interop) fn tensors(config: &AttentionUNetConfig, names: &Names) -> Vec<TheirTensor> {
    let grid = Grid::of(config);
    let mut layout = Layout {
        names,
        scale_shift: config.scale_shift,
        time_width: config.time_width,
        tensors: Vec::new(),
    };
    for (place, kind) in modules(config) {
        layout.module(place, kind, grid);
    }
    layout.tensors
}

/// The entries of a layout.
pub(in crate::interop) fn entries(tensors: Vec<TheirTensor>) -> Vec<Entry> {
    tensors.into_iter().map(|tensor| tensor.entry).collect()
}

/// Refuses a file whose tensors are not exactly these.
///
/// # Errors
/// The first tensor that is missing, of another shape, or too many.
pub(in crate::interop) fn check(keys: &Keys, tensors: &[TheirTensor]) -> Result<()> {
    let mut left: std::collections::BTreeMap<&str, &[i64]> = keys.iter().collect();
    for TheirTensor { entry, shape } in tensors {
        match left.remove(entry.theirs.as_str()) {
            Some(seen) => ensure!(
                seen == shape,
                "tensor {} is {seen:?}, want {shape:?} to fit the others in this file",
                entry.theirs
            ),
            None => bail!(
                "no tensor {}, want one of {shape:?}: the file is damaged, or its network is of \
                 another kind",
                entry.theirs
            ),
        }
    }
    if let Some((name, shape)) = left.first_key_value() {
        bail!(
            "tensor {name} of {shape:?} has no place in a network like this one ({} more are \
             unexpected)",
            left.len() - 1
        );
    }
    Ok(())
}

struct Layout<'a> {
    names: &'a Names,
    scale_shift: bool,
    time_width: i64,
    tensors: Vec<TheirTensor>,
}

impl Layout<'_> {
    fn module(&mut self, place: Place, kind: Kind, grid: Grid) {
        let theirs = (self.names.module)(place, grid);
        let ours = ours(place, grid);
        match kind {
            Kind::Norm { channels } => self.norm(&theirs, &ours, channels),
            Kind::Conv { from, to } => self.conv(&theirs, &ours, from, to, 3),
            Kind::Linear { from, to } => {
                let form = if place == Place::TimeIn && self.names.interleaved_sines {
                    Form::InterleavedColumns
                } else {
                    Form::Same
                };
                self.pair(&theirs, &ours, vec![to, from], form);
            }
            Kind::Table { rows, columns } => {
                let (theirs, ours) = (format!("{theirs}.weight"), format!("{ours}.weight"));
                self.tensor(Entry::same(theirs, ours), vec![rows, columns]);
            }
            Kind::Resnet { from, to } => self.resnet(&theirs, &ours, from, to),
            Kind::Attention {
                channels,
                norm,
                heads,
            } => self.attention(&theirs, &ours, channels, norm, heads),
        }
    }

    fn resnet(&mut self, theirs: &str, ours: &str, from: i64, to: i64) {
        let names = &self.names.resnet;
        let at = |part: &str| format!("{theirs}.{part}");
        let our = |part: &str| format!("{ours}.{part}");
        let time_rows = if self.scale_shift { 2 * to } else { to };
        self.norm(&at(names.norm1), &our("norm1"), from);
        self.conv(&at(names.conv1), &our("conv1"), from, to, 3);
        self.pair(
            &at(names.time),
            &our("time_emb_proj"),
            vec![time_rows, self.time_width],
            Form::Same,
        );
        self.norm(&at(names.norm2), &our("norm2"), to);
        self.conv(&at(names.conv2), &our("conv2"), to, to, 3);
        if from != to {
            self.conv(&at(names.shortcut), &our("conv_shortcut"), from, to, 1);
        }
    }

    fn attention(&mut self, theirs: &str, ours: &str, channels: i64, norm: bool, heads: i64) {
        let at = |part: &str| format!("{theirs}.{part}");
        let our = |part: &str| format!("{ours}.{part}");
        let square = || vec![channels, channels];
        let group_norm = self.names.attention.norm();
        if norm {
            self.norm(&at(group_norm), &our("group_norm"), channels);
        }
        match &self.names.attention {
            AttentionNames::Separate { qkv, out, .. } => {
                let form = || Form::Pointwise { ones: 2 };
                for (part, to) in qkv.iter().zip(["to_q", "to_k", "to_v"]) {
                    self.pair(&at(part), &our(to), square(), form());
                }
                self.pair(&at(out), &our("to_out.0"), square(), form());
            }
            AttentionNames::Fused {
                qkv, out, order, ..
            } => {
                for (leaf, ones) in [("weight", 1), ("bias", 0)] {
                    let entry = Entry {
                        theirs: at(&format!("{qkv}.{leaf}")),
                        ours: ["to_q", "to_k", "to_v"]
                            .map(|to| our(&format!("{to}.{leaf}")))
                            .to_vec(),
                        form: Form::Qkv {
                            heads,
                            order: *order,
                            ones,
                        },
                    };
                    let mut shape = vec![3 * channels];
                    if leaf == "weight" {
                        shape.extend([channels, 1]);
                    }
                    self.tensor(entry, shape);
                }
                let form = Form::Pointwise { ones: 1 };
                self.pair(&at(out), &our("to_out.0"), square(), form);
            }
        }
    }

    fn norm(&mut self, theirs: &str, ours: &str, channels: i64) {
        self.pair(theirs, ours, vec![channels], Form::Same);
    }

    fn conv(&mut self, theirs: &str, ours: &str, from: i64, to: i64, side: i64) {
        self.pair(theirs, ours, vec![to, from, side, side], Form::Same);
    }

    /// A weight, `shape` in our file, and a bias.
    fn pair(&mut self, theirs: &str, ours: &str, shape: Vec<i64>, form: Form) {
        let rows = shape[0];
        let mut stored = shape;
        if let Form::Pointwise { ones } = form {
            stored.extend(std::iter::repeat_n(1, ones));
        }
        let weight = (format!("{theirs}.weight"), format!("{ours}.weight"));
        let bias = (format!("{theirs}.bias"), format!("{ours}.bias"));
        self.tensor(Entry::of(weight.0, weight.1, form), stored);
        self.tensor(Entry::same(bias.0, bias.1), vec![rows]);
    }

    fn tensor(&mut self, entry: Entry, shape: Vec<i64>) {
        self.tensors.push(TheirTensor { entry, shape });
    }
}
