"""What the readers of depth sets share: lists of picture and depth files, and valid depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from training.data.files import read_lines, read_picture, read_png16
from training.data.sample import Array, DataError, DepthTruth, Mask, Sample, Samples

Pair = tuple[str, str]  # a picture and its depth, paths below the root of the set


def depth_truth(depth: Array, limits: tuple[float, float], known: Mask | None = None) -> DepthTruth:
    """Depth in m, valid strictly within `limits` and where `known`, and 0 elsewhere.

    Strictly, as in Marigold's protocol, so a lower limit of 0 excludes holes that are stored as 0.
    """
    valid = (depth > limits[0]) & (depth < limits[1])  # false for what is not a number
    if known is not None:
        valid &= known
    return DepthTruth(np.where(valid, depth, 0).astype(np.float32), valid)


def open_pairs(
    root: Path, pairs: Sequence[Pair], per_metre: float, limits: tuple[float, float]
) -> Samples[Pair]:
    """Samples of pictures and 16-bit grey PNGs whose numbers are depth in 1/`per_metre` m."""
    return Samples(pairs, partial(read_pair, root, per_metre, limits))


def read_pair(root: Path, per_metre: float, limits: tuple[float, float], pair: Pair) -> Sample:
    """One sample of `open_pairs`. Raises DataError."""
    picture, depth = pair
    metres = read_png16(root / depth).astype(np.float32) / np.float32(per_metre)
    return Sample(picture, (read_picture(root / picture),), depth_truth(metres, limits))


def find_list(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first of these files that is there: a published list of the split's files."""
    names = tuple(names)
    found = (folder / name for folder in folders for name in names)
    return next((path for path in found if path.is_file()), None)


def read_list(path: Path, columns: int) -> list[tuple[str, ...]]:
    """The first words of every line of a published list. Raises DataError naming the line."""
    rows = [tuple(line.split()) for line in read_lines(path)]
    for number, row in enumerate(rows, start=1):
        if len(row) < columns:
            raise DataError(
                f"{path}: entry {number} is {' '.join(row)!r}, {columns} paths should be there"
            )
    return [row[:columns] for row in rows]


def read_pairs(path: Path, prefix: str = "") -> list[Pair]:
    """Pictures and depths from a published list whose paths begin below `prefix`."""
    return [(prefix + picture, prefix + depth) for picture, depth in read_list(path, 2)]


def need(pairs: Sequence[Pair], root: Path, pattern: str) -> list[Pair]:
    """The pairs in order. Raises DataError if there are none; `pattern` was looked for."""
    if not pairs:
        raise DataError(f"{root} holds no {pattern}")
    return sorted(pairs)


def below(path: Path, root: Path) -> str:
    """The path from the root, with forward slashes on every system."""
    return path.relative_to(root).as_posix()
