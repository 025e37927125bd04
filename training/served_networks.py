"""The networks that are served of a model: one encoder per task, the denoiser and the decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from service.core.tasks import TASKS, TaskName
from training.models.perception import PerceptionModel
from training.onnx_network import Network


class _Encoder(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor, prompt: Tensor | None = None) -> Tensor:
        return self.encoder(image, prompt).condition


class _Decoder(nn.Module):
    def __init__(self, model: PerceptionModel) -> None:
        super().__init__()
        self.vae = model.vae

    def forward(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent)


def networks(model: PerceptionModel, name: str) -> list[Network]:
    """Everything that is served of a model, with inputs as in the contract of a served model."""
    config = model.config
    size, channels = config.latent_size, config.vae.latent_channels
    latent = torch.randn(2, channels, size, size)
    labels = [component.label for task in config.tasks for component in config.components(task)]
    found = [
        Network(
            f"{name}_denoiser",
            model.denoiser,
            {
                "noisy": latent,
                "condition": torch.randn(2, config.condition_channels, size, size),
                "timestep": torch.tensor([999, 400]),
                "task": torch.tensor([labels[0], labels[-1]]),
            },
            "prediction",
        ),
        Network(f"{name}_decoder", _Decoder(model), {"latent": latent}, "image"),
    ]
    for task in config.tasks:
        side = config.input_size(task)
        # Smooth pictures, as encoders expect: white noise would exercise matching on nothing.
        coarse = torch.rand(2, 3, 8, 8) * 2 - 1
        picture = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(-1, 1)
        inputs = {"image": picture}
        if has_prompt(task):
            inputs["prompt"] = picture.roll(2, dims=3)
        encoder = _Encoder(model.encoders[task])
        found.append(Network(encoder_name(name, task), encoder, inputs, "condition"))
    return found


def has_prompt(task: TaskName) -> bool:
    """Whether a task's encoder is shown a second picture."""
    return len(TASKS[task].images) > 1


def encoder_name(name: str, task: TaskName) -> str:
    """The Triton model that encodes a task's pictures for the served model `name`."""
    return f"{name}_encoder_{task}"
