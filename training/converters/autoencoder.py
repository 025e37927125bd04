"""Autoencoder folders of diffusers: pictures to latents and back.

Any of them goes with any denoiser that has as many latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from service.core.sizes import Size
from training.converters.config import Config, read_config
from training.converters.modules import build_empty, plain_upsampling
from training.converters.record import ConvertError, Part
from training.converters.weights import fill, weight_files

_STEM = "diffusion_pytorch_model"
# Attention layers of files from before diffusers 0.18 have these names.
_OLD_NAMES = (
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)


class _Encoder(nn.Module):
    """`condition` (B, C, h, w) of `image` (B, 3, H, W): the most likely latent, scaled."""

    def __init__(self, network: nn.Module, quantise: nn.Module, channels: int, scale: float):
        super().__init__()
        self.network, self.quantise = network, quantise
        self.channels, self.scale = channels, scale

    def forward(self, image: Tensor) -> Tensor:
        """The posterior's mean comes first, its log-variance behind it."""
        moments: Tensor = self.quantise(self.network(image))
        return moments[:, : self.channels] * self.scale


class _Decoder(nn.Module):
    """`image` (B, 3, H, W) of `latent` (B, C, h, w), which is x_0 over the scale."""

    def __init__(self, network: nn.Module, unquantise: nn.Module):
        super().__init__()
        self.network, self.unquantise = network, unquantise

    def forward(self, latent: Tensor) -> Tensor:
        """Without clipping: what a value means is the encoding's business."""
        image: Tensor = self.network(self.unquantise(latent))
        return image


@dataclass(frozen=True)
class _Kind:
    """One class of autoencoders: the field that has an entry per level, and its plain scale."""

    levels: str
    scaling_factor: float


_KINDS: Mapping[str, _Kind] = {
    "AutoencoderKL": _Kind("block_out_channels", 0.18215),
    "AutoencoderTiny": _Kind("encoder_block_out_channels", 1.0),
}


@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder folder: latents have `channels`, `factor` times fewer rows and columns.

    `scale` is what the encoder's latents are multiplied by. `notes` tell what its file leaves out.
    """

    config: Config
    kind: str
    channels: int
    factor: int
    scale: float
    files: tuple[Path, ...]
    notes: tuple[str, ...]

    def parts(self, encoder: str, decoder: str) -> tuple[Part, Part]:
        """The two networks under the names they are to have."""
        return (
            Part(encoder, "condition", self._encoder(self.empty), self._encoder(self.load), _image),
            Part(
                decoder, "image", self._decoder(self.empty), self._decoder(self.load), self._latent
            ),
        )

    def empty(self) -> nn.Module:
        """The whole network on the meta device."""
        return plain_upsampling(build_empty(self.config, self.kind))

    def load(self) -> nn.Module:
        """The whole network with its weights."""
        return fill(self.empty(), self.files[1:], rename=_renamed)

    def _encoder(self, build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def encoder() -> nn.Module:
            whole = build()
            quantise = getattr(whole, "quant_conv", None) or nn.Identity()
            return _Encoder(whole.get_submodule("encoder"), quantise, self.channels, self.scale)

        return encoder

    def _decoder(self, build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def decoder() -> nn.Module:
            whole = build()
            unquantise = getattr(whole, "post_quant_conv", None) or nn.Identity()
            return _Decoder(whole.get_submodule("decoder"), unquantise)

        return decoder

    def _latent(self, size: Size) -> Mapping[str, Tensor]:
        height, width = (side // self.factor for side in size)
        return {"latent": torch.randn(2, self.channels, height, width)}


def read_autoencoder(folder: Path) -> Autoencoder:
    """Read an autoencoder's description; its weights are left alone."""
    config = read_config(folder / "config.json")
    kind = config.choose("_class_name", {name: name for name in _KINDS})
    _require_supported(config)
    known, notes = _KINDS[kind], []
    scale = config.maybe("scaling_factor", float)
    if scale is None:
        scale = known.scaling_factor
        notes.append(
            f"{config.name} leaves scaling_factor out, which stands for {scale:g} in {kind}"
        )
    return Autoencoder(
        config=config,
        kind=kind,
        channels=config.read("latent_channels", int),
        factor=2 ** (len(config.numbers(known.levels)) - 1),
        scale=scale,
        files=(config.path, *weight_files(folder, _STEM)),
        notes=tuple(notes),
    )


def require_same_latents(autoencoder: Autoencoder, channels: int, denoiser: Config) -> None:
    """Raise ConvertError unless a denoiser of `channels` latent channels speaks its language."""
    if autoencoder.channels != channels:
        raise ConvertError(
            f"{denoiser.path} denoises latents of {channels} channels, and the autoencoder in "
            f"{autoencoder.config.path.parent} has {autoencoder.channels}"
        )


def _require_supported(config: Config) -> None:
    for field in ("shift_factor", "latents_mean", "latents_std"):
        if config.stated(field):
            raise ConvertError(f"{config.path}: {field} is not supported")


def _renamed(key: str) -> str:
    for old, new in _OLD_NAMES:
        key = key.replace(old, new)
    return key


def _image(size: Size) -> Mapping[str, Tensor]:
    return {"image": torch.rand(2, 3, *size) * 2 - 1}
