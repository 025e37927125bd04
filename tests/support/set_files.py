"""Files of public data sets for tests: where real samples may lie, and small ones to write."""

from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write_picture(
    path: Path, random: np.random.Generator, size: tuple[int, int], **how
) -> np.ndarray:
    """Writes a random picture and returns what any reader should read of it."""
    pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    with Image.open(path) as image:
        return np.array(image)


def write_mask(path: Path, values: np.ndarray) -> None:
    """Writes a mask as black and white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(values, 255, 0).astype(np.uint8)).save(path)
