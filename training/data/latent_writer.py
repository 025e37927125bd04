"""Writes the cache that `latent_set` reads: whole shards or none, whatever kills the process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.core.record import ArtifactError, dump_record, load_record
from training.data.latent_set import (
    INDEX,
    LABELS,
    LATENTS,
    MIRRORED,
    LatentIndex,
    LatentShard,
    file_sha256,
)
from training.data.sample import DataError

_PLAN, _SHARD = "plan.json", "shard.json"


@dataclass(frozen=True)
class CachePlan:
    """What a cache will hold once it is finished."""

    source: str
    vae: str
    size: int
    latent_shape: tuple[int, ...]
    classes: tuple[str, ...]
    mirrored: bool
    count: int
    per_shard: int

    @property
    def num_shards(self) -> int:
        """How many shards there will be; the last may be smaller."""
        return -(-self.count // self.per_shard)

    def rows(self, number: int) -> range:
        """Numbers of the pictures in shard `number`."""
        start = number * self.per_shard
        return range(start, min(start + self.per_shard, self.count))

    def arrays(
        self, latents: Tensor, mirrored: Tensor | None, labels: list[int]
    ) -> Mapping[str, NDArray[np.generic]]:
        """The arrays of one shard by file name, from latents (N, C, h, w)."""
        arrays: dict[str, NDArray[np.generic]] = {
            LATENTS: latents.numpy().astype(np.float16),
            LABELS: np.asarray(labels, np.int64),
        }
        if mirrored is not None:
            arrays[MIRRORED] = mirrored.numpy().astype(np.float16)
        return arrays


def begin(plan: CachePlan, folder: Path) -> None:
    """Notes the plan in an empty folder, or compares it; raises DataError where they differ."""
    if plan.count == 0:
        raise DataError(f"there are no pictures to encode: {plan.source}")
    path = folder / _PLAN
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _replace(path, dump_record(plan))
        return
    try:
        begun = load_record(CachePlan, path.read_text())
    except ArtifactError as error:
        raise DataError(f"{path}: {error}") from error
    for name, value in vars(plan).items():
        if getattr(begun, name) != value:
            raise DataError(
                f"{folder} was begun with {name} = {getattr(begun, name)!r}, now it is {value!r}; "
                "choose another folder"
            )


def missing(plan: CachePlan, folder: Path) -> list[int]:
    """Numbers of the shards that are not there yet."""
    return [n for n in range(plan.num_shards) if not (folder / _name(n)).is_dir()]


def write_shard(
    plan: CachePlan, number: int, arrays: Mapping[str, NDArray[np.generic]], folder: Path
) -> None:
    """Writes one shard under another name, then renames it. Raises DataError for latents of NaN."""
    final = folder / _name(number)
    # Named after the process, since two shares that were given the same number must not mix.
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    checksums = {}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataError(f"shard {number}: {name} is not finite; the autoencoder overflows")
        with (partial / name).open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        checksums[name] = file_sha256(partial / name)
    _replace(
        partial / _SHARD, dump_record(LatentShard(final.name, len(plan.rows(number)), checksums))
    )
    if not final.exists():
        partial.rename(final)
    shutil.rmtree(partial, ignore_errors=True)


def finish(plan: CachePlan, folder: Path) -> None:
    """Writes the index of a cache that misses no shard, and clears what kills left behind."""
    shards = tuple(
        load_record(LatentShard, (folder / _name(n) / _SHARD).read_text())
        for n in range(plan.num_shards)
    )
    index = LatentIndex(
        plan.source, plan.vae, plan.size, plan.latent_shape, plan.classes, plan.mirrored, shards
    )
    _replace(folder / INDEX, dump_record(index))
    for left in folder.glob(".*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def _name(number: int) -> str:
    return f"{number:06d}"


def _replace(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
