"""A task's training batches from several sources, each as often as its share says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import torch

from training.data.augment import AugmentConfig
from training.data.mixture import PoolConfig, Stream, seeded
from training.data.sample import Batch, DataError
from training.data.sets import find_set, open_set
from training.data.stream import BatchStream, SetStream

PROCEDURAL = "procedural"  # what is rendered while training; any other name is a data set's
TRAINING_SPLITS = ("train", "training")

_BLOCK = 100  # batches over which shares hold exactly, up to rounding


@dataclass(frozen=True)
class SourceShare:
    """One source of a task's batches, and its part of them relative to the others."""

    name: str
    share: float


@dataclass(frozen=True)
class StreamConfig:
    """What all streams of a run have in common."""

    rows: int
    seed: int
    device: torch.device
    pool: PoolConfig
    augment: AugmentConfig


class MixedStream:
    """Batches from one of several streams at a time, in an order drawn anew for every block."""

    def __init__(
        self, key: str, seed: int, streams: Sequence[BatchStream], shares: Sequence[float]
    ) -> None:
        self._key, self._seed, self._streams = key, seed, streams
        self._counts = _counts(shares)

    def batch(self, step: int) -> Batch:
        """The batch of the task's own step number `step`."""
        chosen, own_step = self._turn(step)
        return self._streams[chosen].batch(own_step)

    def expect(self, steps: Sequence[int]) -> None:
        """Passes on to every source which of its own steps come next."""
        turns = [self._turn(step) for step in steps]
        for index, stream in enumerate(self._streams):
            stream.expect([own_step for chosen, own_step in turns if chosen == index])

    def _turn(self, step: int) -> tuple[int, int]:
        """The stream of a step, and how often it was drawn before."""
        block, place = divmod(step, _BLOCK)
        generator = seeded(torch.device("cpu"), "sources", self._seed, self._key, block)
        order = torch.repeat_interleave(torch.tensor(self._counts))
        order = order[torch.randperm(_BLOCK, generator=generator)]
        chosen = int(order[place])
        return chosen, block * self._counts[chosen] + int((order[:place] == chosen).sum())


def _counts(shares: Sequence[float]) -> list[int]:
    """Batches of each source in a block, at least one: the largest remainders are rounded up."""
    exact = [_BLOCK * share / sum(shares) for share in shares]
    counts = [max(1, math.floor(part)) for part in exact]
    while sum(counts) != _BLOCK:
        towards = 1 if sum(counts) < _BLOCK else -1
        gaps = [towards * (part - count) for part, count in zip(exact, counts, strict=True)]
        counts[gaps.index(max(gaps))] += towards
    return counts


def open_stream(
    task: str,
    sources: Sequence[SourceShare],
    size: int,
    config: StreamConfig,
    roots: Mapping[str, Path],
    workers: Executor,
) -> BatchStream:
    """The training batches of one task, pictures of `size` px; `roots` says where sets lie.

    Raises DataError for a set without a root or a training split, or whose folder is not one.
    """

    def opened(name: str) -> BatchStream:
        if name == PROCEDURAL:
            return Stream(task, size, config.rows, config.pool, config.seed, config.device)
        if name not in roots:
            raise DataError(f"{task} is trained on {name}: say where it is by --data {name}=FOLDER")
        samples = open_set(name, roots[name], training_split(name))
        return SetStream(
            name, samples, size, config.rows, config.seed, config.device, workers, config.augment
        )

    streams = [opened(source.name) for source in sources]
    if len(streams) == 1:
        return streams[0]
    return MixedStream(task, config.seed, streams, [source.share for source in sources])


def read_roots(told: Sequence[str]) -> Mapping[str, Path]:
    """Where data sets lie, of texts such as `hypersim=/data/hypersim`. Raises DataError."""
    roots: dict[str, Path] = {}
    for text in told:
        name, separator, folder = text.partition("=")
        if not (separator and folder):
            raise DataError(f"--data {text}: expected NAME=FOLDER, such as hypersim=/data/hypersim")
        roots[find_set(name).name] = Path(folder)
    return roots


def training_split(name: str) -> str:
    """The split of a set that is for training. Raises DataError where it has none."""
    found = [split for split in find_set(name).splits if split in TRAINING_SPLITS]
    if not found:
        raise DataError(f"{name} has no training split")
    return found[0]
