"""Weights out of public files: tensors and nothing else, every key accounted for."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.converters.config import read_config
from training.converters.record import ConvertError

_LISTED = 8  # keys of a kind that a message spells out
_SUFFIXES = (".safetensors", ".fp16.safetensors", ".bin")  # the preferred first

Rename = Callable[[str], str]


def weight_files(folder: Path, stem: str) -> tuple[Path, ...]:
    """The files that hold a network's weights: one, or the shards that an index lists."""
    for suffix in _SUFFIXES:
        index = folder / f"{stem}{suffix}.index.json"
        if index.is_file():
            return (index, *_shards(index))
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return (path,)
    raise ConvertError(f"{folder} has no {stem}.safetensors or {stem}.bin")


def _shards(index: Path) -> tuple[Path, ...]:
    places = read_config(index).stated("weight_map")
    if not isinstance(places, dict) or not places:
        raise ConvertError(f"{index} does not state weight_map")
    names = sorted({str(name) for name in places.values()})
    if any(Path(name).name != name for name in names):
        raise ConvertError(f"{index}: weight_map must name files beside it")
    return tuple(index.parent / name for name in names)


def fill(module: nn.Module, files: tuple[Path, ...], rename: Rename | None = None) -> nn.Module:
    """Give a module on the meta device its weights, in float32 and without a second copy.

    Raises ConvertError listing the keys that are missing or unexpected, and shapes that differ.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        if path.suffix != ".json":
            weights.update(read_tensors(path))
    if rename is not None:
        weights = {rename(key): value for key, value in weights.items()}
    expected = module.state_dict()
    check_keys(files[0], expected.keys() - weights.keys(), weights.keys() - expected.keys())
    for key, value in expected.items():
        found = weights[key]
        if found.shape != value.shape:
            raise ConvertError(
                f"{files[0]}: {key} is {tuple(found.shape)} and must be {tuple(value.shape)}"
            )
        weights[key] = found.float() if found.is_floating_point() else found
    module.load_state_dict(weights, assign=True)
    return module.requires_grad_(False).eval()


def check_keys(path: Path, missing: Collection[str], unexpected: Collection[str]) -> None:
    """Raise ConvertError unless a file has every key and no other."""
    if not missing and not unexpected:
        return
    told = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:_LISTED])}{', ...' * (len(keys) > _LISTED)})"
        for what, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    raise ConvertError(f"{path} does not fit its config: keys {' and '.join(told)}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read one file of tensors; raises ConvertError for one that holds anything else."""
    if not path.is_file():
        raise ConvertError(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # weights_only: a pickle may run whatever it likes as soon as it is read
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise ConvertError(
            f"{path} holds more than tensors and is not read, since it could run code: convert it "
            "to safetensors where you trust it"
        ) from None
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ConvertError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(v, Tensor) for v in values.values()):
        raise ConvertError(f"{path} is not a plain dictionary of tensors")
    return values
