"""Pictures with a class, for pre-training: what every source of them yields, and the crop.

A source is an ordered sequence that reads on demand, so that any part of it can be read, in any
process, without what comes before.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from training.data.sample import DataError, Picture


@dataclass(frozen=True, eq=False)
class LabelledPicture:
    """One picture of one class."""

    name: str
    image: Picture  # (S, S, 3), RGB
    label: int  # 0..num_classes - 1


class LabelledPictures(Protocol):
    """A source of square class-labelled pictures of one size."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of every label, in the order of the labels."""

    @property
    def identity(self) -> str:
        """What tells this source from another, for a cache that goes on: place, size, count."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledPicture:
        """Picture `index`; raises DataError naming the file that cannot be read."""


def decode_square(data: bytes, size: int, where: str) -> Picture:
    """An encoded picture as a centred square, uint8 (size, size, 3).

    Raises DataError naming `where` it came from.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return centre_crop(image.convert("RGB"), size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} cannot be read as a picture: {error}") from error


def centre_crop(image: Image.Image, size: int) -> Picture:
    """The middle `size` x `size` px of a picture whose shorter side became `size`.

    The crop that ADM and DiT were trained with (`center_crop_arr`, guided-diffusion's
    image_datasets.py and DiT's train.py): halve with a box filter while the shorter side is at
    least twice the aim, then go the rest of the way bicubically, rounding the longer side.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    around = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(around, Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])
