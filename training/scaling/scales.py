"""The two scales of every study: `tiny`, for two CPU cores, and `paper`, with the paper's presets.

Everything in which they differ is a field here; the studies are the same code for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from training.loop import LoopConfig
from training.models.dit import DiTConfig
from training.models.moe import ExpertsConfig
from training.models.presets import PRESETS
from training.models.vae import VaeConfig
from training.scaling.coder import CoderTraining
from training.scaling.networks import Training
from training.scaling.scale import Fit, Scale, Upcycling


def _miniature(step: int) -> DiTConfig:
    """Width and depth grow together and the heads stay, as from a1 to a6."""
    return DiTConfig(
        in_channels=4,
        out_channels=4,
        num_labels=13,  # 12 rendered classes, and none of them
        width=32 * step,
        depth=1 + step,
        heads=4,
        patch=2,
        num_routes=1,
        first_axis="columns",
    )


_TINY_LADDER = MappingProxyType({f"t{step}": _miniature(step) for step in range(1, 6)})
_SHAPES = ((2, 1), (4, 1), (8, 1), (2, 2), (4, 2), (8, 2))
# With shares that add up to one, an upcycled network starts as the dense one.
_EQUAL = tuple(ExpertsConfig(num, active, renormalise=True) for num, active in _SHAPES)
# As released: what the picked experts say is weighted by a share of all, and starts far too small.
_AS_RELEASED = tuple(ExpertsConfig(num, active) for num, active in _SHAPES)

TINY = Scale(
    name="tiny",
    ladder=_TINY_LADDER,
    seeds={"t1": (1, 2), "t2": (1, 2), "t3": (1, 2), "t4": (1, 2), "t5": (1, 2)},
    base="t3",
    size=64,
    sizes=(32, 48, 64, 96),
    side=96,
    pictures=24_576,
    chunk=128,
    scenes=256,
    class_pictures=12_288,
    coder=CoderTraining(
        pictures=2048,
        rows=32,
        loop=LoopConfig(
            steps=900, learning_rate=2e-3, warmup_steps=50, ema_decay=0.99, save_every=300
        ),
        vae=VaeConfig(encoder_width=96, encoder_blocks=2, decoder_widths=(96, 48, 24, 16)),
    ),
    finetuning=Training(1000, 64, 2e-3, 100, "cosine"),
    pretraining=Training(1200, 64, 1e-3, 50, "constant"),
    pretraining_steps=(150, 300, 600, 1200),
    pretrained_ladder=0,
    upcycling=Upcycling(
        ("t2",), (*_EQUAL, _AS_RELEASED[-1]), Training(500, 64, 1e-3, 20, "cosine")
    ),
    steps=(1, 2, 3, 5, 10, 20, 50),
    standard_steps=(1, 10),
    members=(1, 2, 3, 5, 10, 20),
    member_steps=(1, 10),
    ensemble_names=("t2", "t4"),
    schedule_base="t2",
    schedule_names=(
        "v cosine",
        "v linear",
        "v scaled_linear",
        "epsilon cosine",
        "epsilon linear",
        "epsilon scaled_linear",
    ),
    schedule_steps=(1, 2, 5, 10, 20),
    pretraining_schedules=("v cosine", "epsilon linear"),
    bf16=False,
)

_PAPER_LADDER = MappingProxyType(
    {name: PRESETS[name] for name in ("a1", "a2", "a3", "a4", "a5", "a6")}
)

# Rates as public notes on the paper quote them, batch and steps as in Marigold's recipe.
_PAPER_FINETUNING = Training(
    30_000, 32, 1.2e-4, 100, "exponential", final_fraction=0.01, weight_decay=0.0
)

PAPER = Scale(
    name="paper",
    ladder=_PAPER_LADDER,
    seeds=dict.fromkeys(_PAPER_LADDER, (1,)),
    base="a4",
    size=256,
    sizes=(128, 256, 384, 512),
    side=512,
    pictures=53_885,  # Hypersim's filtered training split
    chunk=32,
    scenes=800,
    class_pictures=1_281_167,
    coder=None,
    finetuning=_PAPER_FINETUNING,
    pretraining=Training(400_000, 256, 1e-4, 0, "constant", weight_decay=0.0),
    pretraining_steps=(60_000, 80_000, 100_000, 120_000, 400_000),
    pretrained_ladder=400_000,
    upcycling=Upcycling(
        ("a2", "a3", "a4", "a5"), _AS_RELEASED, replace(_PAPER_FINETUNING, steps=15_000)
    ),
    steps=(1, 2, 3, 5, 10, 20, 50, 100, 200),
    standard_steps=(50,),
    members=(1, 2, 3, 5, 10, 20),
    member_steps=(10, 50),
    ensemble_names=("a2", "a4", "a6"),
    schedule_base="a4",
    schedule_names=TINY.schedule_names,
    schedule_steps=(1, 2, 5, 10, 20, 50),
    pretraining_schedules=("epsilon linear",),
    default_schedule="epsilon linear",
    targets="paper",
    fits={
        "a3": Fit(2),
        "a4": Fit(4),
        "a5": Fit(8, recompute=True),
        "a6": Fit(8, recompute=True),
    },
)

SCALES: Mapping[str, Scale] = MappingProxyType({"tiny": TINY, "paper": PAPER})
