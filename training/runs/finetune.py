"""Runs of `training.finetune`: each a function that returns its whole configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from training.data.mixture import PoolConfig
from training.loop import LoopConfig
from training.losses import LossConfig
from training.models.perception import MODELS, ModelConfig


@dataclass(frozen=True)
class FinetuneRun:
    """Training of the generalist: tasks take turns, `shares` says how often."""

    model: ModelConfig
    loop: LoopConfig
    shares: Mapping[str, int]  # turns of each task in one round
    rows: Mapping[str, int]  # batch size of each task
    loss: LossConfig = field(default_factory=LossConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)


def generalist(model: str, steps: int) -> FinetuneRun:
    """Depth, flow and amodal completion in one network; what learns slower has more turns."""
    return FinetuneRun(
        model=MODELS[model],
        loop=LoopConfig(steps=steps),
        loss=LossConfig(draws=1),
        shares={"depth": 3, "flow": 2, "amodal": 1},
        rows={"depth": 32, "flow": 16, "amodal": 24},
        pool=PoolConfig(compiled=True),
    )


def finetune_tiny(model: str) -> FinetuneRun:
    """A few steps of a very small generalist: shows that everything runs."""
    return FinetuneRun(
        model=MODELS[model],
        loop=LoopConfig(steps=12, warmup_steps=4, save_every=4, log_every=2, ema_decay=0.9),
        shares={"depth": 1, "flow": 1, "amodal": 1},
        rows={"depth": 4, "flow": 4, "amodal": 4},
        pool=PoolConfig(chunk=4, chunks=2),
    )


FINETUNE_RUNS: Mapping[str, Callable[[], FinetuneRun]] = MappingProxyType(
    {
        "shipped": partial(generalist, "decoupled", 14_500),
        "decoupled": partial(generalist, "decoupled", 1_000),
        "concatenated": partial(generalist, "concatenated", 1_000),
        "tiny": partial(finetune_tiny, "tiny"),
        "tiny-concatenated": partial(finetune_tiny, "tiny-concatenated"),
    }
)
