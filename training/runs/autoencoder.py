"""Runs of `training.autoencoder`: each a function that returns its whole configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from service.core.record import require
from training.data.mixture import PoolConfig
from training.loop import LoopConfig
from training.models.perception import MODELS, ModelConfig


@dataclass(frozen=True)
class AutoencoderRun:
    """Training of the autoencoder on pictures of every task."""

    model: ModelConfig
    loop: LoopConfig
    rows: int = 32  # pictures of each kind are cut from this many scenes of each task
    latent_noise: float = 0.03  # of the latents' deviation: the decoder must forgive small errors
    pool: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        kind = self.model.vae.kind
        require(kind == "convolutional", "model.vae.kind", f"cannot be trained here: {kind}")
        most = self.pool.pictures
        require(1 <= self.rows <= most, "rows", f"must be in 1..{most}, what the pool holds")


def autoencoder_small() -> AutoencoderRun:
    """The autoencoder of the shipped model: a few minutes on two CPU cores."""
    return AutoencoderRun(
        model=MODELS["decoupled"],
        loop=LoopConfig(steps=600, learning_rate=2e-3, warmup_steps=50, ema_decay=0.995),
        rows=8,
        pool=PoolConfig(chunk=16, chunks=5, views=4, compiled=True),
    )


def autoencoder_tiny() -> AutoencoderRun:
    """A few steps of a very small autoencoder: shows that everything runs."""
    return AutoencoderRun(
        model=MODELS["tiny"],
        loop=LoopConfig(steps=20, warmup_steps=5, save_every=10, log_every=5, ema_decay=0.9),
        rows=4,
        pool=PoolConfig(chunk=4, chunks=2),
    )


AUTOENCODER_RUNS: Mapping[str, Callable[[], AutoencoderRun]] = MappingProxyType(
    {"small": autoencoder_small, "tiny": autoencoder_tiny}
)
