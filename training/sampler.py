"""Sampling from a model in torch, with the service's own schedule and noise-free DDIM update.

`evaluate` uses it. It does not know requests or budgets: it takes whole batches through the same
number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from service.core.artifact import Component
from service.core.tasks import TaskName
from training.data.mixture import seeded
from training.ddim import denoise
from training.models.perception import PerceptionModel

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Sampler:
    """Draws predictions from a model; noise depends on `seed`, member and component alone."""

    model: PerceptionModel
    device: torch.device
    seed: int = 2024

    @torch.no_grad()
    def pictures(
        self,
        task: TaskName,
        image: Tensor,
        prompt: Tensor | None,
        steps: int,
        members: int,
        only: str | None = None,
    ) -> dict[str, Tensor]:
        """Decoded pictures per component, each (members, B, 3, P, P) in about [-1, 1].

        `only` names the one component to draw, where the others are not wanted.
        """
        condition = self.model.encode(task, image, prompt).condition
        return {
            component.name: self._component(component, condition, steps, members)
            for component in self.model.components(task)
            if only in (None, component.name)
        }

    def _component(
        self, component: Component, condition: Tensor, steps: int, members: int
    ) -> Tensor:
        batch, _, height, width = condition.shape
        shape = (batch, self.model.config.vae.latent_channels, height, width)
        x = torch.cat(
            [
                torch.randn(
                    shape,
                    generator=seeded(self.device, "member", self.seed, member, component.name),
                    device=self.device,
                )
                for member in range(members)
            ]
        )
        decoded = [
            self.model.vae.decode(self._denoise(part, where, component.label, steps))
            for part, where in zip(
                torch.split(x, _ROWS_AT_ONCE),
                torch.split(condition.repeat(members, 1, 1, 1), _ROWS_AT_ONCE),
                strict=True,
            )
        ]
        return torch.unflatten(torch.cat(decoded), 0, (members, batch))

    def _denoise(self, x: Tensor, condition: Tensor, label: int, steps: int) -> Tensor:
        spec = self.model.config.schedule
        labels = torch.full((len(x),), label, device=self.device)

        def predict(x_t: Tensor, timestep: Tensor) -> Tensor:
            return self.model.denoiser(x_t, condition, timestep, labels)[:, : x.shape[1]]

        return denoise(x, spec.build(), spec.prediction_type, spec.step_pairs(steps), predict)
