"""The forward process in torch: noising, and what a network is asked to predict.

The numbers of the schedule come from `service.core.schedule`, so training and serving cannot
disagree.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from service.core.artifact import ScheduleSpec

# v-prediction over a zero-terminal-SNR schedule with trailing steps: the first step of any sampler,
# also of a single one, starts at pure noise, and its prediction is the posterior mean.
SCHEDULE = ScheduleSpec(
    betas="cosine",
    num_timesteps=1000,
    beta_start=1e-4,
    beta_end=0.02,
    zero_terminal_snr=True,
    set_alpha_to_one=True,
    spacing="trailing",
    steps_offset=0,
    prediction_type="v",
    sampler="ddim",
    start="noise",
)

# The paper's: its networks go on predicting the noise, as they did before, and it found cosine
# betas the better ones. Its released sampler's leading steps never visit the last timestep, where
# an error of the predicted noise counts twenty-thousandfold in x_0. One or two such steps say
# little, as in the paper's own curves.
PAPER_SCHEDULE = replace(
    SCHEDULE,
    zero_terminal_snr=False,
    prediction_type="epsilon",
    spacing="leading",
    steps_offset=1,
)


class Diffusion:
    """Noises latents and says the regression target of `prediction_type` for them."""

    def __init__(self, spec: ScheduleSpec, device: torch.device) -> None:
        self.spec = spec
        alpha_bar = torch.from_numpy(spec.build().alpha_bar).to(device)
        self._signal = alpha_bar.sqrt().float()  # (T,)
        self._noise = (1 - alpha_bar).sqrt().float()

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, (B, C, h, w), at timesteps (B,)."""
        signal, noise = self._coefficients(t)
        return signal * x_0 + noise * eps

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should say: eps, v (Salimans and Ho, arXiv 2202.00512) or x_0."""
        signal, noise = self._coefficients(t)
        kinds = {"epsilon": eps, "v": signal * eps - noise * x_0, "sample": x_0}
        return kinds[self.spec.prediction_type]

    def sample_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform timesteps (count,), one from each of `count` equal parts: a lower variance."""
        part = torch.arange(count, device=generator.device)
        offset = torch.rand(count, generator=generator, device=generator.device)
        unit = (part + offset) / count
        return (unit * self.spec.num_timesteps).long().clamp(max=self.spec.num_timesteps - 1)

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._signal[t][:, None, None, None], self._noise[t][:, None, None, None]
