"""Checkpoints: safetensors for numbers, JSON for the rest; a kill at any moment leaves a whole one.

A checkpoint is a folder `NNNNNNNN` with `model.safetensors`, `ema.safetensors`,
`optimizer.safetensors` and `state.json`. It appears under its final name only when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

_KEPT = 2


class CheckpointError(Exception):
    """A checkpoint that is missing or does not fit the model; the message names the file."""


@dataclass(frozen=True)
class TrainState:
    """What a run needs, beside its networks, to go on exactly where it stopped.

    There is no generator's state: all randomness is derived from the seed and the step.
    """

    step: int
    samples: int
    config: Mapping[str, object]


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
) -> Path:
    """Writes `folder/NNNNNNNN` atomically, forgets all but the newest two, and returns its path."""
    final = folder / f"{state.step:08d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(model, str(partial / "model.safetensors"))
    save_model(ema, str(partial / "ema.safetensors"))
    save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
    text = json.dumps(
        {"step": state.step, "samples": state.samples, "config": dict(state.config)}, indent=2
    )
    (partial / "state.json").write_text(text + "\n")
    for path in partial.iterdir():
        _flush(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in _complete(folder)[:-_KEPT]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint below `folder`, if there is one."""
    complete = _complete(folder)
    return complete[-1] if complete else None


def load_checkpoint(
    path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainState:
    """Restores everything in place; raises CheckpointError where names or shapes differ."""
    load_weights(model, path / "model.safetensors")
    load_weights(ema, path / "ema.safetensors")
    _restore_optimizer(optimizer, load_file(path / "optimizer.safetensors"))
    state = json.loads((path / "state.json").read_text())
    return TrainState(state["step"], state["samples"], state["config"])


def load_weights(model: nn.Module, path: Path) -> None:
    """Strictly loads one safetensors file into `model`."""
    try:
        load_model(model, str(path), strict=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entries in states.items()
        for name, value in entries.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdigit() and (p / "state.json").is_file())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
