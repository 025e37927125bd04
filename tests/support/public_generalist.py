"""The perception paper's generalist with random weights, small, in the layout of its release."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.support.foreign_dit import Published, Weights, random_weights
from tests.support.public_checkpoints import CHANNELS, SCHEDULER, WEIGHTS, build_autoencoder

SHAPE = Published(
    width=64,
    depth=2,
    heads=4,
    latent=16,
    channels=3 * CHANNELS,
    out_channels=2 * CHANNELS,
    labels=1005,
    experts=4,
    expert="gelu",
    routed=True,
)
# Stable Diffusion 2's own file, which is from before spacings were written down.
STABLE_DIFFUSION: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "skip_prk_steps": True,
    "trained_betas": None,
    **{field: value for field, value in SCHEDULER.items() if field != "timestep_spacing"},
}
# Random decoders paint grey, and masks are what is not white: this makes some of it so.
_BRIGHTER, _CONTRAST = 0.95, 0.3


@dataclass(frozen=True)
class Release:
    """The file, its weights, and the folder that its authors take beside it."""

    file: Path
    weights: Weights
    stable_diffusion: Path


def build_generalist(folder: Path, *, ema: bool = True, **scheduler: Any) -> Release:
    """Write everything; `scheduler` changes fields of the scheduler's file, None takes one out."""
    beside = folder / "stable-diffusion-2"
    (beside / "scheduler").mkdir(parents=True)
    values = {**STABLE_DIFFUSION, **scheduler}
    path = beside / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    build_autoencoder(beside / "vae")
    _brighten(beside / "vae" / WEIGHTS)
    (beside / "README.md").write_text("---\nlicense: openrail++\n---\n")
    file = folder / "scaling_diffusion_perception" / "dit_moe_generalist.pt"
    file.parent.mkdir()
    (file.parent / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    weights = random_weights(SHAPE)
    torch.save({"ema": weights} if ema else weights, file)
    return Release(file, weights, beside)


def _brighten(path: Path) -> None:
    weights = load_file(path)
    weights["decoder.conv_out.weight"] *= _CONTRAST
    weights["decoder.conv_out.bias"].fill_(_BRIGHTER)
    save_file(weights, path, metadata={"format": "pt"})
