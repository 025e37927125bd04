"""Procedural textures: ranges, determinism, periodicity and the statistics of photographs."""

import pytest
import torch

from training.data.procedural.colours import colourise, recolour
from training.data.procedural.textures import (
    FAMILIES,
    Field,
    dead_leaves,
    make_textures,
    spectral_noise,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [8, 40, 64])
def test_textures_have_the_asked_shape_and_range(size: int) -> None:
    textures = make_textures(seeded(0), 7, size)
    assert textures.shape == (7, 3, size, size)
    assert textures.dtype == torch.float32
    assert not textures.requires_grad
    assert textures.isfinite().all()
    assert textures.min() >= 0
    assert textures.max() <= 1


def test_textures_repeat_for_a_seed_and_differ_within_and_between_seeds() -> None:
    first, again, other = (make_textures(seeded(s), 4, 32) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first[0] - first[1]).abs().mean() > 0.01


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        make_textures(seeded(0), 0, 64)
    with pytest.raises(ValueError, match="size"):
        make_textures(seeded(0), 1, 4)


@pytest.mark.parametrize("family", [family for family, _ in FAMILIES])
def test_every_family_makes_finite_varied_fields(family: Field) -> None:
    fields = family(seeded(1), 6, 64)
    assert fields.shape == (6, 3, 64, 64)
    assert fields.isfinite().all()
    assert (fields.std((2, 3)) > 1e-3).any(1).all()


@pytest.mark.parametrize(
    "family", [family for family, _ in FAMILIES if family.__name__ != "gradients"]
)
def test_fields_are_periodic(family: Field) -> None:
    fields = family(seeded(2), 12, 64)
    across = (fields[..., 0] - fields[..., -1]).abs().mean()
    inside = (fields[..., 1:] - fields[..., :-1]).abs().mean()
    assert across < 1.6 * inside + 0.02


def test_spectra_fall_like_those_of_photographs() -> None:
    fields = spectral_noise(seeded(3), 64, 64)
    power = torch.fft.rfft2(fields).abs().square().mean((0, 1))[0]
    frequency = torch.arange(2, 32).log()
    slope = torch.stack([frequency, torch.ones(30)], 1)
    fit = torch.linalg.lstsq(slope, power[2:32].log()[:, None]).solution[0].item()
    assert -3.5 < fit < -1.0  # photographs: power about 1/f^2


def test_leaves_have_edges_and_flat_parts() -> None:
    field = dead_leaves(seeded(4), 16, 64)
    steps = (field[..., 1:] - field[..., :-1]).abs().flatten(1)
    kurtosis = steps.quantile(0.99, dim=1) / steps.quantile(0.5, dim=1)
    assert kurtosis.median() > 6  # Gaussian noise would have 3.8


def test_colours_are_mostly_grey_with_correlated_channels() -> None:
    textures = colourise(seeded(5), spectral_noise(seeded(6), 128, 32))
    saturation = textures.amax(1) - textures.amin(1)
    assert saturation.mean((1, 2)).median() < 0.25
    assert saturation.mean((1, 2)).max() > 0.3  # some are vivid
    flat = textures.flatten(2) - textures.flatten(2).mean(2, keepdim=True)
    red, green = flat[:, 0], flat[:, 1]
    correlation = (red * green).sum(1) / (red.norm(dim=1) * green.norm(dim=1))
    assert correlation.median() > 0.7


def test_recolouring_keeps_the_range_and_the_pattern() -> None:
    textures = make_textures(seeded(7), 16, 32)
    new = recolour(seeded(8), textures)
    assert new.min() >= 0
    assert new.max() <= 1
    a, b = (t.mean(1).flatten(1) for t in (textures, new))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    likeness = ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).abs()
    assert likeness.median() > 0.9
