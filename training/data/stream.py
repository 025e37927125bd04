"""Batches for training from data sets on disk, each a function of the seed and the step alone.

Samples are read, cut and resized by workers, ahead of need, while a network learns; what they make
does not depend on how many they are, on what was asked before, or on where a run resumes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch
from multiprocessing import get_context
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.core.record import require
from training.data.augment import AugmentConfig, augment
from training.data.mixture import seeded
from training.data.sample import (
    AmodalBatch,
    AmodalTruth,
    Batch,
    DataError,
    DepthBatch,
    DepthTruth,
    FlowBatch,
    FlowTruth,
    Sample,
    Truth,
)

_MOST_WORKERS = 16
_CPU = torch.device("cpu")


class BatchStream(Protocol):
    """Where a task's batches come from."""

    def batch(self, step: int) -> Batch:
        """The batch of the task's own step number `step`, always the same one."""

    def expect(self, steps: Sequence[int]) -> None:
        """Says which steps will be asked for next, so that they can be made ready."""


@dataclass(frozen=True)
class LoaderConfig:
    """Who reads samples, and how far ahead.

    `workers` of None are the machine's cores, shared among the training processes on it, at most
    16. Threads suffice where reading happens in C, as for pictures; HDF5 files are read by one
    thread at a time, and so want processes.
    """

    workers: int | None = None
    kind: Literal["threads", "processes"] = "threads"
    ahead: int = 4  # batches

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers >= 1, "workers", "must be at least 1")
        require(self.ahead >= 0, "ahead", "must not be negative")

    @property
    def num_workers(self) -> int:
        """How many workers there are in this process."""
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, min(_MOST_WORKERS, (cores or 1) // sharing))

    def batches_ahead(self, rows: int) -> int:
        """How many batches, at least of `rows` each, are being read: enough for every worker."""
        return max(1, self.ahead, -(-2 * self.num_workers // rows))


@contextmanager
def reading(config: LoaderConfig) -> Iterator[Executor]:
    """The workers that all streams of a run share; what they have not begun at the end is left."""
    workers = _workers(config)
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)


def _workers(config: LoaderConfig) -> Executor:
    if config.kind == "threads":
        return ThreadPoolExecutor(config.num_workers, thread_name_prefix="reader")
    # Forking a process that has threads and a GPU would leave locks held forever.
    return ProcessPoolExecutor(config.num_workers, mp_context=get_context("spawn"))


class SetStream:
    """Batches of `rows` samples, the whole set in a new order in every epoch.

    Raises DataError for an empty set; `batch` does for a sample that cannot be read.
    """

    def __init__(
        self,
        name: str,
        samples: Sequence[Sample],
        size: int,
        rows: int,
        seed: int,
        device: torch.device,
        workers: Executor,
        config: AugmentConfig | None = None,
    ) -> None:
        if not samples:
            raise DataError(f"{name} has no samples")
        self._name, self._samples, self._size, self._rows = name, samples, size, rows
        self._seed, self._device, self._workers = seed, device, workers
        self._config = config or AugmentConfig()
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._begun: dict[int, list[Future[Sample]]] = {}

    def batch(self, step: int) -> Batch:
        """The batch of the set's own step number `step`."""
        begun = self._begun.pop(step, None) or self._begin(step)
        return collate([reading.result() for reading in begun], self._device)

    def expect(self, steps: Sequence[int]) -> None:
        """Begins to read `steps`, and forgets what was begun and is not among them."""
        for step in self._begun.keys() - set(steps):
            for reading in self._begun.pop(step):
                reading.cancel()
        for step in steps:
            if step not in self._begun:
                self._begun[step] = self._begin(step)

    def _begin(self, step: int) -> list[Future[Sample]]:
        first = step * self._rows
        return [self._read(position) for position in range(first, first + self._rows)]

    def _read(self, position: int) -> Future[Sample]:
        """Begins to read the sample at `position` of all epochs strung together."""
        epoch, place = divmod(position, len(self._samples))
        index = int(self._order(epoch)[place])
        # A slice of a set is lazy and small: it can travel to another process and be read there.
        one = self._samples[index : index + 1]
        key = repr(("view", self._seed, self._name, position))
        return self._workers.submit(_load, one, self._size, self._config, key)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            generator = seeded(_CPU, "order", self._seed, self._name, epoch)
            order = torch.randperm(len(self._samples), generator=generator).numpy()
            newest = {e: kept for e, kept in self._orders.items() if e >= epoch - 1}
            self._orders = {**newest, epoch: order}
        return self._orders[epoch]


def _load(one: Sequence[Sample], size: int, config: AugmentConfig, key: str) -> Sample:
    return augment(one[0], size, config, seeded(_CPU, key))


def collate(samples: Sequence[Sample], device: torch.device) -> Batch:
    """Samples of one task and one square size as a batch on `device`."""
    return _collate(samples[0].truth, samples, device)


@singledispatch
def _collate(first: Truth, samples: Sequence[Sample], device: torch.device) -> Batch:
    raise TypeError(f"no batch is defined for {len(samples)} x {type(first).__name__}, {device}")


@_collate.register
def _(first: DepthTruth, samples: Sequence[Sample], device: torch.device) -> DepthBatch:
    del first
    truths = [sample.truth for sample in samples if isinstance(sample.truth, DepthTruth)]
    depth = _stack([truth.depth[None] for truth in truths], device)
    valid = _stack([truth.valid[None] for truth in truths], device)
    return DepthBatch(_pictures(samples, 0, device), depth, valid)


@_collate.register
def _(first: FlowTruth, samples: Sequence[Sample], device: torch.device) -> FlowBatch:
    del first
    truths = [sample.truth for sample in samples if isinstance(sample.truth, FlowTruth)]
    hidden = [
        np.zeros_like(truth.valid) if truth.occluded is None else truth.occluded for truth in truths
    ]
    return FlowBatch(
        _pictures(samples, 0, device),
        _pictures(samples, 1, device),
        _stack([truth.flow for truth in truths], device),
        _stack([mask[None] for mask in hidden], device),
        _stack([truth.valid[None] for truth in truths], device),
    )


@_collate.register
def _(first: AmodalTruth, samples: Sequence[Sample], device: torch.device) -> AmodalBatch:
    del first
    visible, amodal, whole = [], [], []
    for sample in samples:
        assert isinstance(sample.truth, AmodalTruth)
        if sample.truth.whole is None:
            raise DataError(f"{sample.name}: nothing tells how the whole object looks")
        visible.append(sample.truth.visible[None])
        amodal.append((sample.truth.amodal | sample.truth.visible)[None])
        whole.append(sample.truth.whole)
    return AmodalBatch(
        _pictures(samples, 0, device),
        _stack(visible, device).float(),
        _stack(amodal, device).float(),
        _to_unit(_stack(whole, device)),
    )


def _pictures(samples: Sequence[Sample], which: int, device: torch.device) -> Tensor:
    return _to_unit(_stack([sample.images[which] for sample in samples], device))


def _stack(arrays: Sequence[NDArray[np.generic]], device: torch.device) -> Tensor:
    joined = torch.from_numpy(np.stack(arrays))
    if device.type == "cuda":
        joined = joined.pin_memory()  # so that the copy does not hold up what the GPU is doing
    return joined.to(device, non_blocking=True)


def _to_unit(pictures: Tensor) -> Tensor:
    """uint8 (B, S, S, 3), small to move, as float32 (B, 3, S, S) in [0, 1]."""
    return pictures.permute(0, 3, 1, 2).float().div(255).contiguous()
