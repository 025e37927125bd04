"""A finished run of `training.finetune` as it lies in its folder: weights, and what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn

from training.checkpoint import CheckpointError, load_weights
from training.config import read_model
from training.models.perception import ModelConfig, PerceptionModel

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
_PROCEDURAL = "procedural"


@dataclass(frozen=True)
class RunDescription:
    """What is remembered of a finished run: its model's shape, and how and on what it learned."""

    model: ModelConfig
    steps: int
    seed: int
    data: tuple[str, ...]


def is_finetuned(folder: Path) -> bool:
    """Whether a folder holds a finished run of all of a model, not of a denoiser alone.

    Raises CheckpointError where it holds no finished run at all.
    """
    return "form" in _described(folder)["model"]


def read_description(folder: Path) -> RunDescription:
    """Reads `model.json` of a run's folder.

    Raises CheckpointError where there is none, and ArtifactError where the model is not one.
    """
    told = _described(folder)
    loop = told["loop"]
    sources = told.get("sources") or {}  # which earlier runs did not have
    names = [source["name"] for task in told.get("shares", ()) for source in sources.get(task, ())]
    data = tuple(dict.fromkeys(names)) or (_PROCEDURAL,)
    return RunDescription(read_model(told["model"]), loop["steps"], loop["seed"], data)


def _described(folder: Path) -> dict[str, Any]:
    """What `model.json` says, which holds at least a model and its loop. Raises CheckpointError."""
    path = folder / DESCRIPTION
    try:
        told = json.loads(path.read_text())
        if isinstance(told["model"], dict) and isinstance(told["loop"], dict):
            return dict(told)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not describe a finished run: {error!r}") from error
    raise CheckpointError(f"{path} does not describe a finished run")


def load_model(folder: Path, device: torch.device) -> PerceptionModel:
    """The model that a run left in its folder, its moving average, ready to predict.

    Raises CheckpointError, and ArtifactError where its description is not one.
    """
    model = PerceptionModel(read_description(folder).model)
    load_weights(model, folder / WEIGHTS)
    return model.to(device).eval()


def write_model(folder: Path, model: nn.Module, described: Mapping[str, object]) -> None:
    """Writes what `load_model` reads, `described` being the run's whole configuration."""
    save_model(model, str(folder / WEIGHTS))
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")
