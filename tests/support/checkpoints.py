"""A whole checkpoint in one call, as tests want it; the loop takes it in parts."""

from pathlib import Path

import torch
from torch import nn

from training.checkpoint import (
    CheckpointWriter,
    TrainState,
    load_networks,
    load_optimizer,
    load_state,
)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
) -> Path:
    """Writes a checkpoint to its end and returns its path."""
    with CheckpointWriter(folder) as writer:
        writer.save(model, ema, optimizer, state)
    return folder / f"{state.step:08d}"


def load_checkpoint(
    path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainState:
    """Restores everything in place."""
    load_networks(path, model, ema)
    load_optimizer(path, optimizer)
    return load_state(path)
