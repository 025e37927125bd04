"""The published sizes: recognised from tensors of their true shapes, which take no memory here."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.foreign_dit import (
    DIT,
    DIT_MOE,
    DIT_MOE_FLASH,
    GENERALIST,
    Published,
    Weights,
    positions,
    shapes,
)
from training.models.counting import count
from training.models.foreign import Foreign, read_foreign, readers
from training.models.foreign.tensors import Tensors
from training.models.perception import MODELS
from training.models.presets import PRESETS

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}


def sized(of: Published, name: str) -> Published:
    width, depth, heads = SIZES[name]
    return replace(of, width=width, depth=depth, heads=heads)


def of_true_shapes(of: Published) -> Weights:
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes(of).items()}
    return {"pos_embed": positions(of.width, of.latent // of.patch), **empty}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch):
    def read(of: Published) -> Foreign:
        found = Tensors("here", of_true_shapes(of))
        monkeypatch.setattr(readers, "read_tensors", lambda _: found)
        return read_foreign(Path("here"))

    return read


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("latent", [32, 64])
def test_every_size_of_dit_is_its_preset(read, name: str, patch: int, latent: int):
    found = read(replace(sized(DIT, name), patch=patch, latent=latent))
    assert found.preset == f"DiT-{name}/{patch}"
    assert found.config == PRESETS[f"DiT-{name}/{patch}"]
    assert found.latent_size == latent


@pytest.mark.parametrize("of", [DIT_MOE, DIT_MOE_FLASH])
@pytest.mark.parametrize("name", SIZES)
def test_every_size_of_dit_moe_is_its_preset(read, name: str, of: Published):
    found = read(replace(sized(of, name), experts=8, latent=32))
    assert found.preset == f"MoE-{name}/2-8E2A"
    assert found.config == replace(PRESETS[found.preset], qk_norm=of.flash)
    sizes = sum(value.numel() for value in found.state.values())
    assert sizes == count(found.config, 256).learned_parameters


def test_the_largest_dit_moe_is_read_too(read):
    of = replace(DIT_MOE_FLASH, width=1408, depth=40, heads=16, experts=16, latent=64)
    found = read(of)
    assert found.preset is None
    assert count(found.config, 512).parameters == pytest.approx(16.5e9, rel=0.01)


def test_the_generalist_is_the_papers_network(read):
    found = read(replace(sized(GENERALIST, "XL"), latent=64))
    assert found.preset == "MoE-XL/2-8E2A-upcycled"
    assert found.config == MODELS["generalist-XL-8E2A"].denoiser()
    assert found.latent_size == 64
    sizes = sum(value.numel() for value in found.state.values())
    assert sizes == count(found.config, 512).learned_parameters
    assert count(found.config, 512).parameters == pytest.approx(2.757e9, rel=1e-3)
