"""The DDIM update (arXiv 2010.02502, equation 12) with eta 0, one timestep per row.

Without noise or clipping the update is linear in x_t and in the model's prediction, so a step is
two numbers per row: rows of different tasks, budgets and timesteps move together in one batch.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

from service.core.schedule import NoiseSchedule

PredictionType = Literal["epsilon", "v", "sample"]


def ddim_coefficients(
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    t: Int64[np.ndarray, " B"],
    t_prev: Int64[np.ndarray, " B"],
) -> tuple[Float32[np.ndarray, " B"], Float32[np.ndarray, " B"]]:
    """Return (a, b) of x_prev = a x_t + b prediction; `t_prev` < 0 lands on `final_alpha_bar`.

    Raises ValueError for a timestep outside the schedule, and for epsilon at zero SNR, where the
    noise says nothing about x_0.
    """
    num_timesteps = len(schedule.alpha_bar)
    if np.any(t < 0) or np.any(t >= num_timesteps) or np.any(t_prev >= num_timesteps):
        raise ValueError(f"timesteps must be below {num_timesteps} and t must not be negative")
    signal, noise = _levels(schedule.alpha_bar[t])
    signal_prev, noise_prev = _levels(
        np.where(t_prev < 0, schedule.final_alpha_bar, schedule.alpha_bar[np.maximum(t_prev, 0)])
    )
    # Each line is signal_prev x_0 + noise_prev eps, with x_0 and eps written in x_t and prediction.
    if prediction_type == "v":
        a = signal_prev * signal + noise_prev * noise
        b = noise_prev * signal - signal_prev * noise
    elif prediction_type == "sample":
        a = noise_prev / noise
        b = signal_prev - signal * a
    else:
        if not signal.all():
            raise ValueError("epsilon prediction cannot be sampled from zero terminal SNR")
        a = signal_prev / signal
        b = noise_prev - noise * a
    return a.astype(np.float32), b.astype(np.float32)


def _levels(
    alpha_bar: Float64[np.ndarray, " B"],
) -> tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, " B"]]:
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def ddim_step(
    x_t: Float32[np.ndarray, "B C h w"],
    prediction: Float32[np.ndarray, "B C h w"],
    a: Float32[np.ndarray, " B"],
    b: Float32[np.ndarray, " B"],
) -> Float32[np.ndarray, "B C h w"]:
    """Move every row to its own t_prev with its own coefficients from `ddim_coefficients`."""
    return a[:, None, None, None] * x_t + b[:, None, None, None] * prediction
