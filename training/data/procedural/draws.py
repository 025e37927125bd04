"""Random draws on a generator's device; what every procedural generator here is made of."""

import math

import torch
from torch import Tensor


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers in [low, high)."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator, device=generator.device)


def log_uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Numbers in [low, high) whose logarithm is uniform."""
    return uniform(generator, math.log(low), math.log(high), *shape).exp()


def chance(generator: torch.Generator, probability: float, *shape: int) -> Tensor:
    """Booleans, true with the given probability."""
    return torch.rand(shape, generator=generator, device=generator.device) < probability


def integers(generator: torch.Generator, low: int, high: int, *shape: int) -> Tensor:
    """Whole numbers (int64) in [low, high)."""
    return torch.randint(low, high, shape, generator=generator, device=generator.device)
