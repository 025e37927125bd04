"""The whole network of one generalist: autoencoder, an encoder per task, one shared denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

from torch import Tensor, nn

from training.models.dit import DiT, DiTConfig
from training.models.encoders import Encoded, LatentEncoder, SceneEncoder, SceneEncoderConfig
from training.models.motion import MotionEncoder, MotionEncoderConfig
from training.models.vae import FACTOR, Autoencoder, VaeConfig
from training.targets import COMPONENTS, NUM_LABELS, FlowCode

Form = Literal["concatenated", "decoupled"]


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shape of a generalist.

    `concatenated` is the paper's form: the condition is latents, and one network does everything at
    every step. `decoupled` encodes the pictures once with a network per task and keeps the denoiser
    small.
    """

    form: Form = "decoupled"
    image_size: int = 128  # px, of predictions and of single-picture inputs
    flow_size: int = 192  # px, of the two frames: small motions need the resolution
    condition_channels: int = 16
    scene_widths: tuple[int, int, int] = (48, 96, 224)
    scene_depth: int = 6
    denoiser_width: int = 192
    denoiser_depth: int = 4
    denoiser_heads: int = 4
    patch: int = 2
    vae: VaeConfig = field(default_factory=VaeConfig)

    def input_size(self, task: str) -> int:
        """Side in px of the pictures that a task's encoder takes."""
        own_sizes = {"flow": self.flow_size} if self.form == "decoupled" else {}
        return own_sizes.get(task, self.image_size)

    @property
    def latent_size(self) -> int:
        """Side of the latent grid."""
        return self.image_size // FACTOR


_TINY = ModelConfig(
    image_size=64,
    flow_size=64,
    scene_widths=(16, 32, 64),
    scene_depth=1,
    denoiser_width=64,
    denoiser_depth=1,
    vae=VaeConfig(encoder_width=32, encoder_blocks=1, decoder_widths=(32, 16, 16, 8)),
)

MODELS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "tiny": _TINY,
        "tiny-concatenated": replace(_TINY, form="concatenated", condition_channels=8),
        "decoupled": ModelConfig(),
        "concatenated": ModelConfig(
            form="concatenated",
            condition_channels=8,
            denoiser_width=256,
            denoiser_depth=8,
        ),
    }
)


class PerceptionModel(nn.Module):
    """`encode` once per request, `denoiser` per step and member, `vae.decode` once per member."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = Autoencoder(config.vae)
        self.encoders = nn.ModuleDict(
            {task: _ENCODERS[config.form][task](config, self.vae) for task in COMPONENTS}
        )
        channels = config.vae.latent_channels
        self.denoiser = DiT(
            DiTConfig(
                in_channels=channels + config.condition_channels,
                out_channels=channels,
                num_labels=NUM_LABELS,
                width=config.denoiser_width,
                depth=config.denoiser_depth,
                heads=config.denoiser_heads,
                patch=config.patch,
            )
        )
        self.vae.requires_grad_(False)

    def encode(self, task: str, image: Tensor, prompt: Tensor | None) -> Encoded:
        """Condition of pictures (B, 3, S, S) in [-1, 1] for a task."""
        return self.encoders[task](image, prompt)


def _latents(config: ModelConfig, vae: Autoencoder) -> nn.Module:
    del config  # latents are what the autoencoder makes them
    return LatentEncoder(vae)


def _scene(config: ModelConfig, vae: Autoencoder, in_channels: int) -> nn.Module:
    del vae  # this encoder learns features of its own
    channels, widths, depth = config.condition_channels, config.scene_widths, config.scene_depth
    return SceneEncoder(SceneEncoderConfig(in_channels, channels, widths, depth))


def _motion(config: ModelConfig, vae: Autoencoder) -> nn.Module:
    motion = MotionEncoderConfig(
        config.condition_channels, config.vae.latent_channels, config.latent_size
    )
    return MotionEncoder(motion, vae, FlowCode())


_ENCODERS: Mapping[Form, Mapping[str, Callable[[ModelConfig, Autoencoder], nn.Module]]] = (
    MappingProxyType(
        {
            "concatenated": dict.fromkeys(COMPONENTS, _latents),
            "decoupled": {
                "depth": partial(_scene, in_channels=3),
                "flow": _motion,
                "amodal": partial(_scene, in_channels=4),  # a picture and a mask
            },
        }
    )
)
