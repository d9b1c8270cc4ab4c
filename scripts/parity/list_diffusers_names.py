"""Writes the names and shapes of diffusers' UNet2DModel (0.42.1) with the settings of the other fixtures.

`python diffusers_names.py plain|improved|guided|three_levels > diffusers_plain.txt` and so on.
"""

import sys

from diffusers import UNet2DModel

small = dict(block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=16,
             down_block_types=("DownBlock2D", "AttnDownBlock2D"),
             up_block_types=("AttnUpBlock2D", "UpBlock2D"))
scaled = dict(out_channels=6, resnet_time_scale_shift="scale_shift", attn_norm_num_groups=32)
settings = {
    "plain": small,
    "improved": small | scaled,
    # Only blocks with attention heed downsample_type and upsample_type.
    "guided": small | scaled | dict(
        downsample_type="resnet", upsample_type="resnet",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D")),
    "three_levels": dict(block_out_channels=(32, 64, 96), layers_per_block=2, num_class_embeds=10,
                         down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
                         up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")),
}
for name, tensor in UNet2DModel(sample_size=32, **settings[sys.argv[1]]).state_dict().items():
    print(name, *tensor.shape)
