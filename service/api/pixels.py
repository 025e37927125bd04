"""From any colour mode that is read to the two that are used: RGB, and a mask."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

# Samples wider than a byte, with the value that is white. Pillow reads 16-bit data as one of these.
_WHITE: Mapping[str, float] = {
    "I;16": 65535.0,
    "I;16L": 65535.0,
    "I;16B": 65535.0,
    "I;16N": 65535.0,
    "I": 65535.0,
    "F": 1.0,
}
_NARROW = ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV")


def is_read(mode: str) -> bool:
    """Whether pictures of one of Pillow's modes are read."""
    return mode in _WHITE or mode in _NARROW


def rgb_of(image: Image.Image) -> Image.Image:
    """Return RGB; transparency is laid on white."""
    if image.mode in _WHITE:
        unit = _unit_values(image)
        unit *= 255
        grey = np.rint(unit, out=unit).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def mask_of(image: Image.Image) -> Bool[np.ndarray, "h w"]:
    """Return where alpha is above half if it is not opaque everywhere, else luminance."""
    if image.mode in _WHITE:
        return _unit_values(image) > 0.5
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            return alpha > 127
    return np.asarray(image.convert("RGB").convert("L")) > 127


def _unit_values(image: Image.Image) -> Float32[np.ndarray, "h w"]:
    """Return samples wider than a byte as [0, 1]; what is no number counts as black."""
    unit = np.asarray(image).astype(np.float32)
    unit /= np.float32(_WHITE[image.mode])
    np.nan_to_num(unit, copy=False, nan=0.0)
    return np.clip(unit, 0, 1, out=unit)
