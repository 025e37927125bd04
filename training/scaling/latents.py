"""The fixed pool that all networks of a scale learn from: latents of pictures and of their depth.

Encoded once, so that training is the denoiser's work alone. One folder per pool holds, for every
size, `image_S.npy` and `target_S.npy`, float16 (N, C, h, w), and `filled.json`, which says how many
batches are in. A killed fill goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.data.sample import DataError, DepthBatch
from training.models.autoencoders import PictureCoder
from training.scaling.pictures import DepthPictures
from training.targets import TargetTable, prepare, shrink

FILLED = "filled.json"
_ROWS = 32  # pictures encoded at a time

Half = NDArray[np.float16]


@dataclass(frozen=True)
class DepthLatents:
    """Latents (N, C, h, w) of pictures and of the targets they should give."""

    image: Half
    target: Half

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Latents of pictures and targets `indices` (B,), float32."""
        return (
            torch.from_numpy(self.image[indices].astype(np.float32)),
            torch.from_numpy(self.target[indices].astype(np.float32)),
        )


@dataclass(frozen=True)
class HeldOut:
    """Scenes that nothing was trained on: the exact depth, and their latents at every size."""

    depth: Tensor  # (n, 1, S, S)
    valid: Tensor  # (n, 1, S, S), bool
    latents: Mapping[int, DepthLatents]


@dataclass(frozen=True)
class Encoder:
    """Pictures with depth to latents: by which autoencoder and targets, and at which sizes."""

    coder: PictureCoder
    table: TargetTable
    sizes: tuple[int, ...]
    device: torch.device

    @torch.no_grad()
    def __call__(self, batch: DepthBatch) -> dict[int, DepthLatents]:
        """Latents of a batch's pictures and targets at every size."""
        result = {}
        for size in self.sizes:
            example = prepare(batch, size, self.table)
            image, target = shrink(example.image, size), example.targets[:, 0]
            result[size] = DepthLatents(self._encoded(image), self._encoded(target))
        return result

    def _encoded(self, pictures: Tensor) -> Half:
        parts = [
            self.coder.encode(part.to(self.device)).half().cpu()
            for part in torch.split(pictures, _ROWS)
        ]
        return torch.cat(parts).numpy()


def fill(folder: Path, pictures: DepthPictures, encoder: Encoder) -> None:
    """Encodes the pool's pictures, as far as that was not done before."""
    chunks = -(-pictures.count // pictures.chunk)
    folder.mkdir(parents=True, exist_ok=True)
    for chunk in range(_filled(folder), chunks):
        place = slice(chunk * pictures.chunk, (chunk + 1) * pictures.chunk)
        for size, latents in encoder(pictures.training(chunk)).items():
            for name, values in (("image", latents.image), ("target", latents.target)):
                shape = (chunks * pictures.chunk, *values.shape[1:])
                array = _array(folder / f"{name}_{size}.npy", shape)
                array[place] = values
                array.flush()
        _write_filled(folder, chunk + 1)


def open_depth_latents(folder: Path, sizes: tuple[int, ...]) -> dict[int, DepthLatents]:
    """The filled pool by size, mapped and not loaded."""
    return {
        size: DepthLatents(
            np.load(folder / f"image_{size}.npy", mmap_mode="r"),
            np.load(folder / f"target_{size}.npy", mmap_mode="r"),
        )
        for size in sizes
    }


def fill_held_out(folder: Path, pictures: DepthPictures, encoder: Encoder, scenes: int) -> None:
    """Encodes the first `scenes` held-out pictures into `folder`, unless they are there."""
    path = _scenes_file(folder, scenes)
    if path.is_file():
        return
    batches = [pictures.held_out(chunk) for chunk in range(-(-scenes // pictures.chunk))]
    tensors = {
        "depth": torch.cat([batch.depth for batch in batches])[:scenes],
        "valid": torch.cat([known(batch) for batch in batches])[:scenes],
    }
    encoded = [encoder(batch) for batch in batches]
    for size in encoder.sizes:
        for name in ("image", "target"):
            parts = [torch.from_numpy(getattr(part[size], name)) for part in encoded]
            tensors[f"{name}_{size}"] = torch.cat(parts)[:scenes]
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{path.name}"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.rename(path)


def open_held_out(folder: Path, sizes: tuple[int, ...], scenes: int) -> HeldOut:
    """What `fill_held_out` wrote."""
    kept = load_file(_scenes_file(folder, scenes))
    latents = {
        size: DepthLatents(kept[f"image_{size}"].numpy(), kept[f"target_{size}"].numpy())
        for size in sizes
    }
    return HeldOut(kept["depth"], kept["valid"], latents)


def _scenes_file(folder: Path, scenes: int) -> Path:
    return folder / f"{scenes}.safetensors"


def known(batch: DepthBatch) -> Tensor:
    """Where a batch's depth is known, bool (B, 1, S, S)."""
    if batch.valid is not None:
        return batch.valid
    return torch.ones_like(batch.depth, dtype=torch.bool)


def _array(path: Path, shape: tuple[int, ...]) -> np.memmap[tuple[int, ...], np.dtype[np.float16]]:
    if not path.is_file():
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    array = np.lib.format.open_memmap(path, mode="r+")
    if array.shape != shape:
        raise DataError(f"{path} holds {array.shape}, not {shape}: it is of another pool")
    return array


def _filled(folder: Path) -> int:
    path = folder / FILLED
    return int(json.loads(path.read_text())["batches"]) if path.is_file() else 0


def _write_filled(folder: Path, batches: int) -> None:
    partial = folder / f".{FILLED}"
    partial.write_text(json.dumps({"batches": batches}) + "\n")
    partial.rename(folder / FILLED)
