"""The UNet of a diffusers folder as a denoiser, with the embedding of no text inside."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from service.core.sizes import Size
from training.converters.config import Config, read_config
from training.converters.modules import build_empty, plain_upsampling
from training.converters.record import ConvertError, Part
from training.converters.text import empty_prompt, text_files, text_width
from training.converters.weights import fill, weight_files

_KIND = "UNet2DConditionModel"
_STEM = "diffusion_pytorch_model"
# Sizes are multiples of 2 to this power never, so that upsampling always goes to the size of what
# it is joined with: any latent will do, not only multiples of 8.
_NEVER_EVEN = 40
_EMPTY_PROMPT_TOKENS = 2

Joined = Callable[[Tensor, Tensor], Tensor]


def condition_first(noisy: Tensor, condition: Tensor) -> Tensor:
    """[RGB latent, x_t], the order of Marigold and of Lotus G."""
    return torch.cat([condition, noisy], dim=1)


def condition_only(noisy: Tensor, condition: Tensor) -> Tensor:
    """A network that regresses: its answer does not depend on x_t."""
    del noisy
    return condition


class _Denoiser(nn.Module):
    """`prediction` (B, C, h, w) of `noisy`, `condition` (B, C, h, w) and `timestep` int64 (B,)."""

    text: Tensor
    switch: Tensor | None

    def __init__(self, unet: nn.Module, join: Joined, text: Tensor, switch: Tensor | None):
        super().__init__()
        self.unet, self.join = unet, join
        self.register_buffer("text", text)  # (1, L, D)
        self.register_buffer("switch", switch)  # (1, S), what class embedding is made of

    def forward(self, noisy: Tensor, condition: Tensor, timestep: Tensor) -> Tensor:
        """One evaluation, with a timestep of its own for each row."""
        x = self.join(noisy, condition)
        rows = x.shape[0]
        prediction: Tensor = self.unet(
            x,
            timestep,
            encoder_hidden_states=self.text.expand(rows, -1, -1),
            class_labels=None if self.switch is None else self.switch.expand(rows, -1),
            return_dict=False,
        )[0]
        return prediction


@dataclass(frozen=True)
class UNet:
    """The `unet` folder of a checkpoint. Its input has `in_channels`, its output `out_channels`."""

    checkpoint: Path
    config: Config
    in_channels: int
    out_channels: int
    files: tuple[Path, ...]

    def part(self, name: str, factor: int, join: Joined, switch: Tensor | None = None) -> Part:
        """The denoiser under the name it is to have, for latents `factor` times coarser."""

        def inputs(size: Size) -> Mapping[str, Tensor]:
            height, width = (side // factor for side in size)
            latent = torch.randn(2, self.out_channels, height, width)
            return {
                "noisy": latent,
                "condition": latent.flip(0),
                "timestep": torch.tensor([999, 400]),
            }

        def skeleton() -> nn.Module:
            width = self.config.read("cross_attention_dim", int)
            text = torch.empty(1, _EMPTY_PROMPT_TOKENS, width, device="meta")
            empty = None if switch is None else switch.to("meta")
            return _Denoiser(self._empty(), join, text, empty)

        def load() -> nn.Module:
            text = empty_prompt(self.checkpoint)  # first, so that its encoder is gone again
            gc.collect()
            return _Denoiser(fill(self._empty(), self.files[1:]), join, text, switch)

        return Part(name, "prediction", skeleton, load, inputs)

    def _empty(self) -> nn.Module:
        module = build_empty(self.config, _KIND)
        vars(module)["num_upsamplers"] = _NEVER_EVEN
        return plain_upsampling(module)


def read_unet(checkpoint: Path) -> UNet:
    """Read the description of a checkpoint's UNet and check that its text encoder fits."""
    folder = checkpoint / "unet"
    config = read_config(folder / "config.json")
    config.choose("_class_name", {_KIND: _KIND})
    width = config.read("cross_attention_dim", int)
    if (of_text := text_width(checkpoint)) != width:
        raise ConvertError(
            f"{config.path}: cross_attention_dim is {width}, and the text encoder's "
            f"hidden_size is {of_text}"
        )
    return UNet(
        checkpoint=checkpoint,
        config=config,
        in_channels=config.read("in_channels", int),
        out_channels=config.read("out_channels", int),
        files=(config.path, *weight_files(folder, _STEM)),
    )


def unet_files(unet: UNet) -> tuple[Path, ...]:
    """Every file that the denoiser is made from."""
    return (*unet.files, *text_files(unet.checkpoint))
