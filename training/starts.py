"""What a run of `training.finetune` starts from: an autoencoder, and weights that were learned.

An autoencoder is a folder of `training.autoencoder` or of diffusers. Learned weights are those of
a finished run: of `training.finetune`, which bring their autoencoder along, or of
`training.pretrain`, whose denoiser is given more inputs and labels; or they are a published
checkpoint of the DiT family, which is treated as the latter.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from training.autoencoder import WEIGHTS as VAE_WEIGHTS
from training.checkpoint import CheckpointError, load_weights, read_tensors
from training.config import ConfigError
from training.finetuned import WEIGHTS, is_finetuned, read_description
from training.models.autoencoders import weights_sha256
from training.models.dit import DiTConfig
from training.models.foreign import is_foreign, read_foreign
from training.models.latent_diffusion_vae import (
    CONFIG,
    LatentDiffusionVae,
    LatentDiffusionVaeConfig,
    load_autoencoder,
)
from training.models.perception import PerceptionModel
from training.models.transplant import perception_state
from training.models.vae import VaeConfig
from training.pretrain import read_pretrained
from training.runs.finetune import FinetuneRun


def begin(
    run: FinetuneRun,
    vae: Path | None,
    init: Path | None,
    device: torch.device,
    heads: int | None = None,
) -> tuple[FinetuneRun, PerceptionModel]:
    """The run around the autoencoder that it is given, and its model as training starts.

    `heads` is what a published file of no published size does not say. Raises ConfigError where an
    autoencoder is missing or one too many, CheckpointError where weights do not fit the run's model
    or the number of heads is not known, and TransplantError where pre-trained ones do not fit.
    """
    published = init is not None and is_foreign(init)
    if heads is not None and not published:
        raise ConfigError("--heads is for a published checkpoint: runs say how many they have")
    if init is not None and not published and is_finetuned(init):
        if vae is not None:
            raise ConfigError(f"--vae is not for --init {init}, which has an autoencoder")
        run = _around(run, read_description(init).model.vae)
        model = _fresh(run)
        load_weights(model, init / WEIGHTS)
        return run, model.to(device)
    if vae is None:
        raise ConfigError("--vae FOLDER is needed: an autoencoder to train around")
    if init is not None and not published:  # which does not say whose latents it learned
        learned = read_pretrained(init).vae
        if learned != weights_sha256(vae):
            raise CheckpointError(f"{init} learned latents of another autoencoder ({learned[:12]})")
    run, model = _with_autoencoder(run, vae)
    if init is not None:
        _plant(model, init, run.loop.seed, heads)
    return run, model.to(device)


def _fresh(run: FinetuneRun) -> PerceptionModel:
    torch.manual_seed(run.loop.seed)
    return PerceptionModel(run.model)


def _around(run: FinetuneRun, vae: VaeConfig | LatentDiffusionVaeConfig) -> FinetuneRun:
    """The run with another's autoencoder, unless both are ours: then its own must fit."""
    if isinstance(vae, VaeConfig) and isinstance(run.model.vae, VaeConfig):
        return run
    return replace(run, model=replace(run.model, vae=vae))


def _with_autoencoder(run: FinetuneRun, vae: Path) -> tuple[FinetuneRun, PerceptionModel]:
    if not (vae / CONFIG).is_file():
        model = _fresh(run)
        load_weights(model.vae, vae / VAE_WEIGHTS)
        return run, model
    loaded = load_autoencoder(vae, torch.device("cpu"))
    run = _around(run, loaded.config)
    model = _fresh(run)
    assert isinstance(model.vae, LatentDiffusionVae)
    model.vae.load_state_dict(loaded.state_dict(), strict=True)
    return run, model


def _plant(model: PerceptionModel, init: Path, seed: int, heads: int | None) -> None:
    """Puts a pre-trained denoiser's weights into the model's."""
    target = model.config.denoiser()
    source, weights = _learned(init, heads)
    # The paper's own generalist is a perception denoiser already.
    state = weights if source == target else perception_state(weights, source, target, seed)
    model.denoiser.load_state_dict(state, strict=True)


def _learned(init: Path, heads: int | None) -> tuple[DiTConfig, dict[str, Tensor]]:
    """A denoiser's shape and weights."""
    if not is_foreign(init):
        return read_pretrained(init).run.model, read_tensors(init / WEIGHTS)
    found = read_foreign(init, heads, original=True)
    return found.config, found.state
