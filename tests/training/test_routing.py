"""Experts that are all but tied: which rows may differ from torch, and which may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.models.moe import ExpertsConfig, MoE
from training.onnx_network import (
    TOLERANCE,
    ExportError,
    Network,
    check_cases,
    check_onnx,
    evaluate,
    write_onnx,
)

WIDTH = 16
CLEAR, TIED = 1.0, 1e-6  # how far a token is on one side of where two experts score alike


class Layer(nn.Module):
    """Rows (B, T, D) through one of two experts each, by the sign of a token's first number."""

    def __init__(self, nudge: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = MoE(WIDTH, WIDTH, ExpertsConfig(num=2, active=1))
        for left in (self.layer.experts.weight_out, self.layer.experts.bias_out):
            assert left is not None
            left.data *= 0.2  # so that experts differ as those do that were one once
        gate = torch.zeros(2, WIDTH)
        gate[0, 0], gate[1, 0] = 1, -1
        gate[0, 1] = nudge  # every token's second number is 1
        self.layer.gate.weight = nn.Parameter(gate)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layer(x)
        return answer


def network(sides: tuple[float, float], nudge: float = 0.0) -> Network:
    """Of two rows, one token of each on a side of its own."""
    module = Layer(nudge).eval().requires_grad_(False)
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    x[..., 0], x[..., 1] = CLEAR, 1
    x[:, 2, 0] = torch.tensor(sides)
    return Network("layer", module, {"x": x}, "y")


def test_rows_of_tied_tokens_are_known():
    assert [case.tied.tolist() for case in evaluate(network((CLEAR, TIED)))] == [
        [False],
        [False, True],
    ]
    assert [case.tied.tolist() for case in evaluate(network((1e-3, -1e-3)))] == [
        [False],
        [False, False],
    ]


def test_a_tied_token_may_go_to_the_other_expert(tmp_path: Path):
    """As rounding would, a graph whose gate is off by less than TIE sends it there."""
    path = tmp_path / "model.onnx"
    there, here = network((CLEAR, TIED), nudge=-3 * TIED), network((CLEAR, TIED))
    write_onnx(there, path, "fp32")
    assert check_onnx(there, path) < TOLERANCE
    assert check_cases(path, "y", evaluate(here), TOLERANCE) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("sides", "nudge"),
    [
        ((CLEAR, 1e-3), -3e-3),  # not tied
        ((1e-3, TIED), -3e-3),  # a row that is not, beside one that is
        ((TIED, TIED), -3 * TIED),  # nothing is left to compare
    ],
)
def test_whatever_else_differs_is_refused(sides: tuple[float, float], nudge: float, tmp_path: Path):
    path = tmp_path / "model.onnx"
    write_onnx(network(sides, nudge), path, "fp32")
    with pytest.raises(ExportError, match="differs from torch"):
        check_cases(path, "y", evaluate(network(sides)), TOLERANCE)
