//! The modules of the U-Net with attention: their places, tensors and names.
//!
//! All code bases that follow Ho et al. have the same modules under different names. A family only defines
//! its names; the settings in the shapes and the whole layout follow from them.

use anyhow::{Result, ensure};

use crate::config::{AttentionUNetConfig, Resample, class_rows, input_channels};
use crate::interop::{Keys, QkvOrder};

/// Tensors of a residual block without a shortcut.
const TENSORS_OF_A_RESNET: usize = 10;

/// A place in the network. Levels count from the full resolution, down and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::interop) enum Place {
    ConvIn,
    /// First layer of the time embedding.
    TimeIn,
    /// Second layer of the time embedding.
    TimeOut,
    /// Table of classes.
    Classes,
    DownResnet {
        level: usize,
        block: usize,
    },
    DownAttention {
        level: usize,
        block: usize,
    },
    /// Below `level`: a residual block or a convolution.
    Downsample {
        level: usize,
        resnet: bool,
    },
    MidResnet {
        block: usize,
    },
    MidAttention,
    UpResnet {
        level: usize,
        block: usize,
    },
    UpAttention {
        level: usize,
        block: usize,
    },
    /// From `level` to the one above it.
    Upsample {
        level: usize,
        resnet: bool,
        /// True if the level has attention on the way up.
        after_attention: bool,
    },
    NormOut,
    ConvOut,
}

/// Number of levels, and of residual blocks per level on the way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::interop) struct Grid {
    pub(in crate::interop) levels: usize,
    pub(in crate::interop) blocks: usize,
}

/// Their names of a residual block's parts.
#[derive(Debug)]
pub(in crate::interop) struct ResnetNames {
    pub(in crate::interop) norm1: &'static str,
    pub(in crate::interop) conv1: &'static str,
    pub(in crate::interop) time: &'static str,
    pub(in crate::interop) norm2: &'static str,
    pub(in crate::interop) conv2: &'static str,
    pub(in crate::interop) shortcut: &'static str,
}

/// Their names of an attention's parts: query, key and value separate, or fused in one weight.
#[derive(Debug)]
pub(in crate::interop) enum AttentionNames {
    /// 1×1 convolutions `[C, C, 1, 1]`.
    Separate {
        norm: &'static str,
        qkv: [&'static str; 3],
        out: &'static str,
    },
    /// 1D convolutions over the pixels, `[3C, C, 1]` and `[C, C, 1]`.
    Fused {
        norm: &'static str,
        qkv: &'static str,
        out: &'static str,
        order: QkvOrder,
    },
}

/// A family's names of the modules, and the forms it stores them in.
#[derive(Debug)]
pub(in crate::interop) struct Names {
    /// The name of the module at a place.
    pub(in crate::interop) module: fn(Place, Grid) -> String,
    pub(in crate::interop) resnet: ResnetNames,
    pub(in crate::interop) attention: AttentionNames,
    /// The sinusoidal embedding is sin, cos, sin, cos, ….
    pub(in crate::interop) interleaved_sines: bool,
}

impl AttentionNames {
    /// Their name of the norm.
    pub(in crate::interop) fn norm(&self) -> &'static str {
        match self {
            AttentionNames::Separate { norm, .. } | AttentionNames::Fused { norm, .. } => norm,
        }
    }

    /// Their names of all parts.
    pub(in crate::interop) fn parts(&self) -> Vec<&'static str> {
        match self {
            AttentionNames::Separate { norm, qkv, out } => {
                let [q, k, v] = *qkv;
                vec![norm, q, k, v, out]
            }
            AttentionNames::Fused { norm, qkv, out, .. } => vec![norm, qkv, out],
        }
    }
}

impl Grid {
    /// Levels and blocks as counted in a file, refused where the file is too short to hold them.
    pub(in crate::interop) fn new(levels: usize, blocks: usize, keys: &Keys) -> Result<Grid> {
        ensure!(
            levels > 0 && blocks > 0,
            "the file has {levels} levels of {blocks} residual blocks, want at least one of each"
        );
        let resnets = levels.saturating_mul(2 * blocks + 1).saturating_add(2);
        let tensors = resnets.saturating_mul(TENSORS_OF_A_RESNET);
        ensure!(
            tensors <= keys.len(),
            "the keys count {levels} levels of {blocks} residual blocks, at least {tensors} tensors; the file has \
             {}: it is cut off or damaged",
            keys.len()
        );
        Ok(Grid { levels, blocks })
    }

    /// The levels and blocks of a network.
    pub(in crate::interop) fn of(config: &AttentionUNetConfig) -> Grid {
        Grid {
            levels: config.widths.len(),
            blocks: usize::try_from(config.blocks).unwrap_or(0),
        }
    }

    /// Position of `level` on the way up, which begins at the lowest resolution.
    pub(in crate::interop) fn up(self, level: usize) -> usize {
        (self.levels - 1).saturating_sub(level)
    }
}

/// Our name of the module at a place.
pub(in crate::interop) fn ours(place: Place, grid: Grid) -> String {
    match place {
        Place::ConvIn => "conv_in".into(),
        Place::TimeIn => "time_embedding.linear_1".into(),
        Place::TimeOut => "time_embedding.linear_2".into(),
        Place::Classes => "class_embedding".into(),
        Place::DownResnet { level, block } => format!("down_blocks.{level}.resnets.{block}"),
        Place::DownAttention { level, block } => format!("down_blocks.{level}.attentions.{block}"),
        Place::Downsample { level, resnet } => {
            format!("down_blocks.{level}.downsamplers.0{}", conv(resnet))
        }
        Place::MidResnet { block } => format!("mid_block.resnets.{block}"),
        Place::MidAttention => "mid_block.attentions.0".into(),
        Place::UpResnet { level, block } => {
            format!("up_blocks.{}.resnets.{block}", grid.up(level))
        }
        Place::UpAttention { level, block } => {
            format!("up_blocks.{}.attentions.{block}", grid.up(level))
        }
        Place::Upsample { level, resnet, .. } => {
            format!("up_blocks.{}.upsamplers.0{}", grid.up(level), conv(resnet))
        }
        Place::NormOut => "conv_norm_out".into(),
        Place::ConvOut => "conv_out".into(),
    }
}

fn conv(resnet: bool) -> &'static str {
    if resnet { "" } else { ".conv" }
}

/// The module at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::interop) enum Kind {
    Norm {
        channels: i64,
    },
    Conv {
        from: i64,
        to: i64,
    },
    Linear {
        from: i64,
        to: i64,
    },
    Table {
        rows: i64,
        columns: i64,
    },
    Resnet {
        from: i64,
        to: i64,
    },
    Attention {
        channels: i64,
        norm: bool,
        heads: i64,
    },
}

/// Walks through the network as data flows.
struct Walk<'a> {
    config: &'a AttentionUNetConfig,
    modules: Vec<(Place, Kind)>,
    /// Channels of the feature maps so far.
    channels: i64,
    /// Channels of the feature maps kept for the way up.
    skips: Vec<i64>,
}

impl Walk<'_> {
    fn resnet(&mut self, place: Place, from: i64, to: i64) {
        self.modules.push((place, Kind::Resnet { from, to }));
        self.channels = to;
    }

    fn attention(&mut self, place: Place, up: bool, norm: bool) {
        let channels = self.channels;
        let heads = self.config.heads_of(channels, up);
        self.modules.push((
            place,
            Kind::Attention {
                channels,
                norm,
                heads,
            },
        ));
    }

    fn resample(&mut self, place: Place, resnet: bool) {
        let (from, to) = (self.channels, self.channels);
        let kind = if resnet {
            Kind::Resnet { from, to }
        } else {
            Kind::Conv { from, to }
        };
        self.modules.push((place, kind));
    }

    fn start(&mut self) {
        let c = self.config;
        let (base, time) = (c.base_width, c.time_width);
        let mut add = |place, kind| self.modules.push((place, kind));
        add(
            Place::ConvIn,
            Kind::Conv {
                from: input_channels(c.channels, c.condition_channels),
                to: base,
            },
        );
        add(
            Place::TimeIn,
            Kind::Linear {
                from: c.time_channels,
                to: time,
            },
        );
        add(
            Place::TimeOut,
            Kind::Linear {
                from: time,
                to: time,
            },
        );
        if let Some(rows) = class_rows(c.classes, c.null_class) {
            add(
                Place::Classes,
                Kind::Table {
                    rows,
                    columns: time,
                },
            );
        }
        self.channels = base;
        self.skips.push(base);
    }

    fn down(&mut self, level: usize, grid: Grid) {
        let c = self.config;
        for block in 0..grid.blocks {
            let (from, to) = (self.channels, c.widths[level]);
            self.resnet(Place::DownResnet { level, block }, from, to);
            if c.attention_down.get(level) == Some(&true) {
                self.attention(Place::DownAttention { level, block }, false, true);
            }
            self.skips.push(self.channels);
        }
        if level + 1 < grid.levels {
            let resnet = c.resample == Resample::Resnet;
            self.resample(Place::Downsample { level, resnet }, resnet);
            self.skips.push(self.channels);
        }
    }

    fn middle(&mut self) {
        let c = self.channels;
        self.resnet(Place::MidResnet { block: 0 }, c, c);
        if self.config.mid_attention {
            self.attention(Place::MidAttention, false, self.config.mid_attention_norm);
        }
        self.resnet(Place::MidResnet { block: 1 }, c, c);
    }

    fn up(&mut self, level: usize, grid: Grid) {
        let c = self.config;
        let after_attention = c.attention_up.get(level) == Some(&true);
        for block in 0..=grid.blocks {
            let skip = self.skips.pop().unwrap_or(0);
            let (from, to) = (self.channels + skip, c.widths[level]);
            self.resnet(Place::UpResnet { level, block }, from, to);
            if after_attention {
                self.attention(Place::UpAttention { level, block }, true, true);
            }
        }
        if level > 0 {
            let resnet = c.resample == Resample::Resnet;
            let place = Place::Upsample {
                level,
                resnet,
                after_attention,
            };
            self.resample(place, resnet);
        }
    }

    fn end(&mut self) {
        let c = self.config;
        let (channels, factor) = (self.channels, if c.learned_variance { 2 } else { 1 });
        self.modules.push((Place::NormOut, Kind::Norm { channels }));
        self.modules.push((
            Place::ConvOut,
            Kind::Conv {
                from: channels,
                to: factor * c.channels,
            },
        ));
    }
}

/// Every module of a network, in the order in which data flows.
pub(in crate::interop) fn modules(config: &AttentionUNetConfig) -> Vec<(Place, Kind)> {
    let grid = Grid::of(config);
    let mut walk = Walk {
        config,
        modules: Vec::new(),
        channels: 0,
        skips: Vec::new(),
    };
    walk.start();
    for level in 0..grid.levels {
        walk.down(level, grid);
    }
    walk.middle();
    for level in (0..grid.levels).rev() {
        walk.up(level, grid);
    }
    walk.end();
    walk.modules
}
