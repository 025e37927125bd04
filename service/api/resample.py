"""Between an upload's size and a model's: bilinear, antialiased when shrinking, ratio not kept.

Pillow's filter shrinks over the whole footprint of a pixel, and on mode F it stays in float32.
"""

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

BILINEAR = Image.Resampling.BILINEAR


def image_to_input(image: Image.Image, height: int, width: int) -> Float32[np.ndarray, "3 h w"]:
    """Resize an RGB image to a model's input, values in [-1, 1]."""
    resized = np.asarray(image.resize((width, height), BILINEAR), dtype=np.float32)
    return np.ascontiguousarray((resized / 127.5 - 1).transpose(2, 0, 1))


def mask_to_input(
    mask: Bool[np.ndarray, "full_h full_w"], height: int, width: int
) -> Float32[np.ndarray, "3 h w"]:
    """Resize a mask to a model's prompt: -1 hidden, +1 visible, between the two along the edge."""
    image = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), BILINEAR)
    plane = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return np.repeat(plane[None], 3, axis=0)


def resize_maps(
    maps: Float32[np.ndarray, "*batch from_h from_w"], height: int, width: int
) -> Float32[np.ndarray, "*batch h w"]:
    """Resize float maps, one at a time, in their own unit."""
    if maps.shape[-2:] == (height, width):
        return maps
    planes = maps.reshape(-1, *maps.shape[-2:])
    resized = np.empty((len(planes), height, width), dtype=np.float32)
    for plane, out in zip(planes, resized, strict=True):
        out[:] = np.asarray(Image.fromarray(plane).resize((width, height), BILINEAR))
    return resized.reshape(*maps.shape[:-2], height, width)
