"""Where a trajectory starts and which steps it takes: noise, and the numbers of a schedule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32

from service.core.artifact import ScheduleSpec
from service.core.ddim import ddim_coefficients
from service.core.lcm import lcm_coefficients, lcm_timesteps


@dataclass(frozen=True)
class Sampling:
    """One run: at step i evaluate at `timesteps[i]`, then x_t <- a[i] x_t + b[i] out + c[i] noise.

    Python scalars, because batches gather them one row at a time; a, b, c are exact float32.
    """

    timesteps: tuple[int, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]
    c: tuple[float, ...]  # all 0 but for a sampler that draws noise on its way


@lru_cache(maxsize=512)
def make_sampling(spec: ScheduleSpec, steps: int) -> Sampling:
    """The `steps` timesteps of a checkpoint's schedule with their coefficients."""
    return _SAMPLERS[spec.sampler](spec, steps)


def _ddim(spec: ScheduleSpec, steps: int) -> Sampling:
    t, t_prev = np.array(spec.step_pairs(steps), dtype=np.int64).T
    a, b = ddim_coefficients(spec.build(), spec.prediction_type, t, t_prev)
    return Sampling(tuple(t.tolist()), tuple(a.tolist()), tuple(b.tolist()), (0.0,) * steps)


def _lcm(spec: ScheduleSpec, steps: int) -> Sampling:
    timesteps = lcm_timesteps(spec.num_timesteps, steps)
    a, b, c = lcm_coefficients(spec.build(), spec.prediction_type, timesteps)
    return Sampling(timesteps, tuple(a.tolist()), tuple(b.tolist()), tuple(c.tolist()))


_SAMPLERS: Mapping[str, Callable[[ScheduleSpec, int], Sampling]] = MappingProxyType(
    {"ddim": _ddim, "lcm": _lcm}
)


def draw_noise(
    seed: int, member: int, component: int, shape: tuple[int, int, int], step: int = 0
) -> Float32[np.ndarray, "c h w"]:
    """Standard normal noise of one trajectory: x_T, or what its later steps add.

    Philox is counter-based, so every (seed, member, component, step) key has its own stream: the
    first members of a larger ensemble are those of a smaller one, and a component asked for alone
    is the one asked for with others.
    """
    key = np.array([seed, member << 32 | step << 16 | component], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    return generator.standard_normal(shape, dtype=np.float32)


def no_noise(
    seed: int, member: int, component: int, shape: tuple[int, int, int]
) -> Float32[np.ndarray, "c h w"]:
    """x_T of a model that was made deterministic: every member gives the same answer."""
    del seed, member, component
    return np.zeros(shape, dtype=np.float32)


Start = Callable[[int, int, int, tuple[int, int, int]], np.ndarray]
STARTS: Mapping[str, Start] = MappingProxyType({"noise": draw_noise, "zeros": no_noise})
"""How x_T comes from (seed, member, component, shape), by `ScheduleSpec.start`."""
