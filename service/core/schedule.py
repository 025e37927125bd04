"""Noise schedules and the timesteps a sampler visits.

Knows nothing about requests: `StepScheduler` in the engine decides which rows move, this decides
how noisy they are. Numbers equal diffusers' `DDIMScheduler`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

Betas = Literal["linear", "scaled_linear", "cosine"]
Spacing = Literal["leading", "trailing", "linspace"]

COSINE_OFFSET = 0.008  # s of Nichol & Dhariwal, "Improved DDPM" (arXiv 2102.09672), equation 17
COSINE_MAX_BETA = 0.999  # their cap, which keeps the last step's alpha_bar above 0


@dataclass(frozen=True)
class NoiseSchedule:
    """How noisy each timestep is: x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.

    `alpha_bar` falls within [0, 1). `final_alpha_bar` is where the last step lands (t_prev < 0).
    """

    alpha_bar: Float64[np.ndarray, " T"]
    final_alpha_bar: float


def make_schedule(
    betas: Betas,
    num_timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    zero_terminal_snr: bool = False,
    set_alpha_to_one: bool = True,
) -> NoiseSchedule:
    """Build the schedule a model was trained with; `cosine` ignores `beta_start` and `beta_end`.

    `set_alpha_to_one` ends sampling at x_0 itself; without it, at the noise level of t = 0.
    """
    # Rounded where diffusers rounds: near t = 0 a float32 keeps few digits of 1 - alpha_bar, and
    # those are the ones that public checkpoints were trained with.
    alphas = 1 - _betas(betas, num_timesteps, beta_start, beta_end).astype(np.float32)
    alpha_bar = np.cumprod(alphas, dtype=np.float64).astype(np.float32).astype(np.float64)
    if zero_terminal_snr:
        alpha_bar = _rescale_to_zero_terminal_snr(alpha_bar)
    return NoiseSchedule(alpha_bar, 1.0 if set_alpha_to_one else float(alpha_bar[0]))


def _betas(betas: Betas, num_timesteps: int, start: float, end: float) -> Float64[np.ndarray, " T"]:
    if betas == "linear":
        return np.linspace(start, end, num_timesteps)
    if betas == "scaled_linear":  # linear in sqrt(beta): the latent diffusion models' choice
        return np.linspace(start**0.5, end**0.5, num_timesteps) ** 2
    time = np.arange(num_timesteps + 1) / num_timesteps
    alpha_bar = np.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], COSINE_MAX_BETA)


def _rescale_to_zero_terminal_snr(
    alpha_bar: Float64[np.ndarray, " T"],
) -> Float64[np.ndarray, " T"]:
    """Make sqrt(alpha_bar) end at 0 and start where it did (arXiv 2305.08891, algorithm 1)."""
    root = np.sqrt(alpha_bar)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def sampling_timesteps(
    num_timesteps: int, steps: int, spacing: Spacing, steps_offset: int = 0
) -> Int64[np.ndarray, " steps"]:
    """Timesteps to visit, falling, each in 0..num_timesteps - 1 (arXiv 2305.08891, table 2).

    `steps_offset` moves `leading` only, as in diffusers. Raises ValueError when they do not fit.
    """
    if not 1 <= steps <= num_timesteps:
        raise ValueError(f"steps must be in 1..{num_timesteps}, got {steps}")
    if spacing == "leading":
        t = np.arange(steps)[::-1] * (num_timesteps // steps) + steps_offset
    elif spacing == "trailing":
        # Diffusers' own float range, whose rounding decides ties; now and then it is one too long.
        t = np.rint(np.arange(num_timesteps, 0, -num_timesteps / steps)[:steps]).astype(int) - 1
    else:
        t = np.rint(np.linspace(0, num_timesteps - 1, steps)).astype(int)[::-1]
    if not 0 <= t[0] < num_timesteps:
        raise ValueError(f"steps_offset {steps_offset} pushes {steps} steps past {num_timesteps}")
    return t.astype(np.int64)


def step_pairs(
    num_timesteps: int, steps: int, spacing: Spacing, steps_offset: int = 0
) -> tuple[tuple[int, int], ...]:
    """Every step's (t, t_prev), in sampling order; a negative t_prev means `final_alpha_bar`.

    t_prev = t - num_timesteps // steps whatever the spacing, so it may differ from the next t: the
    rule that public checkpoints are sampled with.
    """
    stride = num_timesteps // steps
    timesteps = sampling_timesteps(num_timesteps, steps, spacing, steps_offset)
    return tuple((t, t - stride) for t in timesteps.tolist())
