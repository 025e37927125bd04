"""The masks of COCO-like annotations: run lengths and polygons, drawn as pycocotools draws them.

Run lengths count pixels down the columns, in turn outside and inside of the mask, outside first.
In a compressed list each number is a text of six-bit digits: five bits of value, lowest digit
first, and one bit that says whether more follow; from the third number on it is the difference to
the number two before. A polygon is drawn by its outline at five times the size, so that pixels on
its edge fall as in the published numbers (cocodataset/cocoapi, common/maskApi.c, `rleFrPoly`).

Not pycocotools itself: it takes run lengths that are cut off for a mask, and a polygon with absurd
numbers ends the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.sample import DataError, Mask

Points = NDArray[np.float64]  # (N, 2), x and y in px

_SCALE = 5
_MAX_OUTLINE = 10_000_000  # px, at five times the size
_FIRST_DIGIT, _NUM_DIGITS = 48, 64  # "0" and the 63 characters that follow


@dataclass(frozen=True)
class RunLengths:
    """A mask of `size` (H, W) as its list of run lengths, compressed to a text or not."""

    size: tuple[int, int]
    counts: str | tuple[int, ...]


def draw(shape: RunLengths | Points, size: tuple[int, int]) -> Mask:
    """The mask (H, W) of an annotation. Raises DataError."""
    if isinstance(shape, RunLengths):
        if shape.size != size:
            raise DataError(f"run lengths of {shape.size} rows and columns, the picture has {size}")
        return draw_run_lengths(shape)
    return draw_polygon(shape, size)


def draw_run_lengths(runs: RunLengths) -> Mask:
    """The mask (H, W). Raises DataError if the lengths do not make up its size exactly."""
    height, width = runs.size
    listed = uncompress(runs.counts) if isinstance(runs.counts, str) else runs.counts
    if min(listed, default=0) < 0 or sum(listed) != height * width:
        raise DataError(f"run lengths that do not add up to {height} x {width} pixels")
    inside = np.arange(len(listed)) % 2 == 1
    return np.repeat(inside, listed).reshape(width, height).T.copy()


def uncompress(text: str) -> Sequence[int]:
    """The run lengths of a compressed list. Raises DataError for any other text."""
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        digit = ord(character) - _FIRST_DIGIT
        if not 0 <= digit < _NUM_DIGITS or shift > 60:
            raise DataError(f"run lengths that cannot be read at {character!r}")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise DataError("run lengths that end within a number")
    return counts


def draw_polygon(points: Points, size: tuple[int, int]) -> Mask:
    """The mask (H, W) of a closed polygon; what is outside of the picture is left out.

    Raises DataError for fewer than three points and for numbers that no picture has.
    """
    height, width = size
    if len(points) < 3 or not np.isfinite(points).all():
        raise DataError("a polygon of fewer than three points, or with numbers that are not finite")
    if np.abs(points - np.roll(points, -1, axis=0)).sum() * _SCALE > _MAX_OUTLINE:
        raise DataError(f"a polygon of {len(points)} points is more than {_MAX_OUTLINE} px around")
    u, v = _outline(np.trunc(_SCALE * points + 0.5).astype(np.int64))
    steps = np.flatnonzero(u[1:] != u[:-1])
    column = (np.minimum(u[steps], u[steps + 1]) + 0.5) / _SCALE - 0.5
    row = (np.minimum(v[steps], v[steps + 1]) + 0.5) / _SCALE - 0.5
    crosses = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    first = np.ceil(np.clip(row[crosses], 0, height)).astype(np.int64)
    places = column[crosses].astype(np.int64) * height + first
    toggles = np.bincount(places, minlength=height * width + 1)[: height * width]
    return (np.cumsum(toggles) % 2 == 1).reshape(width, height).T.copy()


def _outline(corners: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns and rows of all points on the sides of a polygon (N, 2), side after side.

    A side takes one point per step along its longer direction, always counted from its upper or
    left end, so that a side drawn from either end has the same points.
    """
    start, end = corners, np.roll(corners, -1, axis=0)
    span = np.abs(end - start)
    wide = span[:, 0] >= span[:, 1]
    flipped = np.where(wide, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    low = np.where(flipped[:, None], end, start)
    rise = np.where(flipped[:, None], start, end) - low
    longer, shorter = np.where(wide, rise.T, rise.T[::-1])
    slope = shorter / np.maximum(longer, 1)

    side = np.repeat(np.arange(len(corners)), longer + 1)
    step = np.arange(len(side)) - np.repeat(np.cumsum(longer + 1) - longer - 1, longer + 1)
    step = np.where(flipped[side], longer[side] - step, step)
    x, y = low[side].T
    along = np.trunc(np.where(wide[side], y, x) + slope[side] * step + 0.5).astype(np.int64)
    return np.where(wide[side], x + step, along), np.where(wide[side], along, y + step)
