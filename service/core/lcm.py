"""The sampler of latent consistency models (arXiv 2310.04378, algorithm 3), as diffusers states it.

Every step jumps to an estimate of x_0 and is noised again to the next timestep, so a step is linear
in x_t, in the prediction, and in fresh noise.
"""

import numpy as np
from jaxtyping import Float32, Float64

from service.core.ddim import PredictionType
from service.core.schedule import NoiseSchedule

ORIGINAL_STEPS = 50  # of the teacher's sampler: the timesteps that such a model was distilled on
SIGMA_DATA = 0.5  # of the boundary condition that makes the model the identity at t = 0
TIMESTEP_SCALING = 10.0

Coefficients = Float32[np.ndarray, " steps"]


def lcm_timesteps(num_timesteps: int, steps: int) -> tuple[int, ...]:
    """The timesteps of 1..50 steps, falling, evenly out of the teacher's.

    Raises ValueError for more steps than the teacher had.
    """
    if not 1 <= steps <= ORIGINAL_STEPS:
        raise ValueError(f"steps must be in 1..{ORIGINAL_STEPS}, got {steps}")
    stride = num_timesteps // ORIGINAL_STEPS
    teacher = np.arange(1, ORIGINAL_STEPS + 1)[::-1] * stride - 1
    chosen = np.floor(np.linspace(0, ORIGINAL_STEPS, steps, endpoint=False)).astype(int)
    return tuple(teacher[chosen].tolist())


def lcm_coefficients(
    schedule: NoiseSchedule, prediction_type: PredictionType, timesteps: tuple[int, ...]
) -> tuple[Coefficients, Coefficients, Coefficients]:
    """(a, b, c) of x_next = a x_t + b prediction + c noise for every step; the last c is 0."""
    t = np.array(timesteps)
    signal, noise = np.sqrt(schedule.alpha_bar[t]), np.sqrt(1 - schedule.alpha_bar[t])
    of_x_t, of_prediction = _estimate(prediction_type, signal, noise)
    scaled = t * TIMESTEP_SCALING
    skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    out = scaled / np.sqrt(scaled**2 + SIGMA_DATA**2)
    landing = np.append(schedule.alpha_bar[t[1:]], 1.0)  # the last step gives the estimate itself
    a = np.sqrt(landing) * (out * of_x_t + skip)
    b = np.sqrt(landing) * out * of_prediction
    return (
        a.astype(np.float32),
        b.astype(np.float32),
        np.sqrt(1 - landing).astype(np.float32),
    )


def _estimate(
    prediction_type: PredictionType,
    signal: Float64[np.ndarray, " steps"],
    noise: Float64[np.ndarray, " steps"],
) -> tuple[Float64[np.ndarray, " steps"], Float64[np.ndarray, " steps"]]:
    """x_0 as factors of x_t and of the prediction."""
    if prediction_type == "v":
        return signal, -noise
    if prediction_type == "epsilon":
        return 1 / signal, -noise / signal
    return np.zeros_like(signal), np.ones_like(signal)
