"""Readers of the file formats that public data sets share. All raise DataError naming the file.

They return what the file says in its own integers or units; what those mean is the set's matter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from training.data.sample import Array, DataError, Mask, Picture

_FLO_TAG = 202021.25
_UNKNOWN_FLOW = 1e9


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture file that is decoded within the block."""
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_bytes(path: Path) -> bytes:
    """All of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without space around them."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def read_picture(path: Path) -> Picture:
    """An 8-bit picture of any kind as RGB, uint8 (H, W, 3), as it is stored (EXIF is not asked)."""
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{path} should be an 8-bit picture, its mode is {image.mode}")
        return np.array(image.convert("RGB"))


def read_grey(path: Path) -> NDArray[np.uint8]:
    """An 8-bit grey, black-and-white (0 and 255) or palette (its indices) picture, uint8 (H, W)."""
    with _opened(path) as image:
        if image.mode not in ("L", "P", "1"):
            raise DataError(f"{path} should be an 8-bit grey picture, its mode is {image.mode}")
        return np.array(image.convert("L") if image.mode == "1" else image)


def read_png16(path: Path) -> NDArray[np.uint16]:
    """A 16-bit grey PNG, uint16 (H, W)."""
    with _opened(path) as image:
        if not image.mode.startswith("I"):
            raise DataError(f"{path} should be a 16-bit grey PNG, its mode is {image.mode}")
        return np.array(image).astype(np.uint16)


def read_png16_rgb(path: Path) -> NDArray[np.uint16]:
    """A 16-bit RGB PNG, uint16 (H, W, 3).

    Pillow keeps the upper byte of each value only, but can be told to take the other byte for the
    upper one; reading twice is far faster than a decoder in Python.
    """
    with _opened(path) as upper, _opened(path) as lower:
        if not isinstance(lower, PngImageFile) or [t.args for t in lower.tile] != ["RGB;16B"]:
            raise DataError(f"{path} should be a 16-bit RGB PNG, its mode is {upper.mode}")
        lower.tile = [lower.tile[0]._replace(args="RGB;16L")]
        return np.array(upper).astype(np.uint16) << 8 | np.array(lower)


def read_flo(path: Path) -> tuple[Array, Mask]:
    """A Middlebury `.flo` file: flow (2, H, W) in px, 0 where unknown; where known (H, W)."""
    data = read_bytes(path)
    if len(data) < 12 or struct.unpack_from("<f", data)[0] != _FLO_TAG:
        raise DataError(f"{path} does not begin with the .flo tag {_FLO_TAG}")
    width, height = struct.unpack_from("<ii", data, 4)
    if len(data) != 12 + 8 * width * height or min(width, height) < 1:
        raise DataError(f"{path} should hold {width} x {height} vectors")
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).transpose(2, 0, 1)
    valid = np.abs(flow).max(axis=0) < _UNKNOWN_FLOW
    return np.where(valid, flow, 0).astype(np.float32), valid


def read_kitti_flow(path: Path) -> tuple[Array, Mask]:
    """A KITTI flow PNG, 16-bit RGB: flow (2, H, W) in px, 0 where unknown; where known (H, W).

    Red and green are u and v in 1/64 px above 2^15; blue says whether they are known.
    """
    channels = read_png16_rgb(path)
    valid = channels[:, :, 2] > 0
    flow = (channels[:, :, :2].astype(np.float32) - np.float32(2**15)) / np.float32(64)
    return np.where(valid, flow.transpose(2, 0, 1), np.float32(0)), valid


def folder_of(path: Path, what: str) -> Path:
    """The folder itself, if it is one; `what` says what it should hold."""
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; it should hold {what}")
    return path


def need_files(paths: Iterable[Path], folder: Path, pattern: str) -> list[Path]:
    """The paths in order, if there is any; `pattern` says what was looked for in `folder`."""
    found = sorted(paths)
    if not found:
        raise DataError(f"{folder} holds no {pattern}")
    return found
