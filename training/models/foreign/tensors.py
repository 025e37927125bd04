"""Tensors by name from files that others wrote, and nothing else: no code of a file is ever run."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.checkpoint import CheckpointError

_AVERAGE = "ema"  # what DiT's training calls the moving average that it samples with
_PARALLEL = "module."  # what training on several GPUs puts before every name
_STEM = "diffusion_pytorch_model"
_SHOWN = 5
# What the reader of pickles raises on bytes that are none, or that ask for what it does not do.
_BROKEN = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    MemoryError,
)


@dataclass(frozen=True)
class Tensors:
    """What a file holds. Whoever reads it takes `weights` out of the dictionary one by one."""

    source: str  # the file or folder, for messages
    weights: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_tensors(path: Path) -> Tensors:
    """The weights of a `.safetensors` file or of one of `torch.save`, left in the file until used.

    Takes the moving average where the file has one, as `ema`. Raises CheckpointError for a file
    that cannot be read, that holds more than tensors and plain values, or no state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    if path.suffix == ".safetensors":
        return _named(path, _read_safetensors(path), ())
    found = _read_pickle(path)
    if isinstance(found, Mapping) and _AVERAGE in found:
        return _named(
            path, found[_AVERAGE], (f"the moving average, {_AVERAGE}, of a training run",)
        )
    return _named(path, found, ())


def read_folder(folder: Path) -> Tensors:
    """The weights of a model that diffusers saved: one file, or shards with an index.

    Raises CheckpointError where there is none, and for what `read_tensors` does.
    """
    index = folder / f"{_STEM}.safetensors.index.json"
    if index.is_file():
        weights: dict[str, Tensor] = {}
        for name in _shards(index):
            weights |= read_tensors(folder / name).weights
        return Tensors(str(folder), weights)
    names = [f"{_STEM}.safetensors", f"{_STEM}.bin"]
    for name in names:
        if (folder / name).is_file():
            found = read_tensors(folder / name)
            return Tensors(str(folder), found.weights, found.notes)
    raise CheckpointError(f"{folder} holds no weights: neither {' nor '.join(names)}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        # DiT's training saves its command line too, a plain Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except _BROKEN as error:
        # PyTorch's own message goes on to say how to run the code of the file after all.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            reason = f"holds more than tensors, it asks for {asked[1]}, and is not read"
        else:
            reason = "cannot be read as a file of torch.save with tensors alone"
        raise CheckpointError(f"{path} {reason}") from error


def _named(path: Path, found: object, notes: tuple[str, ...]) -> Tensors:
    """The state dict that was found, without what data parallel training put before its names."""
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path} holds no tensors by name, but a {type(found).__name__}")
    odd = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if odd:
        shown = ", ".join(odd[:_SHOWN])
        raise CheckpointError(f"{path} holds no state dict, bare or as {_AVERAGE}: it has {shown}")
    weights = {str(name): value for name, value in found.items()}
    if all(name.startswith(_PARALLEL) for name in weights):
        weights = {name.removeprefix(_PARALLEL): value for name, value in weights.items()}
    for name, value in weights.items():
        if not value.is_floating_point() or value.layout != torch.strided:
            raise CheckpointError(f"{path}: {name} is of {value.dtype}, {value.layout}")
    kinds = sorted({str(v.dtype).removeprefix("torch.") for v in weights.values()} - {"float32"})
    if kinds:
        notes = (*notes, f"stored in {', '.join(kinds)}")
    return Tensors(str(path), weights, notes)


def _shards(index: Path) -> list[str]:
    """The names of files that an index lists, all of its own folder."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of weights: {error!r}") from error
    for name in names:
        beside = isinstance(name, str) and Path(name).name == name
        if not beside or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {name!r}, which is no safetensors file beside it")
    return names
