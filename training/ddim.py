"""The service's own sampler over torch tensors, for every network that is measured or looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from service.core.ddim import PredictionType, ddim_coefficients
from service.core.schedule import NoiseSchedule


def denoise(
    x: Tensor,
    schedule: NoiseSchedule,
    kind: PredictionType,
    visited: Iterable[tuple[int, int]],
    predict: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Takes `x` (B, C, h, w) through the (t, t_prev) of `visited`, all rows together.

    `predict(x, timestep)`, with timesteps (B,), gives what a network of that `kind` says.
    """
    for t, t_prev in visited:
        a, b = ddim_coefficients(schedule, kind, np.array([t]), np.array([t_prev]))
        timestep = torch.full((len(x),), t, device=x.device)
        x = float(a[0]) * x + float(b[0]) * predict(x, timestep)
    return x
