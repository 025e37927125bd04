"""Where a trajectory starts and which steps it takes: noise, and the numbers of a schedule."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32

from service.core.artifact import ScheduleSpec
from service.core.ddim import ddim_coefficients


@dataclass(frozen=True)
class Sampling:
    """One DDIM run: at step i of `steps`, evaluate at `timesteps[i]`, x_t <- a[i] x_t + b[i] out.

    Python scalars, because batches gather them one row at a time; a and b are exact float32.
    """

    timesteps: tuple[int, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]


@lru_cache(maxsize=512)
def make_sampling(spec: ScheduleSpec, steps: int) -> Sampling:
    """The `steps` timesteps of a checkpoint's schedule with their DDIM coefficients."""
    t, t_prev = np.array(spec.step_pairs(steps), dtype=np.int64).T
    a, b = ddim_coefficients(spec.build(), spec.prediction_type, t, t_prev)
    return Sampling(tuple(t.tolist()), tuple(a.tolist()), tuple(b.tolist()))


def draw_noise(
    seed: int, member: int, component: int, shape: tuple[int, int, int]
) -> Float32[np.ndarray, "c h w"]:
    """Standard normal x_T of one trajectory.

    Philox is counter-based, so every (seed, member, component) key has its own stream: the first
    members of a larger ensemble are those of a smaller one, and a component asked for alone is the
    one asked for with others.
    """
    key = np.array([seed, member << 32 | component], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    return generator.standard_normal(shape, dtype=np.float32)
