"""Runs of `training.pretrain`: each a function that returns its whole configuration.

Where the numbers come from. Of "Scaling Properties of Diffusion Models for Perceptual Tasks" (arXiv
2411.08034): the sizes a1 to a6, ImageNet-1K by class, and 60 to 120 thousand steps in the study of
pre-training steps (as public notes on the paper quote it). Its batch, learning rate and averaging
are not stated in what could be read; those are DiT's (Peebles and Xie, arXiv 2212.09748, section 4,
and their train.py): 256 pictures, AdamW at a constant 1e-4 without decay of weights or warm-up, an
average of 0.9999, one label in ten dropped, mirror images, linear betas, learned variance,
gradients as they are, 400 thousand steps for comparisons between sizes. Layers start as torch
starts them, where DiT has Xavier's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from service.core.artifact import ScheduleSpec
from service.core.record import require
from training.loop import LoopConfig
from training.models.dit import DiTConfig
from training.models.presets import PRESETS
from training.runs.fit import Fit

DIT_SCHEDULE = ScheduleSpec(
    betas="linear",
    num_timesteps=1000,
    beta_start=1e-4,
    beta_end=0.02,
    zero_terminal_snr=False,
    set_alpha_to_one=True,
    spacing="trailing",
    steps_offset=0,
    prediction_type="epsilon",
    sampler="ddim",
    start="noise",
)


@dataclass(frozen=True)
class PretrainRun:
    """Training of a denoiser to draw pictures of a class, from cached latents.

    The variance is learned where the model puts out twice the channels that it takes in.
    """

    model: DiTConfig
    loop: LoopConfig
    rows: int = 32  # pictures of one micro-batch; `loop.micro_batches` of them make a batch
    label_dropout: float = 0.1  # of labels become "none of them", the last row of the table
    flip: bool = True  # half of the pictures in a mirror
    schedule: ScheduleSpec = DIT_SCHEDULE

    def __post_init__(self) -> None:
        taken, given = self.model.in_channels, self.model.out_channels
        fits = given in (taken, 2 * taken)
        require(fits, "model.out_channels", f"must be {taken}, or {2 * taken} to learn a variance")
        require(self.model.num_labels >= 2, "model.num_labels", "must leave one for no class")
        require(self.rows >= 1, "rows", f"must be at least 1, got {self.rows}")
        within = 0 <= self.label_dropout < 1
        require(within, "label_dropout", f"must be in [0, 1), got {self.label_dropout}")
        epsilon = self.schedule.prediction_type == "epsilon"
        require(epsilon, "schedule.prediction_type", "must be epsilon")

    @property
    def learn_sigma(self) -> bool:
        """Whether the model says its variance."""
        return self.model.out_channels == 2 * self.model.in_channels


# Weights, gradients, two moments and the average take 20 bytes a parameter in each process.
_FITS: Mapping[str, Fit] = MappingProxyType(
    {
        "a5": Fit(16),
        "a6": Fit(16, recompute=True),
        "DiT-XL/2": Fit(16),
        "MoE-L/2-8E2A": Fit(16, recompute=True, sharding="shard"),
        "MoE-XL/2-8E2A": Fit(16, recompute=True, sharding="shard"),
        "MoE-XL/2-8E2A-upcycled": Fit(16, recompute=True, sharding="shard"),
    }
)


def imagenet(preset: str, steps: int = 400_000) -> PretrainRun:
    """One of the published networks on ImageNet at 256 px, or at 512 px with the same numbers."""
    fit = _FITS.get(preset, Fit(8))
    return PretrainRun(
        model=PRESETS[preset],
        rows=256 // fit.micro_batches,
        loop=LoopConfig(
            steps=steps,
            learning_rate=1e-4,
            decay="constant",
            warmup_steps=0,
            weight_decay=0.0,
            adam_beta2=0.999,
            clip_norm=0.0,
            ema_decay=0.9999,
            micro_batches=fit.micro_batches,
            recompute=fit.recompute,
            sharding=fit.sharding,
            save_every=5_000,
            log_every=100,
        ),
    )


def _miniature(width: int, depth: int) -> DiTConfig:
    """A preset's form at a size for two CPU cores."""
    return replace(PRESETS["a1"], width=width, depth=depth, heads=4)


def small() -> PretrainRun:
    """3.9 M parameters on latents of rendered pictures of 128 px: ten minutes on one CPU core."""
    return PretrainRun(
        model=_miniature(width=192, depth=6),
        rows=32,
        flip=False,
        loop=LoopConfig(steps=1_500, learning_rate=1e-3, weight_decay=0.0, ema_decay=0.995),
    )


def tiny() -> PretrainRun:
    """A few steps of a very small network: shows that everything runs."""
    return PretrainRun(
        model=_miniature(width=64, depth=2),
        rows=8,
        flip=False,
        loop=LoopConfig(steps=12, warmup_steps=4, save_every=4, log_every=2, ema_decay=0.9),
    )


PRETRAIN_RUNS: Mapping[str, Callable[[], PretrainRun]] = MappingProxyType(
    {
        **{name: partial(imagenet, name) for name in PRESETS},
        # The study of pre-training steps: one size, four lengths, as each would be trained alone.
        **{
            f"a4-{steps // 1000}k": partial(imagenet, "a4", steps)
            for steps in (60_000, 80_000, 100_000, 120_000)
        },
        "small": small,
        "tiny": tiny,
    }
)
