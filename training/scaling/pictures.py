"""Where a scale's depth pictures come from: rendered scenes, or data sets on disk.

Both are numbered batches, so that a cache of their latents can be filled in parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from training.data.augment import View, see
from training.data.mixture import PoolConfig, Stream
from training.data.sample import DepthBatch, Sample
from training.data.sets import open_set
from training.data.stream import SetStream, collate

HELD_OUT_SEED = 1_000_003  # far from every training seed


class DepthPictures(Protocol):
    """Batches of square pictures of `side` px with their depth."""

    @property
    def side(self) -> int:
        """Of the pictures, px."""

    @property
    def count(self) -> int:
        """Pictures to train on."""

    @property
    def chunk(self) -> int:
        """Pictures in one batch."""

    def training(self, chunk: int) -> DepthBatch:
        """Training batch number `chunk`."""

    def held_out(self, chunk: int) -> DepthBatch:
        """Batch number `chunk` of pictures that no network is trained on."""


@dataclass(frozen=True)
class Rendered:
    """Procedural scenes, each rendered once and seen through one camera."""

    side: int
    count: int
    chunk: int
    compiled: bool = True
    seed: int = 1

    def training(self, chunk: int) -> DepthBatch:
        """See `DepthPictures`."""
        return self._batch(chunk, self.seed)

    def held_out(self, chunk: int) -> DepthBatch:
        """See `DepthPictures`."""
        return self._batch(chunk, HELD_OUT_SEED)

    def _batch(self, chunk: int, seed: int) -> DepthBatch:
        # A pool of a single chunk, looked at once: every step renders its own.
        pool = PoolConfig(chunk=self.chunk, chunks=1, views=1, compiled=self.compiled)
        stream = Stream("depth", self.side, self.chunk, pool, seed, torch.device("cpu"))
        batch = stream.batch(chunk)
        assert isinstance(batch, DepthBatch)
        return batch


@dataclass(frozen=True)
class OnDisk:
    """Data sets below `root`, each in the folder of its name, mixed by `shares`."""

    root: Path
    side: int
    count: int
    shares: Mapping[str, int]  # pictures of each set in a batch
    held_out_set: str
    held_out_count: int
    seed: int = 1

    @property
    def chunk(self) -> int:
        """See `DepthPictures`."""
        return sum(self.shares.values())

    def training(self, chunk: int) -> DepthBatch:
        """See `DepthPictures`; raises DataError for what cannot be read."""
        with ThreadPoolExecutor() as workers:
            batches = [self._stream(name, workers).batch(chunk) for name in self.shares]
        depths = [batch for batch in batches if isinstance(batch, DepthBatch)]
        return DepthBatch(
            torch.cat([batch.image for batch in depths]),
            torch.cat([batch.depth for batch in depths]),
            torch.cat([batch.valid for batch in depths if batch.valid is not None]),
        )

    def held_out(self, chunk: int) -> DepthBatch:
        """See `DepthPictures`: validation pictures far apart, as they are."""
        samples = open_set(self.held_out_set, self.root / self.held_out_set, "val")
        stride = max(1, len(samples) // self.held_out_count)
        first = chunk * self.chunk
        shown = [
            _whole(samples[(index * stride) % len(samples)], self.side)
            for index in range(first, first + self.chunk)
        ]
        batch = collate(shown, torch.device("cpu"))
        assert isinstance(batch, DepthBatch)
        return batch

    def _stream(self, name: str, workers: ThreadPoolExecutor) -> SetStream:
        samples = open_set(name, self.root / name, "train")
        rows, cpu = self.shares[name], torch.device("cpu")
        return SetStream(name, samples, self.side, rows, self.seed, cpu, workers)


def _whole(sample: Sample, side: int) -> Sample:
    """All of a sample, as squares of `side` px."""
    height, width = sample.truth.shape
    return see(sample, View(0, 0, width, height, mirrored=False), side)
