"""Measures a trained network on the held-out scenes: its loss, and its depth under a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from service.core.artifact import ScheduleSpec
from service.core.encodings import DepthEncoding
from service.core.ensemble import reduce_members
from service.core.schedule import NoiseSchedule
from training.answers import resize
from training.data.mixture import seeded
from training.data.sample import Array
from training.ddim import denoise
from training.diffusion import Diffusion
from training.loop import reduced_precision
from training.metrics import score_depth
from training.models.autoencoders import PictureCoder
from training.models.dit import DiT
from training.scaling.latents import HeldOut
from training.scaling.lineage import depth_label
from training.scaling.networks import SCHEDULES, Network
from training.scaling.records import Budget, Score
from training.targets import DEPTH

_ROWS = 128  # pictures denoised at a time
_DRAWS = 8  # of noise per scene, for the loss
_LEADING_OFFSET = 1  # Stable Diffusion's, with which the paper's release samples
_SEED = 2024


@dataclass(frozen=True)
class Bench:
    """The held-out scenes, and what turns latents into pictures of depth."""

    scenes: HeldOut
    coder: PictureCoder
    device: torch.device
    encoding: DepthEncoding = DEPTH
    _last: dict[str, Array] = field(default_factory=dict)

    @torch.no_grad()
    def scores(self, network: Network, model: DiT, budget: Budget) -> tuple[Score, ...]:
        """Error of every ensemble size; noise depends on the member alone."""
        pictures = self._members(network, model, budget)
        return tuple(self._score(pictures[:count], budget) for count in budget.members)

    def _members(self, network: Network, model: DiT, budget: Budget) -> Array:
        """Decoded pictures (N, n, 1, P, P); the last ones are kept for another reduction."""
        key = f"{network.key} {replace(budget, reduction='median')}"
        if key not in self._last:
            members = range(max(budget.members))
            drawn = [self._decoded(network, model, budget, member).numpy() for member in members]
            self._last.clear()
            self._last[key] = np.stack(drawn)
        return self._last[key]

    @torch.no_grad()
    def loss(self, network: Network, model: DiT) -> float:
        """Mean squared error of the prediction, at timesteps and noise that all networks share."""
        latents, spec = self.scenes.latents[network.size], SCHEDULES[network.schedule]
        diffusion = Diffusion(spec, self.device)
        image, target = (part.to(self.device) for part in latents.rows(np.arange(len(latents))))
        label = torch.full((len(image),), depth_label(network.model), device=self.device)
        total = 0.0
        for draw in range(_DRAWS):
            generator = seeded(self.device, "held-out loss", draw)
            t = diffusion.sample_timesteps(len(image), generator)
            eps = torch.randn(target.shape, generator=generator, device=self.device)
            noisy, aim = diffusion.add_noise(target, eps, t), diffusion.target(target, eps, t)
            predicted = self._evaluate(network, model, (noisy, image, t, label))
            total += float(functional.mse_loss(predicted, aim))
        return total / _DRAWS

    def _evaluate(
        self, network: Network, model: DiT, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> Tensor:
        """The prediction (B, C, h, w), in the precision of training."""
        parts = []
        for part in zip(*(torch.split(tensor, _ROWS) for tensor in inputs), strict=True):
            with reduced_precision(network.loop, self.device):
                parts.append(model(*part).float())
        return torch.cat(parts)[:, : inputs[0].shape[1]]

    def _decoded(self, network: Network, model: DiT, budget: Budget, member: int) -> Tensor:
        latents = self.scenes.latents[network.size]
        image, target = (part.to(self.device) for part in latents.rows(np.arange(len(latents))))
        generator = seeded(self.device, "member", _SEED, member)
        x = torch.randn(target.shape, generator=generator, device=self.device)
        label = torch.full((len(image),), depth_label(network.model), device=self.device)
        schedule, steps = visited(SCHEDULES[network.schedule], budget)
        kind = SCHEDULES[network.schedule].prediction_type

        def predict(x_t: Tensor, timestep: Tensor) -> Tensor:
            return self._evaluate(network, model, (x_t, image, timestep, label))

        x = denoise(x, schedule, kind, steps, predict)
        pictures = torch.cat([self.coder.decode(part) for part in torch.split(x, _ROWS)])
        return pictures.float().mean(dim=1, keepdim=True).cpu()

    def _score(self, members: Array, budget: Budget) -> Score:
        side = self.scenes.depth.shape[-1]
        scores = []
        for row in range(members.shape[1]):
            decoded = self.encoding.decode(members[:, row])
            answer = resize(reduce_members(decoded, budget.reduction).prediction, side, side)
            truth, valid = self.scenes.depth[row, 0].numpy(), self.scenes.valid[row, 0].numpy()
            scores.append(score_depth(answer[0], truth, valid))
        return Score(
            members=len(members),
            abs_rel=float(np.mean([score.abs_rel for score in scores])),
            delta1_error=1 - float(np.mean([score.delta1 for score in scores])),
        )


def visited(spec: ScheduleSpec, budget: Budget) -> tuple[NoiseSchedule, Sequence[tuple[int, int]]]:
    """The network's schedule and the (t, t_prev) that a budget visits on it.

    Where the budget takes its noise levels from other `betas`, each becomes the network's timestep
    of the nearest signal-to-noise ratio: the network is never told a noise level that is not there.
    """
    offset = _LEADING_OFFSET if budget.spacing == "leading" else spec.steps_offset
    own = replace(spec, spacing=budget.spacing, steps_offset=offset)
    schedule = own.build()
    if budget.betas is None:
        return schedule, own.step_pairs(budget.steps)
    name = f"{spec.prediction_type} {budget.betas}"
    other = replace(SCHEDULES[name], spacing=budget.spacing, steps_offset=offset)
    levels = other.build().alpha_bar
    asked = _log_snr(levels[[t for t, _ in other.step_pairs(budget.steps)]])
    own_snr = _log_snr(schedule.alpha_bar)
    times = [int(np.abs(own_snr - level).argmin()) for level in asked]
    return schedule, tuple(zip(times, [*times[1:], -1], strict=True))


def _log_snr(alpha_bar: NDArray[np.float64]) -> NDArray[np.float64]:
    kept = np.clip(alpha_bar, 1e-8, 1 - 1e-8)
    return np.log(kept) - np.log1p(-kept)
