//! Names and arrangement of the same weights in another program: one table for reading and writing.

/// One tensor of theirs, and the tensors of ours that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Their key.
    pub theirs: String,
    /// Our keys; one for most forms, three for [`Form::Qkv`], none for [`Form::SineTable`].
    pub ours: Vec<String>,
    /// Arrangement of the values.
    pub form: Form,
}

/// Arrangement of their values, always without loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// As ours.
    Same,
    /// Ours is `[O, I]`; theirs has this many trailing dimensions of 1, as a 1×1 convolution has.
    Pointwise {
        /// Trailing ones.
        ones: usize,
    },
    /// Queries, keys and values (three of ours) in one tensor `[3C, …]` of theirs, a weight with
    /// `ones` trailing dimensions of 1, or a bias (ours are `[C, C]` or `[C]`).
    Qkv {
        /// Attention heads, for the legacy order.
        heads: i64,
        /// Order of the 3C rows.
        order: QkvOrder,
        /// Trailing ones of a weight.
        ones: usize,
    },
    /// `[O, 2k]`: their columns are sin, cos, sin, cos, …; ours are all sines, then all cosines.
    InterleavedColumns,
    /// A frozen `[T, dim]` table of interleaved sines and cosines, f_k = 10000^(-2k / dim); not a
    /// parameter of ours.
    SineTable {
        /// Rows.
        timesteps: i64,
        /// Columns.
        dim: i64,
    },
    /// A Keras kernel: `[H, W, I, O]` to `[O, I, H, W]`, or `[I, O]` to `[O, I]`, or a vector; with the
    /// channels of each axis regrouped.
    Keras {
        /// Reordering of the output channels (or of a vector's).
        output: Channels,
        /// Reordering of the input channels.
        input: Channels,
        /// A dense kernel `[I, O]` that is a 1×1 convolution `[O, I, 1, 1]` here.
        dense_as_conv: bool,
    },
}

/// Order of the rows of a fused query-key-value weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvOrder {
    /// `[heads, 3, C / heads]`.
    Legacy,
    /// `[3, C]`.
    New,
}

/// Reordering of a channel axis of a Keras kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// Unchanged.
    Same,
    /// Channel c goes to (c mod groups) · (C / groups) + c div groups: interleaved norm groups become
    /// contiguous ones.
    Regroup {
        /// Norm groups.
        groups: i64,
    },
    /// Reversed: BGR to RGB.
    Reverse,
    /// The values of a patch: pixel by pixel in BGR there, colour by colour in RGB here.
    Pixels {
        /// Values per pixel: 3, or 1 if grey.
        colours: i64,
    },
}

impl Entry {
    /// A tensor that is the same in both.
    pub fn same(theirs: impl Into<String>, ours: impl Into<String>) -> Entry {
        Entry::of(theirs, ours, Form::Same)
    }

    /// A tensor that holds one of ours in another form.
    pub fn of(theirs: impl Into<String>, ours: impl Into<String>, form: Form) -> Entry {
        Entry {
            theirs: theirs.into(),
            ours: vec![ours.into()],
            form,
        }
    }
}
