"""Runs of `training.upcycle`: each a function that returns its whole configuration.

The perception paper turns dense models that were fine-tuned into mixtures of experts and trains
them on, on the same sets with the same recipe: what it says of upcycling (sections 3.4 and 4) names
no other. So these are the runs of `training.runs.finetune` with experts in the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from training.models.moe import ExpertsConfig
from training.runs.finetune import FINETUNE_RUNS, FinetuneRun, finetune_tiny, paper

_LARGE = ("a4", "a5")  # whose experts leave one GPU of 80 GB no room for activations
_EIGHT_TWO = ExpertsConfig(num=8, active=2, kind="gelu")


def generalist() -> FinetuneRun:
    """The paper's generalist: DiT-XL/2 for every task, with 8 experts of which 2 are active."""
    return FINETUNE_RUNS["generalist-XL-8E2A"]()


def depth(preset: str, experts: ExpertsConfig = _EIGHT_TWO) -> FinetuneRun:
    """A depth network of one of the paper's sizes, at 256 px, as in its study of upcycling."""
    run = paper(preset, 256, ("depth",))
    loop = run.loop
    if preset in _LARGE:
        loop = replace(loop, recompute=True, sharding="shard")
    return replace(run, model=replace(run.model, experts=experts), loop=loop)


def upcycle_tiny() -> FinetuneRun:
    """A few steps of a very small mixture: shows that everything runs."""
    return finetune_tiny("tiny-moe")


UPCYCLE_RUNS: Mapping[str, Callable[[], FinetuneRun]] = MappingProxyType(
    {
        "generalist-XL-8E2A": generalist,
        **{f"depth-a{size}-8E2A": partial(depth, f"a{size}") for size in range(1, 6)},
        "tiny": upcycle_tiny,
    }
)
