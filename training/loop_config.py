"""How long and how fast a run learns: what `--set loop.NAME=VALUE` sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch

from service.core.record import require

Decay = Literal["cosine", "exponential", "constant"]
Sharding = Literal["replicate", "shard"]

_NOT_NEGATIVE = (
    "learning_rate",
    "warmup_steps",
    "final_fraction",
    "weight_decay",
    "clip_norm",
    "spike_factor",
    "seed",
)


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn. Raises ArtifactError for what cannot be."""

    steps: int = 10_000
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay: Decay = "cosine"  # after warm-up
    final_fraction: float = 0.02  # of the learning rate, at the end of its decay
    weight_decay: float = 0.02
    adam_beta2: float = 0.98
    clip_norm: float = 1.0  # of the gradient; 0 leaves it as it is
    ema_decay: float = 0.999
    bf16: bool = True
    micro_batches: int = 1  # whose gradients one step averages, over all processes
    recompute: bool = False  # activations in the backward pass, instead of keeping them
    sharding: Sharding = "replicate"  # of the model, where there are several processes
    spike_factor: float = 10.0  # above a group's smoothed loss is a spike; 0 looks for none
    spike_patience: int = 20  # spikes of a group in a row end the run
    save_every: int = 500
    log_every: int = 20
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "micro_batches", "spike_patience", "save_every", "log_every"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        for name in _NOT_NEGATIVE:
            require(getattr(self, name) >= 0, name, "must not be negative")
        for name in ("adam_beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, "must be in [0, 1)")
        sinks = self.decay != "exponential" or self.final_fraction > 0
        require(sinks, "final_fraction", "must be above 0 for an exponential decay")


def reduced_precision(config: LoopConfig, device: torch.device) -> torch.autocast:
    """The context for a run's networks; what renders or prepares data must stay outside of it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.bf16)


def _half_cosine(progress: float, final: float) -> float:
    return final + (1 - final) * (0.5 * (1 + math.cos(math.pi * progress)))


def _exponential(progress: float, final: float) -> float:
    return math.pow(final, progress)


def _constant(progress: float, final: float) -> float:
    del progress, final
    return 1.0


# (progress in [0, 1], final fraction) to the fraction of the learning rate.
DECAYS: Mapping[Decay, Callable[[float, float], float]] = MappingProxyType(
    {
        "cosine": _half_cosine,
        "exponential": _exponential,
        "constant": _constant,
    }
)


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then the decay down to `final_fraction`, where there is one."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * DECAYS[config.decay](min(1.0, progress), config.final_fraction)
