"""What the checkpoint itself answers, in diffusers, brought into the form of our answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from service.engine.sampling import draw_noise
from tests.support.pictures import gradient
from tests.support.public_checkpoints import CHANNELS, FACTOR, RESOLUTION

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers' imports warn of its own dependencies
    from diffusers import MarigoldDepthPipeline

SEED = 7
TOLERANCE = 2e-3  # float32, of answers in 0..1
SIZES = ((48, 48), (61, 40), (24, 70))  # width, height

_ENSEMBLE: Callable[..., Any] = MarigoldDepthPipeline.ensemble_depth


@dataclass(frozen=True)
class Expected:
    """Depth stretched to 0..1 over the upload, as our answers are; `span` is what it covered."""

    prediction: np.ndarray
    uncertainty: np.ndarray | None
    span: float


def stretched(depth: np.ndarray, uncertainty: np.ndarray | None) -> Expected:
    """The form of our answers, which diffusers leaves to the caller."""
    low, high = float(depth.min()), float(depth.max())
    span = high - low
    return Expected((depth - low) / span, None if uncertainty is None else uncertainty / span, span)


def picture(width: int, height: int) -> Image.Image:
    """A gradient with pixel noise."""
    rng = np.random.default_rng(width)
    pixels = gradient(width, height) + rng.integers(-20, 20, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def later_noise(image: Image.Image, steps: int, members: int) -> Iterator[torch.Tensor]:
    """What the service adds on its way, in the order in which a pipeline asks."""
    for member in range(members):
        for step in range(1, steps):
            yield torch.from_numpy(draw_noise(SEED, member, 0, latent_shape(image), step))[None]


def latent_shape(image: Image.Image) -> tuple[int, int, int]:
    """(C, h, w) of an upload's latents."""
    width, height = image.size
    sides = [side * RESOLUTION // max(width, height) for side in (height, width)]
    rows, columns = (-(-side // FACTOR) for side in sides)
    return CHANNELS, rows, columns


def initial_latents(image: Image.Image, members: int) -> torch.Tensor:
    """The noise that the service starts from for SEED."""
    drawn = [draw_noise(SEED, member, 0, latent_shape(image)) for member in range(members)]
    return torch.from_numpy(np.stack(drawn))


def ensemble_in_float64(*arguments: Any, **options: Any) -> Any:
    """Marigold's own ensembling, which in float32 solves mostly rounding (see test_diffusers)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        return _ENSEMBLE(*arguments, **options)


def load_pipeline(folder: Path, kind: Any = MarigoldDepthPipeline) -> Any:
    """diffusers' pipeline of a checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = kind.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def require_same(arrays: Any, expected: Expected, tolerance: float = TOLERANCE) -> None:
    """Fail unless an answer is the expected one, and the expected one says something."""
    assert expected.span > 0.05  # else the stretch would compare rounding
    assert np.abs(arrays["prediction"] - expected.prediction).max() < tolerance
    if expected.uncertainty is not None:
        assert expected.uncertainty.max() > 1e-3
        assert np.abs(arrays["uncertainty"] - expected.uncertainty).max() < tolerance
