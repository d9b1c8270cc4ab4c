#!/usr/bin/env python3
"""Prints the names and shapes of the parameters of a diffusers UNet2DModel (0.42.1), one a line.

    .venv/bin/python scripts/parity/list_diffusers_names.py plain >src/interop/testdata/diffusers_plain.txt

It made the files diffusers_*.txt in src/interop/testdata: diffusers' names for the tensors of networks with the
settings of the other lists there, which list_state_dict.py made.
"""

import argparse

from diffusers import UNet2DModel

SMALL = dict(block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=16,
             down_block_types=("DownBlock2D", "AttnDownBlock2D"),
             up_block_types=("AttnUpBlock2D", "UpBlock2D"))
SCALED = dict(out_channels=6, resnet_time_scale_shift="scale_shift", attn_norm_num_groups=32)
SETTINGS = {
    "plain": SMALL,
    "improved": SMALL | SCALED,
    # Only blocks with attention use downsample_type and upsample_type.
    "guided": SMALL | SCALED | dict(
        downsample_type="resnet", upsample_type="resnet",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D")),
    "three_levels": dict(block_out_channels=(32, 64, 96), layers_per_block=2, num_class_embeds=10,
                         down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
                         up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", choices=SETTINGS, help="the network")
    settings = parser.parse_args().settings
    print(f"# scripts/parity/list_diffusers_names.py {settings}")
    for name, tensor in UNet2DModel(sample_size=32, **SETTINGS[settings]).state_dict().items():
        print(name, *tensor.shape)


if __name__ == "__main__":
    main()
