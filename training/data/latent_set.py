"""A cache of encoded pictures on disk, and the endless shuffled stream that pre-training reads.

A cache is a folder `NNNNNN` per shard, which holds `latents.npy`, `labels.npy` and, where pictures
were also encoded in a mirror, `mirrored.npy`; and `index.json`, which is there only once all shards
are. Arrays are mapped, never loaded: ImageNet at 256 px is 21 GB with its mirror images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.core.record import ArtifactError, load_record, require
from training.data.sample import DataError

INDEX = "index.json"
LATENTS, MIRRORED, LABELS = "latents.npy", "mirrored.npy", "labels.npy"


@dataclass(frozen=True)
class LatentShard:
    """One folder of the cache."""

    name: str
    count: int
    sha256: Mapping[str, str]  # of each of its files


@dataclass(frozen=True)
class LatentIndex:
    """What a cache holds, and what made it."""

    source: str  # the pictures' identity
    vae: str  # sha256 of the autoencoder's weights
    size: int  # px, side of the pictures
    latent_shape: tuple[int, ...]  # (C, h, w)
    classes: tuple[str, ...]
    mirrored: bool
    shards: tuple[LatentShard, ...]

    def __post_init__(self) -> None:
        require(len(self.latent_shape) == 3, "latent_shape", "must be channels, height, width")
        require(bool(self.shards), "shards", "must not be empty")

    @property
    def count(self) -> int:
        """Number of pictures."""
        return sum(shard.count for shard in self.shards)


class LatentSet:
    """Latents and labels by picture number."""

    def __init__(self, folder: Path, index: LatentIndex) -> None:
        """Maps the shards; raises DataError naming the file that is not what the index says."""
        self.folder, self.index = folder, index
        self._starts = np.cumsum([0, *(shard.count for shard in index.shards)])
        rows = {shard.name: (shard.count, *index.latent_shape) for shard in index.shards}
        self._latents = [_mapped(folder / n / LATENTS, s, np.float16) for n, s in rows.items()]
        self._mirrored = [
            _mapped(folder / n / MIRRORED, s, np.float16) for n, s in rows.items() if index.mirrored
        ]
        self.labels: NDArray[np.int64] = np.concatenate(
            [_mapped(folder / n / LABELS, s[:1], np.int64) for n, s in rows.items()]
        )
        if self.labels.min() < 0 or self.labels.max() >= len(index.classes):
            raise DataError(
                f"{folder}: labels {self.labels.min()}..{self.labels.max()} do not fit "
                f"{len(index.classes)} classes"
            )

    def __len__(self) -> int:
        return self.index.count

    def batch(
        self, indices: NDArray[np.int64], mirrored: NDArray[np.bool_] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w), float32, and labels (B,), int64, of pictures `indices` (B,).

        `mirrored` (B,) says whose mirror image is wanted. Raises IndexError beyond the last
        picture, and ValueError for a mirror image of a cache without them.
        """
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"{indices.min()}..{indices.max()} of {len(self)} latents")
        flips = np.zeros(len(indices), np.bool_) if mirrored is None else mirrored
        if flips.any() and not self._mirrored:
            raise ValueError(f"{self.folder} holds no mirrored latents")
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        result = np.empty((len(indices), *self.index.latent_shape), np.float32)
        for place, (shard, index, flip) in enumerate(zip(shards, indices, flips, strict=True)):
            files = self._mirrored if flip else self._latents
            result[place] = files[shard][index - self._starts[shard]]
        return torch.from_numpy(result), torch.from_numpy(self.labels[indices])

    def verify(self) -> None:
        """Reads every file; raises DataError naming the first whose bytes have changed."""
        for shard in self.index.shards:
            for name, expected in shard.sha256.items():
                path = self.folder / shard.name / name
                if file_sha256(path) != expected:
                    raise DataError(f"{path} is not what was written: its checksum differs")


def open_latents(folder: Path, verify: bool = False) -> LatentSet:
    """A finished cache, its files checked for type and shape, and with `verify` byte for byte.

    Raises DataError where it is missing, unfinished, or not what its index says.
    """
    try:
        text = (folder / INDEX).read_text()
    except OSError as error:
        raise DataError(
            f"{folder} is not a finished cache of latents ({error}); training.latents writes them"
        ) from error
    try:
        index = load_record(LatentIndex, text)
    except ArtifactError as error:
        raise DataError(f"{folder / INDEX}: {error}") from error
    latents = LatentSet(folder, index)
    if verify:
        latents.verify()
    return latents


def file_sha256(path: Path) -> str:
    """Checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mapped(path: Path, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be mapped: {error}") from error
    if array.shape != shape or array.dtype != kind:
        raise DataError(
            f"{path} holds {array.dtype} {array.shape}, its index says {np.dtype(kind)} {shape}"
        )
    return array


class LatentStream:
    """Batches without end: every epoch a new order of all pictures, each seen once in it."""

    def __init__(self, latents: LatentSet, rows: int, seed: int, flip: bool) -> None:
        """`flip` shows half of the pictures in a mirror.

        Raises DataError where that is asked for and the cache holds none.
        """
        if flip and not latents.index.mirrored:
            raise DataError(
                f"{latents.folder} holds no mirrored latents: encode with --flip, or set flip=false"
            )
        self._latents, self._rows, self._seed, self._flip = latents, rows, seed, flip
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) and labels (B,) of batch `index`, a function of it and the seed."""
        indices = self.indices(index)
        mirrored = None
        if self._flip:
            generator = np.random.default_rng([self._seed, 1, index])
            mirrored = generator.random(self._rows) < 0.5
        return self._latents.batch(indices, mirrored)

    def indices(self, index: int) -> NDArray[np.int64]:
        """Picture numbers of batch `index`; a batch may end one epoch and begin the next."""
        numbers = np.arange(index * self._rows, (index + 1) * self._rows)
        epochs, places = np.divmod(numbers, len(self._latents))
        parts = [
            self._permutation(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)
        ]
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch, kept until another is asked for: 10 MB for ImageNet."""
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self._seed, 0, epoch])
            self._order = epoch, generator.permutation(len(self._latents))
        return self._order[1]
