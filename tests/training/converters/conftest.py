"""Checkpoints to change, and ways to read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.public_checkpoints import (
    build_lotus,
    build_marigold,
)
from training.converters.record import Conversion, Part, Request, Source
from training.converters.table import CONVERTERS

Copy = Callable[[str], Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "marigold": build_marigold(folder / "marigold"),
        "lotus": build_lotus(folder / "lotus", generative=False),
    }


@pytest.fixture
def copy(built: dict[str, Path], tmp_path: Path) -> Copy:
    """A folder of links to change without the original."""

    def make(family: str) -> Path:
        for path in built[family].rglob("*"):
            if path.is_file():
                target = tmp_path / family / path.relative_to(built[family])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        return tmp_path / family

    return make


def described(folder: Path, family: str = "marigold", **wanted: object) -> Conversion:
    request = Request(name="m", checkpoint=Source(folder, str(folder)))
    return CONVERTERS[family](replace(request, **wanted))  # type: ignore[arg-type]


class Small(nn.Module):
    """A convolution and two products, of latents of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(4, 24, 3, padding=1)
        self.tell = nn.Linear(24, 24)  # of one vector a row, which becomes a Gemm
        self.widen, self.narrow = nn.Linear(24, 64), nn.Linear(64, 3)

    def forward(self, latent: Tensor) -> Tensor:
        rows = self.convolve(latent).movedim(1, -1)
        rows = rows + self.tell(rows.mean(dim=(1, 2)))[:, None, None]
        image: Tensor = self.narrow(torch.tanh(self.widen(rows))).movedim(-1, 1)
        return image


def small() -> nn.Module:
    torch.manual_seed(5)
    return Small().eval()


@pytest.fixture
def conversion(built: dict[str, Path]) -> Conversion:
    """Marigold's description with one small network, its decoder."""
    part = Part(
        "m_decoder", "image", small, small, lambda size: {"latent": torch.randn(2, 4, *size)}
    )
    return replace(described(built["marigold"]), parts=(part,))


def load_denoiser(folder: Path) -> nn.Module:
    return described(folder).parts[-1].load()
