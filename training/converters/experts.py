"""Experts as tensors of their own, which is how a graph of them is to be written.

Ours are stacked for training. A graph that picks one out of a stack would copy every expert when it
is loaded, and what quantises weights would not know them as such.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from training.models.moe import Experts, MoE

Model = TypeVar("Model", bound=nn.Module)


class SeparateExperts(Experts):
    """The same numbers, still where they were, as one tensor per expert."""

    def __init__(self, stacked: Experts) -> None:
        nn.Module.__init__(self)
        self.form = stacked.form
        self.entered, self.left = _apart(stacked.weight_in), _apart(stacked.weight_out)
        self.bias_entered, self.bias_left = _apart(stacked.bias_in), _apart(stacked.bias_out)

    def grouped(self, x: Tensor, ends: Tensor, owner: Tensor) -> Tensor:
        """Rows (N, D) sorted by expert, each through its own: see `Experts`."""
        del owner
        limits = [0, *ends.tolist()]
        return torch.cat(
            [self.one(x[start:end], expert) for expert, (start, end) in enumerate(pairwise(limits))]
        )

    def one(self, x: Tensor, expert: int) -> Tensor:
        """Rows (N, D) through one expert."""
        h = x @ self.entered[expert]
        h = self.form.activation(h + self.bias_entered[expert] if self.bias_entered else h)
        y = h @ self.left[expert]
        return y + self.bias_left[expert] if self.bias_left else y


def _apart(stacked: Tensor | None) -> nn.ParameterList:
    parts = () if stacked is None else stacked.detach().unbind()
    return nn.ParameterList(nn.Parameter(part, requires_grad=False) for part in parts)


def separate_experts(model: Model) -> Model:
    """Takes every stack of experts in a model apart, without a copy."""
    for layer in model.modules():
        if isinstance(layer, MoE):
            layer.experts = SeparateExperts(layer.experts)
    return model


class _AsMany(nn.Module):
    """What a layer of experts costs, without its choice: nothing can be chosen of no numbers."""

    def __init__(self, layer: MoE) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Every token goes through the gate and the first of the experts."""
        layer, rows = self.layer, x.flatten(0, 1)
        layer.gate(rows)
        parts = [layer.experts.one(rows, expert) for expert in range(layer.config.active)]
        mixed = torch.stack(parts).sum(dim=0).view_as(x)
        return mixed if layer.shared is None else mixed + layer.shared(x)


def countable(model: Model) -> Model:
    """A model on the meta device, whose experts can be passed there at their true cost."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, MoE):
                setattr(module, name, _AsMany(child))
    return model
