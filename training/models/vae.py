"""The autoencoder: pictures of any task to a latent grid eight times coarser, and back.

One network serves photographs, depth, flow and masks, as in latent diffusion; it is trained once
and then frozen. The encoder works at the latent resolution from its first layer on (every target
of every training step passes through it, so it must be cheap); the decoder runs once per answer
and may spend more.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

FACTOR = 8  # px per latent cell, both ways


@dataclass(frozen=True)
class VaeConfig:
    """Widths of the autoencoder. `latent_channels` is C of the denoiser's `noisy` input."""

    kind: Literal["convolutional"] = "convolutional"
    latent_channels: int = 4
    encoder_width: int = 128
    encoder_blocks: int = 2
    decoder_widths: tuple[int, int, int, int] = (128, 64, 32, 16)  # at 1/8, 1/4, 1/2, 1/1


class PictureCode(Protocol):
    """What the rest of a model asks of an autoencoder, whichever it is.

    Pictures are (B, 3, 8h, 8w) in [-1, 1]; latents (B, C, h, w) are about as strong as unit noise.
    """

    def encode(self, image: Tensor) -> Tensor:
        """Latent of pictures."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures of a latent."""
        ...

    def frozen_encoding(self) -> nn.Module:
        """`encode` as a frozen module of its own, sharing the weights."""
        ...


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.silu(self.conv1(functional.silu(self.norm(x)))))


class Encoder(nn.Module):
    """(B, 3, 8h, 8w) in [-1, 1] to a latent (B, C, h, w)."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        width = config.encoder_width
        self.stem = nn.Conv2d(3 * FACTOR**2, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(config.encoder_blocks)))
        self.head = nn.Conv2d(width, config.latent_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(functional.pixel_unshuffle(image, FACTOR))))


class Decoder(nn.Module):
    """A latent (B, C, h, w) to (B, 3, 8h, 8w), about [-1, 1]."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        self.stem = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.entry = nn.Sequential(ResidualBlock(widths[0]), ResidualBlock(widths[0]))
        self.narrow = nn.ModuleList(
            nn.Conv2d(wide, narrow, 3, padding=1) for wide, narrow in itertools.pairwise(widths)
        )
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in widths[1:])
        self.head = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.entry(self.stem(latent))
        for narrow, block in zip(self.narrow, self.blocks, strict=True):
            # Narrowing before enlarging gives the same function class at a quarter of the cost.
            x = block(functional.interpolate(narrow(x), scale_factor=2.0, mode="nearest"))
        return self.head(x)


class EncodingHalf(nn.Module):
    """What turns pictures into normalised latents: the part that condition encoders share."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    def forward(self, image: Tensor) -> Tensor:
        """Normalised latent (B, C, H/8, W/8) of pictures (B, 3, H, W) in [-1, 1], sides of 8 n."""
        centred = self.encoder(image) - self.latent_mean[:, None, None]
        return centred / self.latent_std[:, None, None]


class Autoencoder(nn.Module):
    """Encoder and decoder around latents of unit variance.

    The mean and deviation of the latents (C,) are measured after training, so that the diffusion
    process starts from noise as strong as the signal in every channel, and no scale has to travel
    beside the weights.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoding = EncodingHalf(config)
        self.decoder = Decoder(config)

    def encode(self, image: Tensor) -> Tensor:
        """Normalised latent (B, C, H/8, W/8) of pictures (B, 3, H, W) in [-1, 1], sides of 8 n."""
        return self.encoding(image)

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures (B, 3, 8h, 8w) of normalised latents (B, C, h, w)."""
        std, mean = self.encoding.latent_std, self.encoding.latent_mean
        return self.decoder(latent * std[:, None, None] + mean[:, None, None])

    def frozen_encoding(self) -> EncodingHalf:
        """The encoder as a frozen module of its own, sharing the weights."""
        return self.encoding.requires_grad_(False)
