"""Converted encoders and decoders against diffusers' encode and decode."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.public_checkpoints import (
    FACTOR,
    WEIGHTS,
    build_autoencoder,
    build_tiny_autoencoder,
)
from training.converters.autoencoder import read_autoencoder
from training.onnx_network import Network, trace
from training.onnx_storage import save_graph

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers' imports warn of its own dependencies
    from diffusers import AutoencoderKL, AutoencoderTiny

SIZES = ((1, 12, 20), (3, 16, 6))  # rows, height, width in px
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def encode(vae: Any, image: torch.Tensor) -> torch.Tensor:
    found = vae.encode(image)
    latent = found.latent_dist.mode() if isinstance(vae, AutoencoderKL) else found.latents
    return latent * vae.config.scaling_factor


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
@torch.no_grad()
def test_encoding_and_decoding_are_diffusers(kind: str, tmp_path: Path):
    if kind == "AutoencoderKL":
        folder = build_autoencoder(tmp_path / "vae")
        vae: Any = AutoencoderKL.from_pretrained(folder)
    else:
        folder = build_tiny_autoencoder(tmp_path / "vae")
        vae = AutoencoderTiny.from_pretrained(folder)
    ours = read_autoencoder(folder)
    assert (ours.channels, ours.factor) == (4, FACTOR)
    assert ours.scale == vae.config.scaling_factor
    sessions = []
    for part in ours.parts("encoder", "decoder"):
        path = tmp_path / part.name / "model.onnx"
        network = Network(part.name, part.load(), part.inputs((18, 24)), part.output, True)
        save_graph(trace(network), path, "fp32")
        sessions.append(onnxruntime.InferenceSession(path))
    for rows, height, width in SIZES:
        image = torch.rand(rows, 3, height, width) * 2 - 1
        expected = encode(vae, image)
        (latent,) = sessions[0].run(None, {"image": image.numpy()})
        np.testing.assert_allclose(latent, expected, rtol=0, atol=1e-5)
        z = torch.randn(expected.shape)
        (decoded,) = sessions[1].run(None, {"latent": z.numpy()})
        np.testing.assert_allclose(decoded, vae.decode(z).sample, rtol=0, atol=1e-5)


def test_files_from_before_attention_layers_were_renamed_are_read(tmp_path: Path):
    folder = build_autoencoder(tmp_path / "vae")
    expected = read_autoencoder(folder).load().state_dict()
    weights = load_file(folder / WEIGHTS)
    renamed = {}
    for key, value in weights.items():
        for new, old in OLD.items():
            key = key.replace(f".{new}.", f".{old}.") if ".attentions." in key else key
        renamed[key] = value
    assert renamed.keys() != weights.keys()
    save_file(renamed, folder / WEIGHTS)
    found = read_autoencoder(folder).load().state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
