//! The convolutions of the network: their shapes, and their names in both kinds of files.

/// A convolution, with the batch norm and ReLU that follow it.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Its name in torchvision's `inception_v3`, which pytorch-fid and torch-fidelity keep.
    pub(super) name: String,
    /// Its name below `layers` in NVIDIA's TorchScript file, which is TensorFlow's.
    pub(super) script_name: String,
    /// Channels in.
    pub(super) inputs: i64,
    /// Channels out.
    pub(super) outputs: i64,
    /// Height and width.
    pub(super) kernel: [i64; 2],
    pub(super) stride: i64,
    pub(super) padding: [i64; 2],
}

/// Classes of the linear layer.
pub(super) const CLASSES: i64 = 1008;
/// Channels of the last block.
pub(super) const DIMS: i64 = 2048;

/// All convolutions, in the order of the network.
pub(super) fn layers() -> Vec<Layer> {
    let mut all = vec![
        named("Conv2d_1a_3x3", "conv", conv(3, 32, [3, 3]).halving()),
        named("Conv2d_2a_3x3", "conv_1", conv(32, 32, [3, 3]).unpadded()),
        named("Conv2d_2b_3x3", "conv_2", conv(32, 64, [3, 3])),
        named("Conv2d_3b_1x1", "conv_3", conv(64, 80, [1, 1])),
        named("Conv2d_4a_3x3", "conv_4", conv(80, 192, [3, 3]).unpadded()),
    ];
    let mut add = |block: &str, script_block: &str, layers: Vec<Layer>| {
        all.extend(layers.into_iter().map(|layer| Layer {
            name: format!("{block}.{}", layer.name),
            script_name: format!("{script_block}.{}", layer.script_name),
            ..layer
        }));
    };
    add("Mixed_5b", "mixed", block_a(192, 32));
    add("Mixed_5c", "mixed_1", block_a(256, 64));
    add("Mixed_5d", "mixed_2", block_a(288, 64));
    add("Mixed_6a", "mixed_3", block_b(288));
    add("Mixed_6b", "mixed_4", block_c(128));
    add("Mixed_6c", "mixed_5", block_c(160));
    add("Mixed_6d", "mixed_6", block_c(160));
    add("Mixed_6e", "mixed_7", block_c(192));
    add("Mixed_7a", "mixed_8", block_d());
    add("Mixed_7b", "mixed_9", block_e(1280));
    add("Mixed_7c", "mixed_10", block_e(2048));
    all
}

fn block_a(inputs: i64, pool: i64) -> Vec<Layer> {
    vec![
        named("branch1x1", "conv", conv(inputs, 64, [1, 1])),
        named("branch5x5_1", "tower.conv", conv(inputs, 48, [1, 1])),
        named("branch5x5_2", "tower.conv_1", conv(48, 64, [5, 5])),
        named("branch3x3dbl_1", "tower_1.conv", conv(inputs, 64, [1, 1])),
        named("branch3x3dbl_2", "tower_1.conv_1", conv(64, 96, [3, 3])),
        named("branch3x3dbl_3", "tower_1.conv_2", conv(96, 96, [3, 3])),
        named("branch_pool", "tower_2.conv", conv(inputs, pool, [1, 1])),
    ]
}

fn block_b(inputs: i64) -> Vec<Layer> {
    vec![
        named("branch3x3", "conv", conv(inputs, 384, [3, 3]).halving()),
        named("branch3x3dbl_1", "tower.conv", conv(inputs, 64, [1, 1])),
        named("branch3x3dbl_2", "tower.conv_1", conv(64, 96, [3, 3])),
        named(
            "branch3x3dbl_3",
            "tower.conv_2",
            conv(96, 96, [3, 3]).halving(),
        ),
    ]
}

fn block_c(width: i64) -> Vec<Layer> {
    let (across, down) = ([1, 7], [7, 1]);
    vec![
        named("branch1x1", "conv", conv(768, 192, [1, 1])),
        named("branch7x7_1", "tower.conv", conv(768, width, [1, 1])),
        named("branch7x7_2", "tower.conv_1", conv(width, width, across)),
        named("branch7x7_3", "tower.conv_2", conv(width, 192, down)),
        named("branch7x7dbl_1", "tower_1.conv", conv(768, width, [1, 1])),
        named("branch7x7dbl_2", "tower_1.conv_1", conv(width, width, down)),
        named(
            "branch7x7dbl_3",
            "tower_1.conv_2",
            conv(width, width, across),
        ),
        named("branch7x7dbl_4", "tower_1.conv_3", conv(width, width, down)),
        named("branch7x7dbl_5", "tower_1.conv_4", conv(width, 192, across)),
        named("branch_pool", "tower_2.conv", conv(768, 192, [1, 1])),
    ]
}

fn block_d() -> Vec<Layer> {
    vec![
        named("branch3x3_1", "tower.conv", conv(768, 192, [1, 1])),
        named(
            "branch3x3_2",
            "tower.conv_1",
            conv(192, 320, [3, 3]).halving(),
        ),
        named("branch7x7x3_1", "tower_1.conv", conv(768, 192, [1, 1])),
        named("branch7x7x3_2", "tower_1.conv_1", conv(192, 192, [1, 7])),
        named("branch7x7x3_3", "tower_1.conv_2", conv(192, 192, [7, 1])),
        named(
            "branch7x7x3_4",
            "tower_1.conv_3",
            conv(192, 192, [3, 3]).halving(),
        ),
    ]
}

fn block_e(inputs: i64) -> Vec<Layer> {
    let (across, down) = ([1, 3], [3, 1]);
    vec![
        named("branch1x1", "conv", conv(inputs, 320, [1, 1])),
        named("branch3x3_1", "tower_conv", conv(inputs, 384, [1, 1])),
        named("branch3x3_2a", "tower_mixed_conv", conv(384, 384, across)),
        named("branch3x3_2b", "tower_mixed_conv_1", conv(384, 384, down)),
        named("branch3x3dbl_1", "tower_1_conv", conv(inputs, 448, [1, 1])),
        named("branch3x3dbl_2", "tower_1_conv_1", conv(448, 384, [3, 3])),
        named(
            "branch3x3dbl_3a",
            "tower_1_mixed_conv",
            conv(384, 384, across),
        ),
        named(
            "branch3x3dbl_3b",
            "tower_1_mixed_conv_1",
            conv(384, 384, down),
        ),
        named("branch_pool", "tower_2_conv", conv(inputs, 192, [1, 1])),
    ]
}

fn named(name: &str, script_name: &str, layer: Layer) -> Layer {
    Layer {
        name: name.to_owned(),
        script_name: script_name.to_owned(),
        ..layer
    }
}

/// A convolution that keeps the map's size.
fn conv(inputs: i64, outputs: i64, kernel: [i64; 2]) -> Layer {
    Layer {
        name: String::new(),
        script_name: String::new(),
        inputs,
        outputs,
        kernel,
        stride: 1,
        padding: kernel.map(|length| length / 2),
    }
}

impl Layer {
    fn stride(self, stride: i64) -> Self {
        Self { stride, ..self }
    }

    fn unpadded(self) -> Self {
        Self {
            padding: [0, 0],
            ..self
        }
    }

    /// Half the map's size, rounded down.
    fn halving(self) -> Self {
        self.stride(2).unpadded()
    }
}
