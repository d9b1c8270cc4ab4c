"""Names and layout of Keras-DDPM's weights, and their conversion to those of the networks here.

Keras: NHWC, BGR, convolutions HWIO, dense [in, out], and 32 interleaved norm groups: channel `c` of `C`
is in group `c % 32`. Here: NCHW, RGB, convolutions OIHW, and groups of neighbouring channels. So every
channel axis of a feature map is permuted, `c -> (c % 32) * (C / 32) + c // 32`; the time embedding's
axis and the three colours are not feature maps. Networks whose norms have another number of groups
cannot be converted.

After a concatenation (`ddpm2.py`) the permutation is the same, over all channels that were joined: their
interleaved group g holds the left half's group g, then the right half's, as `unet_concat.cat_groups` joins
them. The widths of its time embedding are no feature maps either, and its table of sines and cosines is
no parameter here.

`ddpm-gau.py` has no groups: there, only the values of a patch are in another order.
"""

import numpy as np

GROUPS = 32


def name_map(names: list[str], keras_creation_order: list[str]) -> dict[str, str]:
    """Our parameter name -> the Keras weight name.

    Both networks create their weights in the same order (in a block of `ddpm.py`: shortcut if any, time,
    two convolutions, norm), but Keras creates a norm's beta before its gamma, and we the weight before the
    bias. `names` are ours in `state_dict` order, `keras_creation_order` those that are trained. Creation
    order is not the order of Keras' `model.weights`.
    """
    if len(names) != len(keras_creation_order):
        raise ValueError(f"the Keras model has {len(keras_creation_order)} weights, want {len(names)}")
    order = list(names)
    for i, (name, keras) in enumerate(zip(names, keras_creation_order)):
        if name.endswith(".weight") and keras.endswith("/beta:0"):
            order[i], order[i + 1] = order[i + 1], order[i]
    return dict(zip(order, keras_creation_order))


def to_ours(name: str, array: np.ndarray) -> np.ndarray:
    """Converts a weight of a Keras U-Net, or anything of its shape (a gradient, an index map), to our parameter `name`'s layout."""
    if name == "time_embedding.weight":
        return array
    if name.startswith("time_embedding."):
        return np.ascontiguousarray(array.T)
    if array.ndim == 1:
        return regroup(array, 0)
    if name.endswith("time_proj.weight"):
        return regroup(array.T, 0)
    if array.ndim == 2:
        array = array[None, None]  # a dense shortcut is a 1x1 convolution
    array = array.transpose(3, 2, 0, 1)
    array = array[::-1] if name == "conv_out.weight" else regroup(array, 0)
    array = array[:, ::-1] if name == "conv_in.weight" else regroup(array, 1)
    return np.ascontiguousarray(array)


def gau_to_ours(name: str, array: np.ndarray) -> np.ndarray:
    """As `to_ours`, of `ddpm-gau.py`'s network."""
    if array.ndim == 1 or name == "time_embedding.weight":
        return array
    if name == "patch_in.weight":
        return patch_values(array.T, 1)
    if name == "patch_out.weight":
        return patch_values(array.T, 0)
    return np.ascontiguousarray(array.T)


def patch_values(array: np.ndarray, axis: int) -> np.ndarray:
    """Puts the values of a patch on `axis`, there in order of row, column, B G R, in order of R G B, row, column."""
    pixels = np.arange(array.shape[axis]).reshape(-1, 3)
    return np.take(array, pixels[:, ::-1].T.reshape(-1), axis)


def regroup(array: np.ndarray, axis: int) -> np.ndarray:
    """Moves channel c of `axis` to (c % 32) * (C / 32) + c // 32, so that interleaved groups become contiguous."""
    source = np.arange(array.shape[axis]).reshape(-1, GROUPS).T.reshape(-1)
    return np.take(array, source, axis)


def images_to_ours(array: np.ndarray) -> np.ndarray:
    """[..., H, W, 3] BGR to [..., 3, H, W] RGB."""
    return np.ascontiguousarray(np.moveaxis(array[..., ::-1], -1, -3))
