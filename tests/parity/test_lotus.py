"""Converted Lotus checkpoints, served over HTTP, against their networks called directly.

No library has Lotus' pipelines: the inputs are those of the released code, once at t = 999.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
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
    Expected,
    ensemble_in_float64,
    initial_latents,
    picture,
    require_same,
    stretched,
)
from tests.support.public_checkpoints import FACTOR, RESOLUTION, build_lotus
from tests.support.served import ask, client_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers' imports warn of its own dependencies
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.marigold.marigold_image_processing import MarigoldImageProcessor
    from transformers import CLIPTextModel, CLIPTokenizer

SWITCH = [math.sin(1), math.sin(0), math.cos(1), math.cos(0)]


@dataclass(frozen=True)
class Lotus:
    unet: Any
    vae: Any
    text: torch.Tensor
    generative: bool

    @torch.no_grad()
    def pictures(self, image: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        scale = self.vae.config.scaling_factor
        latent = self.vae.encode(image).latent_dist.mode() * scale
        pictures = []
        for row in noise:
            x = torch.cat([latent, row[None]], dim=1) if self.generative else latent
            prediction = self.unet(
                x, 999, encoder_hidden_states=self.text, class_labels=torch.tensor([SWITCH])
            ).sample
            pictures.append(self.vae.decode(prediction / scale).sample)
        return torch.cat(pictures)

    def depths(self, image: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        grey = self.pictures(image, noise).mean(dim=1, keepdim=True)
        return grey.clip(-1, 1) / 2 + 0.5


def load(folder: Path, *, generative: bool) -> Lotus:
    tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")("", return_tensors="pt")
    encoder: Any = CLIPTextModel.from_pretrained(folder / "text_encoder")
    with torch.no_grad():
        text = encoder(tokens.input_ids)[0]
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    return Lotus(unet, AutoencoderKL.from_pretrained(folder / "vae"), text, generative)


def oracle(lotus: Lotus, image: Image.Image, members: int, *, disparity: bool) -> Expected:
    processor = MarigoldImageProcessor(vae_scale_factor=FACTOR)
    pixels, padding, size = processor.preprocess(image, RESOLUTION, "bilinear")
    depth = processor.unpad_image(lotus.depths(pixels, initial_latents(image, members)), padding)
    uncertainty = None
    if members > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            depth, uncertainty = ensemble_in_float64(depth, output_uncertainty=True)
        uncertainty = processor.resize_antialias(uncertainty, size, "bilinear", is_aa=False)
        uncertainty = uncertainty[0, 0].numpy()
    whole = processor.resize_antialias(depth, size, "bilinear", is_aa=False)[0, 0].numpy()
    return stretched(1 - whole if disparity else whole, uncertainty)


@pytest.mark.parametrize("predicts", ["depth", "disparity"])
@pytest.mark.parametrize("generative", [False, True], ids=["D", "G"])
async def test_answers_over_http_are_the_networks(
    generative: bool, predicts: str, converted: Convert, tmp_path: Path
):
    folder = build_lotus(tmp_path / "lotus", generative=generative)
    repository = converted("lotus", folder, "--predicts", predicts, "--resolution", str(RESOLUTION))
    lotus = load(folder, generative=generative)
    disparity = predicts == "disparity"
    async with client_of(repository) as client:
        for size in SIZES:
            image = picture(*size)
            for members in (1, 3) if generative else (1,):
                arrays = await ask(client, image, ensemble=members, seed=SEED, uncertainty=True)
                assert int(arrays["steps"]) == 1
                require_same(arrays, oracle(lotus, image, members, disparity=disparity))
        again = await ask(client, image, ensemble=members, seed=SEED + 1)
    assert np.array_equal(again["prediction"], arrays["prediction"]) != generative
