"""The generalist's diffusion transformer as a denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from service.core.sizes import Size
from training.checkpoint import CheckpointError
from training.converters.experts import countable, separate_experts
from training.converters.record import ConvertError, Part
from training.models.dit import DiT, DiTConfig
from training.models.foreign import Foreign, read_generalist

_ON_THE_WAY = 400  # a timestep between the ends


@dataclass(frozen=True)
class Transformer:
    """The network in the file, which is read again when its weights are wanted.

    `told_heads` are those that were asked for, since no tensor tells them.
    """

    path: Path
    told_heads: int | None
    config: DiTConfig
    latent_size: int
    notes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Of the latents that it denoises."""
        return self.config.out_channels

    def part(self, name: str, factor: int) -> Part:
        """The denoiser under the name it is to have, for latents `factor` times coarser."""

        def inputs(size: Size) -> Mapping[str, Tensor]:
            height, width = (side // factor for side in size)
            shown = self.config.in_channels - self.channels
            first = self.config.first_task_label
            return {
                "noisy": torch.randn(2, self.channels, height, width),
                "condition": torch.randn(2, shown, height, width),
                "timestep": torch.tensor([999, _ON_THE_WAY]),
                "task": torch.tensor([first, first + self.config.routes - 1]),
            }

        return Part(name, "prediction", self._skeleton, self._load, inputs)

    def _skeleton(self) -> nn.Module:
        with torch.device("meta"):
            return countable(DiT(self.config)).requires_grad_(False).eval()

    def _load(self) -> nn.Module:
        return separate_experts(_read(self.path, self.told_heads).build()).requires_grad_(False)


def read_transformer(path: Path, heads: int | None = None) -> Transformer:
    """What a file holds. Its weights are let go of, so that networks are loaded one by one."""
    found = _read(path, heads)
    assert found.latent_size is not None  # every file of this kind has its positions
    if found.config.experts is None:
        raise ConvertError(f"{path} has no experts, which the released generalist has")
    return Transformer(path, heads, found.config, found.latent_size, found.notes)


def _read(path: Path, heads: int | None) -> Foreign:
    try:
        return read_generalist(path, heads)
    except CheckpointError as error:
        raise ConvertError(str(error)) from error
