"""What a reader makes of another project's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from training.models.dit import DiT, DiTConfig
from training.models.presets import PRESETS

Kind = Literal["dit", "dit-diffusers", "dit-moe", "scaling-perception"]


@dataclass(frozen=True)
class Foreign:
    """A published denoiser in our names and layouts.

    Tensors keep the type that they were stored in, and those that are as they were published still
    lie in their file. `latent_size` is the side of the latents that it was trained on, in cells:
    its positions were checked on that grid, None where the checkpoint does not say. `preset` is the
    name among ours, for the published sizes.
    """

    kind: Kind
    config: DiTConfig
    state: dict[str, Tensor]
    latent_size: int | None
    notes: tuple[str, ...]

    @property
    def preset(self) -> str | None:
        """The name in `PRESETS` of a network of this shape, whatever its inputs and labels."""
        fitting = [name for name, shape in PRESETS.items() if _inside(shape, self.config)]
        return fitting[-1] if fitting else None  # DiT-L/2 is a4 too

    def build(self, dtype: torch.dtype = torch.float32) -> DiT:
        """The network, ready to predict. It takes the tensors over: those of `dtype` uncopied."""
        with torch.device("meta"):
            model = DiT(self.config)
        state = {name: value.to(dtype) for name, value in self.state.items()}
        model.load_state_dict(state, strict=True, assign=True)
        return model.eval()


def _inside(preset: DiTConfig, config: DiTConfig) -> bool:
    """Whether two networks are the same between their ends."""
    ends = replace(
        preset,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_labels=config.num_labels,
        num_routes=config.num_routes,
        first_task_label=config.first_task_label,
        timestep_span=config.timestep_span,
        mlp_norm_eps=config.mlp_norm_eps,
        qk_norm=config.qk_norm,
    )
    return ends == config
