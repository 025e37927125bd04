"""Is a downloaded data set whole, and does every sample hold what it should?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from pathlib import Path

import numpy as np

from training.data.sample import (
    AmodalTruth,
    Array,
    DataError,
    DepthTruth,
    FlowTruth,
    Mask,
    Sample,
    Truth,
)
from training.data.set_info import SetInfo
from training.data.sets import open_set

MOST_OUTSIDE = 0.05  # of the visible mask, not inside the amodal one: polygons are drawn by hand
Track = Callable[[Sequence[int]], Iterable[int]]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, and where."""

    where: str
    what: str


@dataclass
class Measured:
    """What the samples hold that could be read."""

    what: str = ""
    unit: str = ""
    share_of: str = ""
    sizes: Counter[str] = field(default_factory=Counter)
    shares: list[float] = field(default_factory=list)  # of valid (or object) pixels, 0..1
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The outcome for one split. `read` are the indices of samples that could be read."""

    info: SetInfo
    path: Path
    split: str
    found: int
    tried: int
    read: tuple[int, ...]
    measured: Measured
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Reading:
    """One truth in a few numbers: which share of the pixels has an answer, and its span."""

    what: str
    unit: str
    share_of: str
    share: float
    low: float
    high: float
    problems: tuple[str, ...]


def spread(count: int, limit: int | None) -> list[int]:
    """`limit` of the indices below `count`, evenly, both ends included; all if there is none."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted({int(index) for index in np.linspace(0, count - 1, limit).round()})


def first_split(info: SetInfo, path: Path) -> str:
    """The first split that can be opened. Raises DataError saying what each of them lacks."""
    lacking: list[str] = []
    for split in info.splits:
        try:
            open_set(info.name, path, split)
        except DataError as error:
            lacking.append(f"{split}: {error}")
        else:
            return split
    raise DataError("; ".join(lacking))


def check_set(
    info: SetInfo,
    path: Path,
    split: str,
    limit: int | None = None,
    partial: bool = False,
    track: Track = iter,
) -> Report:
    """Reads all samples of a split, or `limit` of them, and notes what is wrong.

    A count that differs from the published one is a finding unless the download is `partial`.
    `track` shows progress over the indices. Raises DataError if the split cannot be opened.
    """
    samples = open_set(info.name, path, split)
    published = info.counts.get(split)
    findings: list[Finding] = []
    if published not in (None, len(samples)) and not partial:
        findings.append(Finding("count", f"{len(samples):,} samples, {published:,} are published"))
    read: list[int] = []
    measured = Measured()
    tried = spread(len(samples), limit)
    for index in track(tried):
        try:
            sample = samples[index]
        except DataError as error:
            findings.append(Finding(f"sample {index}", str(error)))
            continue
        read.append(index)
        findings.extend(_measure(sample, measured))
    return Report(
        info, path, split, len(samples), len(tried), tuple(read), measured, tuple(findings)
    )


def _measure(sample: Sample, measured: Measured) -> list[Finding]:
    reading = read_truth(sample.truth)
    height, width = sample.truth.shape
    measured.sizes[f"{width} x {height}"] += 1
    measured.what, measured.unit = reading.what, reading.unit
    measured.share_of = reading.share_of
    measured.shares.append(reading.share)
    if reading.share > 0:
        measured.lows.append(reading.low)
        measured.highs.append(reading.high)
    flat = any(int(image.min()) == int(image.max()) for image in sample.images)
    problems = (*reading.problems, *(("a picture is of one value",) if flat else ()))
    return [Finding(sample.name, problem) for problem in problems]


@singledispatch
def read_truth(truth: Truth) -> Reading:
    """The truth in a few numbers, and what is wrong with it."""
    raise TypeError(f"no check is defined for {type(truth).__name__}")


@read_truth.register
def _(truth: DepthTruth) -> Reading:
    return _read_values("depth", "m", truth.depth, truth.valid)


@read_truth.register
def _(truth: FlowTruth) -> Reading:
    lengths = np.hypot(truth.flow[0], truth.flow[1])
    reading = _read_values("flow", "px", lengths, truth.valid)
    if reading.high <= np.hypot(*truth.shape):
        return reading
    far = f"something moves by {reading.high:.0f} px, further than the picture is wide"
    return replace(reading, problems=(*reading.problems, far))


@read_truth.register
def _(truth: AmodalTruth) -> Reading:
    whole, seen = int(truth.amodal.sum()), int(truth.visible.sum())
    outside = int((truth.visible & ~truth.amodal).sum())
    problems = [] if whole else ["the mask of the whole object is empty"]
    if outside > MOST_OUTSIDE * seen:
        problems.append(f"{outside} of {seen} visible pixels are not in the whole mask")
    visible = 100 * (seen - outside) / max(whole, 1)
    share = float(truth.amodal.mean())
    return Reading(
        "visible", "% of the object", "object's pixels", share, visible, visible, tuple(problems)
    )


def _read_values(what: str, unit: str, values: Array, valid: Mask) -> Reading:
    share_of = f"pixels with {what}"
    if not valid.any():
        return Reading(what, unit, share_of, 0.0, 0.0, 0.0, (f"no pixel has valid {what}",))
    known, share = values[valid], float(valid.mean())
    return Reading(what, unit, share_of, share, float(known.min()), float(known.max()), ())
