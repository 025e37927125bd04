"""How clearly experts are picked, where a network has any.

A token whose last picked expert is all but tied with the next goes to either of them, by the
rounding of whatever computes it, and its answer is another one then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.models.moe import MoE


@contextmanager
def recorded_margins(module: nn.Module) -> Iterator[list[Tensor]]:
    """Of every forward pass meanwhile, one margin a row (B,) for every layer of experts.

    It is the least of the row's tokens: by how much the score of the last expert that was picked is
    above the next one's, as a part of the largest score.
    """
    margins: list[Tensor] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, MoE)
        (x,) = inputs  # (B, T, D)
        active = layer.config.active
        if active < layer.config.num:
            scores = nn.functional.linear(x.float(), layer.gate.weight.float())
            best = scores.topk(active + 1).values
            gap = best[..., active - 1] - best[..., active]
            margins.append((gap / scores.abs().amax(dim=-1).clamp(min=1)).amin(dim=1))

    layers = [layer for layer in module.modules() if isinstance(layer, MoE)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        with torch.no_grad():
            yield margins
    finally:
        for hook in hooks:
            hook.remove()
