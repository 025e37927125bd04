"""The autoencoder of latent diffusion (Stable Diffusion 2, sd-vae-ft) behind our own one's calls.

The networks are diffusers' `AutoencoderKL`, which is needed only where such a model is built. The
latent of a picture is the mean of its posterior: the same picture always has the same one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from service.core.record import load_record, require
from training.checkpoint import CheckpointError
from training.models.vae import FACTOR

CONFIG = "config.json"


@dataclass(frozen=True)
class LatentDiffusionVaeConfig:
    """Shape of an AutoencoderKL, by default Stable Diffusion's.

    A denoiser sees the latent less `shift_factor`, times `scaling_factor`.
    """

    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    kind: Literal["latent_diffusion"] = "latent_diffusion"

    def __post_init__(self) -> None:
        factor = 2 ** (len(self.block_out_channels) - 1)
        require(factor == FACTOR, "block_out_channels", f"must make one cell of {FACTOR} px")
        require(self.scaling_factor > 0, "scaling_factor", "must be positive")


class AutoencoderKL(Protocol):
    """The parts of diffusers' class of that name."""

    encoder: nn.Module
    decoder: nn.Module
    quant_conv: nn.Module | None
    post_quant_conv: nn.Module | None


class PosteriorMean(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1], sides of 8 n, to scaled latents (B, C, H/8, W/8)."""

    def __init__(self, network: AutoencoderKL, config: LatentDiffusionVaeConfig) -> None:
        super().__init__()
        self.encoder = network.encoder
        self.quant_conv = network.quant_conv or nn.Identity()
        self.scale, self.shift = config.scaling_factor, config.shift_factor

    def forward(self, image: Tensor) -> Tensor:
        mean, _ = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        return (mean - self.shift) * self.scale


class LatentDiffusionVae(nn.Module):
    """Encoder and decoder around latents of about unit variance; without training's noise."""

    def __init__(self, config: LatentDiffusionVaeConfig) -> None:
        super().__init__()
        self.config = config
        network = _network(config)
        self.encoding = PosteriorMean(network, config)
        self.decoder = network.decoder
        self.post_quant_conv = network.post_quant_conv or nn.Identity()

    def encode(self, image: Tensor) -> Tensor:
        """Scaled latent (B, C, H/8, W/8) of pictures (B, 3, H, W) in [-1, 1], sides of 8 n."""
        return self.encoding(image)

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures (B, 3, 8h, 8w), about [-1, 1], of scaled latents (B, C, h, w)."""
        raw = latent / self.config.scaling_factor + self.config.shift_factor
        return self.decoder(self.post_quant_conv(raw))

    def frozen_encoding(self) -> PosteriorMean:
        """The encoder as a frozen module of its own, sharing the weights."""
        return self.encoding.requires_grad_(False)


_FIELDS = tuple(f.name for f in fields(LatentDiffusionVaeConfig) if f.name != "kind")


def _network(config: LatentDiffusionVaeConfig) -> AutoencoderKL:
    blocks = len(config.block_out_channels)
    network: AutoencoderKL = import_module("diffusers").AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_num_groups,
        use_quant_conv=config.use_quant_conv,
        use_post_quant_conv=config.use_post_quant_conv,
        mid_block_add_attention=config.mid_block_add_attention,
    )
    return network


def load_autoencoder(folder: Path, device: torch.device) -> LatentDiffusionVae:
    """The autoencoder of a folder that diffusers wrote, frozen. Raises CheckpointError.

    diffusers reads the weights, since it knows the names of older releases.
    """
    model = LatentDiffusionVae(read_config(folder))
    reader = import_module("diffusers").AutoencoderKL
    try:
        network: AutoencoderKL = reader.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} cannot be loaded by diffusers: {error}") from error
    model.encoding = PosteriorMean(network, model.config)
    model.decoder = network.decoder
    model.post_quant_conv = network.post_quant_conv or nn.Identity()
    return model.requires_grad_(False).to(device).eval()


def read_config(folder: Path) -> LatentDiffusionVaeConfig:
    """The shape that the folder's `config.json` states. Raises CheckpointError."""
    path = folder / CONFIG
    try:
        plain = json.loads(path.read_text())
        told = {name: plain[name] for name in _FIELDS if plain.get(name) is not None}
        if plain["_class_name"] != "AutoencoderKL" or plain.get("act_fn", "silu") != "silu":
            raise CheckpointError(f"{path} does not describe an AutoencoderKL with silu")
        if any(plain.get(name) is not None for name in ("latents_mean", "latents_std")):
            raise CheckpointError(f"{path}: latents_mean and latents_std are not supported")
        shape = {**asdict(LatentDiffusionVaeConfig()), **told}
        return load_record(LatentDiffusionVaeConfig, json.dumps(shape))
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe an autoencoder: {error}") from error
