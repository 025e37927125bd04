"""Converted Marigold checkpoints, served over HTTP, against diffusers' own pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from tests.e2e.test_server import READY_S, serving
from tests.parity.conftest import Convert
from tests.parity.oracle import (
    SEED,
    SIZES,
    Expected,
    ensemble_in_float64,
    initial_latents,
    later_noise,
    load_pipeline,
    picture,
    require_same,
    stretched,
)
from tests.support.pictures import encode
from tests.support.public_checkpoints import (
    RESOLUTION,
    STABLE_DIFFUSION_INDEX,
    TRAILING,
    build_autoencoder,
    build_marigold,
    build_tiny_autoencoder,
    edit_json,
)
from tests.support.served import ask, client_of, read_npz

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers' imports warn of its own dependencies
    from diffusers import AutoencoderKL, AutoencoderTiny
    from diffusers.schedulers import scheduling_lcm

BUDGETS = tuple((steps, members) for steps in (1, 4, 10) for members in (1, 3))


@dataclass(frozen=True)
class Kind:
    """One published kind of Marigold: its files, and the flags that no file stands for."""

    build: dict[str, Any]
    flags: tuple[str, ...] = ()
    index: dict[str, Any] = field(default_factory=dict)
    budgets: tuple[tuple[int, int], ...] = BUDGETS
    zeros: bool = False


KINDS = {
    "v1-0": Kind({}),
    "v1-1": Kind(TRAILING),
    "lcm": Kind({"lcm": True}),
    "e2e": Kind(
        {"timestep_spacing": "trailing"},
        ("--variant", "e2e", "--predicts", "depth", "--resolution", str(RESOLUTION)),
        STABLE_DIFFUSION_INDEX,
        budgets=((1, 1),),
        zeros=True,
    ),
    "disparity": Kind(TRAILING, index={"prediction_type": "disparity"}, budgets=((4, 1), (4, 3))),
}

Build = Callable[[str], Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Build:
    @cache
    def build(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint") / kind
        build_marigold(folder, **KINDS[kind].build)
        edit_json(folder / "model_index.json", **KINDS[kind].index)
        return folder

    return build


@pytest.fixture(scope="module")
def repository(checkpoint: Build, converted: Convert) -> Build:
    @cache
    def build(kind: str) -> Path:
        return converted("marigold", checkpoint(kind), *KINDS[kind].flags)

    return build


def oracle(
    pipeline: Any, image: Image.Image, steps: int, members: int, *, zeros: bool = False
) -> Expected:
    latents = initial_latents(image, members)
    noises = later_noise(image, steps, members)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(pipeline, "ensemble_depth", ensemble_in_float64)
        patch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: next(noises))
        found = pipeline(
            image,
            num_inference_steps=steps,
            ensemble_size=members,
            # not every folder says it
            processing_resolution=RESOLUTION,
            latents=torch.zeros_like(latents) if zeros else latents,
            output_uncertainty=members > 1,
        )
    depth = found.prediction[0, ..., 0]
    if pipeline.config.prediction_type == "disparity":
        depth = 1 - depth  # 0 is nearest in every answer
    return stretched(depth, None if members == 1 else found.uncertainty[0, ..., 0])


@pytest.mark.parametrize("kind", KINDS)
async def test_answers_over_http_are_the_pipelines(kind, checkpoint, repository):
    pipeline = load_pipeline(checkpoint(kind))
    async with client_of(repository(kind)) as client:
        for size in SIZES:
            image = picture(*size)
            for steps, members in KINDS[kind].budgets:
                expected = oracle(pipeline, image, steps, members, zeros=KINDS[kind].zeros)
                arrays = await ask(
                    client, image, steps=steps, ensemble=members, seed=SEED, uncertainty=True
                )
                require_same(arrays, expected)


async def test_defaults_are_what_the_checkpoint_states(checkpoint, repository):
    image = picture(*SIZES[1])
    async with client_of(repository("v1-1")) as client:
        arrays = await ask(client, image, seed=SEED)
        (model,) = (await client.get("/models")).json()["models"]
    assert (int(arrays["steps"]), int(arrays["ensemble"])) == (4, 1)
    assert model["licence"] == "apache-2.0"
    assert len(model["provenance"]["sha256 unet/diffusion_pytorch_model.safetensors"]) == 64
    require_same(arrays, oracle(load_pipeline(checkpoint("v1-1")), image, 4, 1))


async def test_end_to_end_fine_tunes_take_one_step_and_need_no_seed(repository):
    image = picture(*SIZES[0])
    async with client_of(repository("e2e")) as client:
        first, second = [await ask(client, image, seed=seed) for seed in (1, 2)]
        answer = await client.post(
            "/depth", files={"image": encode(image)}, data={"steps": "2", "seed": "1"}
        )
    assert (first["prediction"] == second["prediction"]).all()
    assert answer.status_code == 422


def test_a_real_server_serves_it_too(checkpoint, repository):
    image = picture(*SIZES[1])
    expected = oracle(load_pipeline(checkpoint("v1-1")), image, 4, 3)
    with serving(repository("v1-1")) as server:
        answer = httpx.post(
            f"{server.url}/depth",
            files={"image": encode(image)},
            data={
                "output": "npz",
                "steps": "4",
                "ensemble": "3",
                "seed": str(SEED),
                "uncertainty": "true",
            },
            timeout=READY_S,
        )
    assert answer.status_code == 200, answer.text
    require_same(read_npz(answer.content), expected)


# Rounded weights move these random networks' answers this much of 0..1, at four steps.
STORED = {
    "fp16": (("--dtype", "fp16"), 2e-3),
    "bf16": (("--dtype", "bf16"), 2e-2),
    "int8": (("--quantize", "int8"), 2e-2),
}


@pytest.mark.parametrize("stored", STORED)
async def test_rounded_weights_answer_nearly_the_same(stored, checkpoint, converted):
    flags, bound = STORED[stored]
    image = picture(*SIZES[1])
    expected = oracle(load_pipeline(checkpoint("v1-1")), image, 4, 1)
    async with client_of(converted("marigold", checkpoint("v1-1"), *flags)) as client:
        arrays = await ask(client, image, steps=4, ensemble=1, seed=SEED)
    off = np.abs(arrays["prediction"] - expected.prediction)
    assert 0 < off.max() < bound


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
async def test_any_autoencoder_goes_with_any_denoiser(kind, checkpoint, converted, tmp_path):
    build = {"AutoencoderKL": build_other, "AutoencoderTiny": build_tiny_autoencoder}[kind]
    folder = build(tmp_path / "vae")
    repository = converted("marigold", checkpoint("v1-1"), "--vae", str(folder))
    pipeline = load_pipeline(checkpoint("v1-1"))
    pipeline.register_modules(
        vae={"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}[
            kind
        ].from_pretrained(folder)
    )
    async with client_of(repository) as client:
        (model,) = (await client.get("/models")).json()["models"]
        assert model["licence"].startswith("apache-2.0; autoencoder: MIT")
        image = picture(*SIZES[1])
        for steps, members in ((1, 1), (4, 3)):
            arrays = await ask(
                client, image, steps=steps, ensemble=members, seed=SEED, uncertainty=True
            )
            require_same(arrays, oracle(pipeline, image, steps, members))


def build_other(folder: Path) -> Path:
    build_autoencoder(folder, seed=9)
    (folder / "README.md").write_text("---\nlicense: MIT\n---\n")
    return folder
