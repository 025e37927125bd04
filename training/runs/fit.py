"""How the batch of a published recipe is cut so that one GPU of 80 GB bears its part."""

from __future__ import annotations

from dataclasses import dataclass

from training.loop import Sharding


@dataclass(frozen=True)
class Fit:
    """Into how many micro-batches, and what is done where that is not enough."""

    micro_batches: int
    recompute: bool = False
    sharding: Sharding = "replicate"
