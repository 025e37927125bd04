"""Curves of a run: `curves.csv` for programs, tensorboard for eyes, the newest values for both."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TextIO

from torch.utils.tensorboard import SummaryWriter

from training.checkpoint import TrainState
from training.progress import Pace, Show

CURVES = "curves.csv"
_HEADER = ("step", "group", "part", "value", "samples", "macs", "lr")


@dataclass(frozen=True)
class Passed:
    """What is remembered of one micro-batch."""

    group: str
    parts: Mapping[str, float]
    samples: int
    macs: int | None = None  # where they were counted

    @property
    def loss(self) -> float:
        """The sum of the parts."""
        return math.fsum(self.parts.values())


@dataclass(frozen=True)
class Taken:
    """One step after it was taken, over all processes."""

    passes: Sequence[Passed]
    learning_rate: float
    gradient_norm: float
    state: TrainState


class Curves:
    """Means of the loss parts over the steps since the last values, every `every` steps.

    `folder` None writes nothing, as all processes but the first. What an interrupted run wrote
    after the checkpoint that it goes on from is removed.
    """

    def __init__(self, folder: Path | None, begun: int, every: int, show: Show) -> None:
        self._every, self._show = every, show
        self._since, self._means = time.perf_counter(), _Means()
        self._pace = Pace(begun)
        self._file: TextIO | None = None
        if folder is not None:
            self._file = _continued(folder / CURVES, begun)
            self._board = SummaryWriter(str(folder / "curves"), purge_step=begun + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()

    def add(self, taken: Taken) -> None:
        """Counts a step in, and writes when it is time to."""
        self._means.add(taken.passes)
        fresh = taken.state.step % self._every == 0
        if fresh:
            self._write(taken)
        pace = self._pace
        self._show(
            Pace(taken.state.step, pace.losses, pace.samples_per_s, pace.learning_rate, fresh)
        )

    def _write(self, taken: Taken) -> None:
        now, step = time.perf_counter(), taken.state.step
        rate = self._means.samples / (now - self._since)
        means, self._since, self._means = self._means.parts, now, _Means()
        losses = {f"{group}/{part}": value for (group, part), value in means.items()}
        self._pace = Pace(step, losses, rate, taken.learning_rate)
        if self._file is None:
            return
        totals = (taken.state.samples, taken.state.macs, taken.learning_rate)
        csv.writer(self._file).writerows(
            (step, group, part, value, *totals) for (group, part), value in means.items()
        )
        self._file.flush()
        scalars = {
            **losses,
            "samples_per_second": rate,
            "gradient_norm": taken.gradient_norm,
            "learning_rate": taken.learning_rate,
            "macs": taken.state.macs,
        }
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)


@dataclass
class _Means:
    """Sums since the last values."""

    samples: int = 0
    sums: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def add(self, passes: Sequence[Passed]) -> None:
        for passed in passes:
            self.samples += passed.samples
            for part, value in passed.parts.items():
                total, count = self.sums.get((passed.group, part), (0.0, 0))
                self.sums[passed.group, part] = total + value, count + 1

    @property
    def parts(self) -> dict[tuple[str, str], float]:
        """Mean of each part by (group, part)."""
        return {key: total / count for key, (total, count) in sorted(self.sums.items())}


def _continued(path: Path, begun: int) -> TextIO:
    """The open file with its rows up to step `begun`, replaced as a whole."""
    rows: list[list[str]] = []
    if begun and path.is_file():
        with path.open(newline="") as file:
            # A kill may have cut the last row short.
            rows = [row for row in list(csv.reader(file))[1:] if len(row) == len(_HEADER)]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="") as file:
        csv.writer(file).writerows([_HEADER, *(row for row in rows if int(row[0]) <= begun)])
    os.replace(partial, path)
    return path.open("a", newline="")
