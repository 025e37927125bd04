"""Pictures and masks for tests, as arrays and as files."""

from io import BytesIO

import numpy as np
from PIL import Image


def gradient(width: int = 96, height: int = 80, *, shift: tuple[int, int, int] = (0, 0, 0)):
    """A colourful picture (h, w, 3) uint8: red grows rightwards, green downwards; `shift` added."""
    y, x = np.mgrid[:height, :width]
    red, green = 40 + 160 * x / width, 60 + 120 * y / height
    blue = 128 + 60 * np.sin(x / 7) * np.cos(y / 9)
    picture = np.stack([red, green, blue], axis=-1) + np.array(shift)
    return np.clip(picture, 0, 255).astype(np.uint8)


def disc(width: int = 96, height: int = 80, *, radius: float = 20) -> np.ndarray:
    """A mask (h, w) uint8 of 0 and 255 with a disc in the middle."""
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2
    return np.where(inside, 255, 0).astype(np.uint8)


def sphere(width: int = 96, height: int = 80, *, radius: float = 30) -> np.ndarray:
    """Normals (3, h, w) float32 of a ball before a wall: x right, y up, z to the viewer."""
    row, column = np.mgrid[:height, :width] + 0.5
    x, y = (column - width / 2) / radius, (height / 2 - row) / radius
    on_ball = x**2 + y**2 < 1
    z = np.sqrt(np.where(on_ball, 1 - x**2 - y**2, 1))
    return np.stack([np.where(on_ball, x, 0), np.where(on_ball, y, 0), z]).astype(np.float32)


def encode(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A file of a picture."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(content: bytes) -> Image.Image:
    """A PNG answer, read by Pillow."""
    image = Image.open(BytesIO(content))
    assert image.format == "PNG"
    image.load()
    return image


def task_files(task: str, width: int = 96, height: int = 80) -> dict[str, bytes]:
    """Files of a valid request, by form field."""
    first = encode(gradient(width, height))
    return {
        "depth": {"image": first},
        "flow": {
            "frame1": first,
            "frame2": encode(gradient(width, height, shift=(30, -20, 0))),
        },
        "amodal": {"image": first, "mask": encode(disc(width, height))},
        "normals": {"image": first},
    }[task]
