"""What turns the pictures of a request into the `condition` (B, K, h, w) that the denoiser sees.

Three encoders behind one call, `encoder(image, prompt) -> Encoded`:

- `LatentEncoder`, the paper's form: the condition is the latents of the picture and of the prompt,
  nothing is learned.
- `SceneEncoder`, for depth and amodal completion: convolutions, then a transformer at 1/16.
- `MotionEncoder` in `motion`, for flow: shared features of both frames, matched over the whole
  picture, then refined locally.

The learned ones run once per request, so they may be far larger than the denoiser, which runs
steps x members times. Their first channels are trained to be an estimate of the answer's latent
(one group of C channels per component): the denoiser then has only the remaining uncertainty to
model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.transformer import ViTBlock, over_grid
from training.models.vae import PictureCode, ResidualBlock


@dataclass(frozen=True)
class Encoded:
    """A condition (B, K, h, w) and, for flow, how it was found.

    `flows` are coarse-to-fine estimates (B, 2, h', w') as a fraction of the frame.
    """

    condition: Tensor
    flows: tuple[Tensor, ...] = field(default=())


class LatentEncoder(nn.Module):
    """The paper's form: [latent of the picture, latent of the prompt]; K = 2 C.

    Without `prompted`, for a network of one task of one picture, the picture's alone; K = C.
    """

    def __init__(self, vae: PictureCode, prompted: bool = True) -> None:
        super().__init__()
        self.vae = vae.frozen_encoding()
        self.prompted = prompted

    def forward(self, image: Tensor, prompt: Tensor | None) -> Encoded:
        if not self.prompted:
            return Encoded(self.vae(image))
        second = torch.ones_like(image) if prompt is None else prompt
        return Encoded(torch.cat([self.vae(image), self.vae(second)], dim=1))


@dataclass(frozen=True)
class SceneEncoderConfig:
    """Widths at 1/4, 1/8 and 1/16 of the input, and the depth of the transformer at 1/16."""

    in_channels: int
    condition_channels: int
    widths: tuple[int, int, int] = (48, 96, 224)
    depth: int = 6
    heads: int = 4


class SceneEncoder(nn.Module):
    """(B, 3, H, W), and a prompt of the same size where the task has one, to (B, K, H/8, W/8)."""

    def __init__(self, config: SceneEncoderConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse = config.widths
        self.stem = nn.Conv2d(config.in_channels, fine, 4, stride=4)
        self.blocks4 = nn.Sequential(ResidualBlock(fine), ResidualBlock(fine))
        self.down8 = nn.Conv2d(fine, middle, 2, stride=2)
        self.blocks8 = nn.Sequential(ResidualBlock(middle), ResidualBlock(middle))
        self.down16 = nn.Conv2d(middle, coarse, 2, stride=2)
        self.transformer = nn.ModuleList(
            ViTBlock(coarse, config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(coarse, eps=1e-6)
        self.up8 = nn.Conv2d(coarse, 4 * middle, 1)
        self.join8 = nn.Conv2d(2 * middle, middle, 3, padding=1)
        self.exit8 = ResidualBlock(middle)
        self.head = nn.Conv2d(middle, config.condition_channels, 1)

    def forward(self, image: Tensor, prompt: Tensor | None) -> Encoded:
        # One channel says all of a mask; a prompt is a grey picture repeated to RGB.
        parts = [image] if prompt is None else [image, prompt[:, :1]]
        x8 = self.blocks8(self.down8(self.blocks4(self.stem(torch.cat(parts, dim=1)))))
        x16 = self.down16(x8)
        grid = over_grid(x16, self.transformer, self.norm)
        joined = torch.cat([functional.pixel_shuffle(self.up8(grid), 2), x8], dim=1)
        return Encoded(self.head(self.exit8(self.join8(joined))))
