"""What networks will cost before they are built: memory, multiplications and seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_BYTES = 4  # of a parameter while it is computed with
_SIDE, _REPEATS = 1024, 3


@dataclass(frozen=True)
class NetworkCost:
    """Parameters of a network, and multiply-adds of one row of a call."""

    parameters: int
    multiply_adds: int

    @property
    def num_bytes(self) -> int:
        """Of the weights in memory, in single precision however they are stored."""
        return _BYTES * self.parameters

    def seconds(self, multiply_adds_per_s: float) -> float:
        """What one row takes at such a speed."""
        return self.multiply_adds / multiply_adds_per_s


def network_cost(skeleton: nn.Module, inputs: Mapping[str, Tensor]) -> NetworkCost:
    """Count on the meta device, where nothing is computed; `inputs` hold a batch of two."""
    rows = {key: value.to("meta") for key, value in inputs.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        skeleton(**rows)
    parameters = sum(parameter.numel() for parameter in skeleton.parameters())
    return NetworkCost(parameters, counter.get_total_flops() // 2 // 2)


def multiply_adds_per_s() -> float:
    """The speed of a matrix product here: what networks come near to, and do not reach."""
    left, right = torch.rand(_SIDE, _SIDE), torch.rand(_SIDE, _SIDE)
    torch.mm(left, right)
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return _SIDE**3 / best
