"""Loads whichever autoencoder lies in a folder, for what only encodes and decodes pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.checkpoint import CheckpointError, load_weights
from training.models.vae import Autoencoder, VaeConfig

OWN_WEIGHTS = "vae.safetensors"
DIFFUSERS_CONFIG = "config.json"


class PictureCoder(Protocol):
    """The two halves that turn pictures (B, 3, 8h, 8w) in [-1, 1] into latents (B, C, h, w), back.

    Less than the `PictureCode` that training needs.
    """

    def encode(self, image: Tensor) -> Tensor:
        """Latents of pictures."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures of latents."""
        ...


def load_autoencoder(folder: Path, device: torch.device) -> PictureCoder:
    """The autoencoder in `folder`: one of training.autoencoder, or diffusers' AutoencoderKL.

    Raises CheckpointError where there is neither, or it does not load.
    """
    for name, read in _READERS.items():
        if (folder / name).is_file():
            return read(folder, device)
    raise CheckpointError(f"{folder} holds no autoencoder: neither {' nor '.join(_READERS)}")


def weights_sha256(folder: Path) -> str:
    """Checksum over the autoencoder's weights, which tells caches of latents apart."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def config_of_weights(path: Path) -> VaeConfig:
    """The shape of an autoencoder, read off its tensors; raises CheckpointError."""
    try:
        with safe_open(path, "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        widths = (
            shapes["decoder.stem.weight"][0],
            *(shapes[f"decoder.narrow.{level}.weight"][0] for level in range(3)),
        )
        blocks = {key.split(".")[3] for key in shapes if key.startswith("encoding.encoder.blocks.")}
        return VaeConfig(
            latent_channels=shapes["decoder.stem.weight"][1],
            encoder_width=shapes["encoding.encoder.stem.weight"][0],
            encoder_blocks=len(blocks),
            decoder_widths=(widths[0], widths[1], widths[2], widths[3]),
        )
    except (OSError, SafetensorError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path} is not an autoencoder's: {error}") from error


def _own(folder: Path, device: torch.device) -> PictureCoder:
    path = folder / OWN_WEIGHTS
    model = Autoencoder(config_of_weights(path))
    load_weights(model, path)
    return model.requires_grad_(False).to(device).eval()


def _diffusers(folder: Path, device: torch.device) -> PictureCoder:
    from training.models.latent_diffusion_vae import load_autoencoder as load

    return load(folder, device)


_READERS: Mapping[str, Callable[[Path, torch.device], PictureCoder]] = MappingProxyType(
    {OWN_WEIGHTS: _own, DIFFUSERS_CONFIG: _diffusers}
)
