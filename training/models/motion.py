"""The condition encoder of optical flow: match two frames everywhere, look around, correct."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.encoders import Encoded
from training.models.matching import CELL, all_pairs, global_match, local_match, warp
from training.models.transformer import ViTBlock, over_grid
from training.models.vae import FACTOR, PictureCode, ResidualBlock
from training.targets import FlowCode


@dataclass(frozen=True)
class MotionEncoderConfig:
    """Widths at 1/2, 1/4 and 1/8 of the frames, of the context at 1/16, of what corrects at 1/8."""

    condition_channels: int
    latent_channels: int
    latent_size: int
    widths: tuple[int, int, int] = (16, 32, 96)
    context_width: int = 192
    context_depth: int = 3
    heads: int = 4
    radius: int = 3
    refinements: int = 2
    photometric_widths: tuple[int, int, int] = (16, 32, 64)


class FramePyramid(nn.Module):
    """A frame (B, 3, H, W) to features (B, D, H/8, W/8)."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 7, stride=2, padding=3)
        self.down4 = nn.Conv2d(widths[0], widths[1], 3, stride=2, padding=1)
        self.block4 = ResidualBlock(widths[1])
        self.down8 = nn.Conv2d(widths[1], widths[2], 3, stride=2, padding=1)
        self.block8 = ResidualBlock(widths[2])

    def forward(self, frame: Tensor) -> Tensor:
        x4 = self.block4(self.down4(functional.silu(self.stem(frame))))
        return self.block8(self.down8(functional.silu(x4)))


class PhotometricResidual(nn.Module):
    """What a sub-pixel correction needs: both frames, the second moved onto the first.

    Takes frames (B, 3, H, W) and a flow on any grid; features are at 1/8.
    """

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.down2 = nn.Conv2d(6, widths[0], 7, stride=2, padding=3)
        self.down4 = nn.Conv2d(widths[0], widths[1], 3, stride=2, padding=1)
        self.down8 = nn.Conv2d(widths[1], widths[2], 3, stride=2, padding=1)

    def forward(self, frame1: Tensor, frame2: Tensor, flow: Tensor) -> Tensor:
        fine = functional.interpolate(flow, size=frame1.shape[2:], mode="bilinear")
        pair = torch.cat([frame1, warp(frame2, fine) - frame1], dim=1)
        x = functional.silu(self.down4(functional.silu(self.down2(pair))))
        return functional.silu(self.down8(x))


class MotionEncoder(nn.Module):
    """Two frames (B, 3, H, W) to a condition (B, K, h, w).

    The first C channels are the latent of the flow found, as the autoencoder writes it.
    """

    def __init__(self, config: MotionEncoderConfig, vae: PictureCode, code: FlowCode) -> None:
        super().__init__()
        self.config = config
        self.code = code
        self.vae = vae.frozen_encoding()
        feature, context = config.widths[2], config.context_width
        self.pyramid = FramePyramid(config.widths)
        self.temperature = nn.Parameter(torch.tensor(15.0))
        self.nearness = nn.Parameter(torch.tensor(0.05))  # a deviation of about three cells
        self.down16 = nn.Conv2d(feature + 3, context, 2, stride=2)
        self.transformer = nn.ModuleList(
            ViTBlock(context, config.heads) for _ in range(config.context_depth)
        )
        self.norm = nn.LayerNorm(context, eps=1e-6)
        self.up8 = nn.Conv2d(context, 4 * feature, 1)
        self.photometric = PhotometricResidual(config.photometric_widths)
        looked_up = (2 * config.radius + 1) ** 2
        entered = 2 * feature + looked_up + config.photometric_widths[2] + 2
        self.entry = nn.Conv2d(entered, feature, 1)
        self.block = ResidualBlock(feature)
        self.correction = nn.Conv2d(feature, 2, 3, padding=1)
        # What matching found is the first answer: a correction has to be learned.
        for parameter in self.correction.parameters():
            nn.init.zeros_(parameter)
        learned = config.condition_channels - config.latent_channels
        self.head = nn.Conv2d(2 * feature, learned, 1)

    def forward(self, image: Tensor, prompt: Tensor | None) -> Encoded:
        if prompt is None:
            raise ValueError("flow needs a second frame as its prompt")
        first, second = self.pyramid(image), self.pyramid(prompt)
        volume = all_pairs(first, second)  # (B, h, w, h, w)
        flow, confidence = global_match(volume, self.temperature, self.nearness)
        flows = [flow]
        context = self._context(torch.cat([first, flow / CELL, confidence], dim=1))
        hidden = first
        for _ in range(self.config.refinements):
            parts = [
                hidden,
                context,
                local_match(volume, flow, self.config.radius),
                self.photometric(image, prompt, flow),
                flow / CELL,
            ]
            hidden = self.block(self.entry(torch.cat(parts, dim=1)))
            flow = flow + CELL * self.correction(functional.silu(hidden)).float()
            flows.append(flow)
        return Encoded(self._condition(flow, torch.cat([hidden, context], dim=1)), tuple(flows))

    def _context(self, x8: Tensor) -> Tensor:
        """What the whole picture says about each position at 1/8, where matching alone is blind."""
        grid = over_grid(self.down16(x8), self.transformer, self.norm)
        return functional.pixel_shuffle(self.up8(grid), 2)

    def _condition(self, flow: Tensor, hidden: Tensor) -> Tensor:
        size = self.config.latent_size
        picture = functional.interpolate(flow, size=(size * FACTOR,) * 2, mode="bilinear")
        estimate = self.vae(self.code.picture(picture))
        learned = functional.interpolate(self.head(hidden), size=(size, size), mode="bilinear")
        return torch.cat([estimate, learned], dim=1)
