"""Converted checkpoints of normals, served over HTTP: Marigold against diffusers' own pipeline,
Lotus against its network called directly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.parity.conftest import Convert
from tests.parity.oracle import (
    SEED,
    SIZES,
    TOLERANCE,
    initial_latents,
    later_noise,
    load_pipeline,
    picture,
)
from tests.parity.test_lotus import load as load_lotus
from tests.support.pictures import decode, encode
from tests.support.public_checkpoints import (
    FACTOR,
    NORMALS_INDEX,
    RESOLUTION,
    STABLE_DIFFUSION_INDEX,
    TRAILING,
    build_lotus,
    build_marigold,
    edit_json,
)
from tests.support.served import Arrays, ask, client_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers' imports warn of its own dependencies
    from diffusers import MarigoldNormalsPipeline
    from diffusers.pipelines.marigold.marigold_image_processing import MarigoldImageProcessor
    from diffusers.schedulers import scheduling_lcm

BUDGETS = tuple((steps, members) for steps in (1, 4) for members in (1, 3))
REDUCTIONS = ("closest", "mean")
MIRRORED = np.array([-1, 1, 1], dtype=np.float32)  # from x to the left to x to the right


@dataclass(frozen=True)
class Kind:
    """One published kind of Marigold normals: its files, and the flags that no file stands for."""

    build: dict[str, Any]
    flags: tuple[str, ...] = ()
    index: dict[str, Any] = field(default_factory=dict)
    budgets: tuple[tuple[int, int], ...] = BUDGETS
    zeros: bool = False
    mirrored: bool = False


KINDS = {
    "v0-1": Kind({}),
    "v1-1": Kind(TRAILING),
    "lcm": Kind({"lcm": True}),
    "half z": Kind(TRAILING, index={"use_full_z_range": False}, budgets=((4, 1), (4, 3))),
    "e2e": Kind(
        {"timestep_spacing": "trailing"},
        ("--variant", "e2e", "--predicts", "normals", "--resolution", str(RESOLUTION)),
        {**STABLE_DIFFUSION_INDEX, "use_full_z_range": None},
        budgets=((1, 1),),
        zeros=True,
        mirrored=True,
    ),
}

Build = Callable[[str], Path]


@dataclass(frozen=True)
class Expected:
    """Unit vectors (h, w, 3) over the upload, x right, and their mean angles (h, w)."""

    prediction: np.ndarray
    uncertainty: np.ndarray | None


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Build:
    @cache
    def build(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint") / kind
        build_marigold(folder, **KINDS[kind].build)
        edit_json(folder / "model_index.json", **{**NORMALS_INDEX, **KINDS[kind].index})
        return folder

    return build


@pytest.fixture(scope="module")
def repository(checkpoint: Build, converted: Convert) -> Build:
    @cache
    def build(kind: str) -> Path:
        return converted("marigold", checkpoint(kind), *KINDS[kind].flags)

    return build


def oracle(
    pipeline: Any, kind: Kind, image: Image.Image, steps: int, members: int, reduction: str
) -> Expected:
    latents = initial_latents(image, members)
    noises = later_noise(image, steps, members)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: next(noises))
        found = pipeline(
            image,
            num_inference_steps=steps,
            ensemble_size=members,
            processing_resolution=RESOLUTION,  # not every folder says it
            latents=torch.zeros_like(latents) if kind.zeros else latents,
            output_uncertainty=members > 1,
            ensembling_kwargs={"reduction": reduction},
        )
    prediction = found.prediction[0] * (MIRRORED if kind.mirrored else 1)
    return Expected(prediction, None if members == 1 else found.uncertainty[0, ..., 0])


def require_same(arrays: Arrays, expected: Expected) -> None:
    """Fail unless an answer is the expected one, and the expected one says something."""
    assert expected.prediction.std(axis=(0, 1)).min() > 0.05
    np.testing.assert_allclose(np.linalg.norm(arrays["prediction"], axis=-1), 1, atol=1e-5)
    assert np.abs(arrays["prediction"] - expected.prediction).max() < TOLERANCE
    if expected.uncertainty is not None:
        assert expected.uncertainty.max() > 1e-3
        assert np.abs(arrays["uncertainty"] - expected.uncertainty).max() < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
async def test_answers_over_http_are_the_pipelines(kind, checkpoint, repository):
    pipeline = load_pipeline(checkpoint(kind), MarigoldNormalsPipeline)
    async with client_of(repository(kind)) as client:
        for size in SIZES:
            image = picture(*size)
            for steps, members in KINDS[kind].budgets:
                for reduction in REDUCTIONS[:members]:
                    expected = oracle(pipeline, KINDS[kind], image, steps, members, reduction)
                    arrays = await ask(
                        client,
                        image,
                        task="normals",
                        steps=steps,
                        ensemble=members,
                        seed=SEED,
                        reduction=reduction,
                        uncertainty=True,
                    )
                    require_same(arrays, expected)


async def test_defaults_are_what_the_checkpoint_states(checkpoint, repository):
    image = picture(*SIZES[1])
    pipeline = load_pipeline(checkpoint("v1-1"), MarigoldNormalsPipeline)
    async with client_of(repository("v1-1")) as client:
        arrays = await ask(client, image, task="normals", seed=SEED, ensemble=3)
        shown = await client.post(
            "/normals", files={"image": encode(image)}, data={"seed": str(SEED), "ensemble": "3"}
        )
        (model,) = (await client.get("/models")).json()["models"]
        refused = await client.post("/depth", files={"image": encode(image)})
    assert (int(arrays["steps"]), str(arrays["reduction"])) == (4, "closest")
    expected = oracle(pipeline, KINDS["v1-1"], image, 4, 3, "closest")
    assert np.abs(arrays["prediction"] - expected.prediction).max() < TOLERANCE
    # diffusers rounds down, and rounding may fall on the other side of a byte.
    (drawn,) = pipeline.image_processor.visualize_normals(expected.prediction[None])
    painted = np.asarray(decode(shown.content)).astype(int)
    assert np.abs(painted - np.asarray(drawn)).max() <= 1
    (task,) = model["tasks"]
    assert (task["task"], task["outputs"]) == ("normals", ["color", "png16", "npz", "json"])
    assert "x is taken to point right" in model["provenance"]["note 1"]
    assert refused.status_code == 422
    assert refused.json()["field"] == "model"


def lotus_oracle(lotus: Any, image: Image.Image, members: int) -> Expected:
    processor = MarigoldImageProcessor(vae_scale_factor=FACTOR)
    pixels, padding, size = processor.preprocess(image, RESOLUTION, "bilinear")
    drawn = lotus.pictures(pixels, initial_latents(image, members)).clip(-1, 1)
    normals = torch.nn.functional.normalize(processor.unpad_image(drawn, padding), dim=1)
    uncertainty = None
    if members > 1:
        normals, uncertainty = MarigoldNormalsPipeline.ensemble_normals(normals, True, "mean")
        uncertainty = processor.resize_antialias(uncertainty, size, "bilinear", is_aa=False)
        uncertainty = uncertainty[0, 0].numpy()
    whole = processor.resize_antialias(normals, size, "bilinear", is_aa=False)
    unit = torch.nn.functional.normalize(whole, dim=1)[0].permute(1, 2, 0).numpy()
    return Expected(unit * MIRRORED, uncertainty)


@pytest.mark.parametrize("generative", [False, True], ids=["D", "G"])
async def test_lotus_answers_over_http_are_its_networks(
    generative: bool, converted: Convert, tmp_path: Path
):
    folder = build_lotus(tmp_path / "lotus", generative=generative)
    flags = ("--predicts", "normals", "--resolution", str(RESOLUTION))
    lotus = load_lotus(folder, generative=generative)
    async with client_of(converted("lotus", folder, *flags)) as client:
        for size in SIZES:
            image = picture(*size)
            for members in (1, 3) if generative else (1,):
                arrays = await ask(
                    client,
                    image,
                    task="normals",
                    ensemble=members,
                    seed=SEED,
                    reduction="mean",
                    uncertainty=True,
                )
                require_same(arrays, lotus_oracle(lotus, image, members))
