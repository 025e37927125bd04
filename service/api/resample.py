"""Between an upload's size and a model's: bilinear, antialiased when shrinking, ratio not kept.

Pillow's filter shrinks over the whole footprint of a pixel, and on mode F it stays in float32.
"""

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from service.core.sizes import Fit

BILINEAR = Image.Resampling.BILINEAR


def image_to_input(image: Image.Image, height: int, width: int) -> Float32[np.ndarray, "3 h w"]:
    """Resize an RGB image to a model's input, values in [-1, 1]."""
    resized = np.asarray(image.resize((width, height), BILINEAR), dtype=np.float32)
    return np.ascontiguousarray((resized / 127.5 - 1).transpose(2, 0, 1))


def image_to_padded(image: Image.Image, fit: Fit) -> Float32[np.ndarray, "3 h w"]:
    """Resize an RGB image without rounding its values, then pad it; values in [-1, 1].

    As torch's antialiased bilinear interpolation of floats does it.
    """
    height, width = fit.content
    planes = [
        np.asarray(plane.convert("F").resize((width, height), BILINEAR), dtype=np.float32)
        for plane in image.split()
    ]
    return padded(np.stack(planes) / np.float32(127.5) - 1, fit)


def padded(values: Float32[np.ndarray, "3 from_h from_w"], fit: Fit) -> np.ndarray:
    """Repeat the last pixels to the right and to the bottom."""
    missing = [(0, whole - side) for whole, side in zip(fit.padded, fit.content, strict=True)]
    return np.pad(values, [(0, 0), *missing], mode="edge")


def mask_to_input(
    mask: Bool[np.ndarray, "full_h full_w"], height: int, width: int
) -> Float32[np.ndarray, "3 h w"]:
    """Resize a mask to a model's prompt: -1 hidden, +1 visible, between the two along the edge."""
    image = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), BILINEAR)
    plane = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return np.repeat(plane[None], 3, axis=0)


def resize_plainly(
    maps: Float32[np.ndarray, "*batch from_h from_w"], height: int, width: int
) -> Float32[np.ndarray, "*batch h w"]:
    """Resize float maps by the four nearest pixels, also when shrinking, as Marigold does."""
    rows, columns = maps.shape[-2:]
    if height >= rows and width >= columns:
        return resize_maps(maps, height, width)  # the same when enlarging
    (top, bottom, down), (left, right, along) = _between(rows, height), _between(columns, width)
    upper, lower = maps[..., top, :], maps[..., bottom, :]
    mixed = upper + down[:, None] * (lower - upper)
    return mixed[..., left] + along * (mixed[..., right] - mixed[..., left])


def _between(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every wanted pixel its two neighbours out of `size`, and how far it is from the first."""
    centres = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    inside = np.clip(centres, 0, size - 1)
    first = inside.astype(np.int64)
    return first, np.minimum(first + 1, size - 1), (inside - first).astype(np.float32)


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
