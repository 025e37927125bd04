"""What is known of a public data set before it is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.core.tasks import TaskName
from training.data.sample import Sample

Open = Callable[[Path, str], Sequence[Sample]]  # (root folder, split)


@dataclass(frozen=True)
class SetInfo:
    """One data set. `open` finds the samples of a split; a sample is read when it is indexed."""

    name: str
    task: TaskName
    splits: tuple[str, ...]
    open: Open
    depth_range: tuple[float, float] | None  # m, outside of it depth is not valid; clips answers
    counts: Mapping[str, int]  # samples of a split as published, where that is known
    licence: str
    source: str  # where it is published
    layout: tuple[str, ...]  # the files of one sample, below the root
