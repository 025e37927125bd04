"""Primitives: signed distance pictures of simple star-shaped figures.

A primitive is drawn from its radius as a function of the angle: discs, boxes, polygons, blobs with
low-frequency radii, superformulas (Gielis 2003). Coordinates are x right, y down, about [-1, 1].
"""

import math
from typing import Final

import torch
from torch import Tensor

from training.data.procedural.draws import chance, integers, log_uniform, normal, uniform

RES: Final = 64  # side of a distance picture
REACH: Final = 1.25  # a distance picture covers [-REACH, REACH] in both axes
ANGLES: Final = 256


def _polygons(generator: torch.Generator, count: int, theta: Tensor) -> Tensor:
    """Radius of random star-shaped polygons with 3 to 9 corners, (count, ANGLES)."""
    corners = integers(generator, 3, 10, count, 1)
    k = torch.arange(10, device=theta.device)[None]
    jitter = uniform(generator, -0.3, 0.3, count, 10) * chance(generator, 0.7, count, 1)
    angle = (k + jitter) * (2 * math.pi / corners)
    spread = uniform(generator, 0.0, 0.65, count, 1)
    radius = 1 - spread * torch.rand((count, 10), generator=generator, device=theta.device)
    angle = torch.where(k < corners, angle, angle[:, :1] + 2 * math.pi)
    radius = torch.where(k < corners, radius, radius[:, :1])
    x, y = radius * angle.cos(), radius * angle.sin()
    x0, y0, x1, y1 = (v[:, :, None] for v in (x[:, :-1], y[:, :-1], x[:, 1:], y[:, 1:]))
    c, s = theta.cos(), theta.sin()
    # The ray at theta meets the line through two neighbouring corners at this distance.
    hit = (x0 * y1 - x1 * y0) / (c * (y1 - y0) - s * (x1 - x0) + 1e-9)
    turned = (theta - angle[:, :1]).remainder(2 * math.pi)
    start = (angle - angle[:, :1])[:, :, None]
    inside = (turned[:, None] >= start[:, :-1]) & (turned[:, None] < start[:, 1:])
    return (hit * inside).sum(1).clamp(0.1, 1.2)


def _blobs(generator: torch.Generator, count: int, theta: Tensor) -> Tensor:
    """Radius of smooth blobs: six harmonics with falling amplitude, (count, ANGLES)."""
    k = torch.arange(1, 7, device=theta.device)[None, :, None]
    amplitude = log_uniform(generator, 0.1, 0.9, count, 1, 1) * normal(generator, count, 6, 1)
    phase = uniform(generator, 0, 2 * math.pi, count, 6, 1)
    wave = (amplitude / k**1.3 * torch.cos(k * theta + phase)).sum(1)
    radius = wave.clamp(-1.6, 1.2).exp()
    return radius / radius.amax(1, keepdim=True)


def _superformulas(generator: torch.Generator, count: int, theta: Tensor) -> Tensor:
    """Radius of Gielis' superformula with 2 to 7 symmetries, (count, ANGLES)."""
    m = integers(generator, 2, 8, count, 1)
    n1, n2, n3 = (log_uniform(generator, 0.5, 8.0, count, 1) for _ in range(3))
    c = (m * theta / 4).cos().abs() + 1e-6
    s = (m * theta / 4).sin().abs() + 1e-6
    radius = (c**n2 + s**n3).pow(-1 / n1)
    return (radius / radius.amax(1, keepdim=True)).clamp_min(0.12)


def make_primitives(generator: torch.Generator, count: int) -> Tensor:
    """Signed distance pictures, positive inside: the four fixed kinds, then `count` random ones.

    Returns:
        float32 (4 + count, 1, RES, RES) over [-REACH, REACH], in the same unit.
    """
    theta = torch.arange(ANGLES, device=generator.device) * (2 * math.pi / ANGLES)
    c, s = theta.cos().abs(), theta.sin().abs()
    box = 1 / torch.maximum(c, s)
    rounded = (c**5 + s**5) ** (-1 / 5)
    # Corners up, right below, left below; the same rule as for polygons.
    turn = (theta + math.pi / 2).remainder(2 * math.pi / 3) - math.pi / 3
    triangle = 0.5 / turn.cos()
    n = [count - 2 * (count // 3), count // 3, count // 3]
    makers = (_blobs, _polygons, _superformulas)
    drawn = [make(generator, k, theta) for make, k in zip(makers, n, strict=True) if k]
    radius = torch.cat([torch.stack([torch.ones_like(c), box, rounded, triangle]), *drawn])
    line = (torch.arange(RES, device=theta.device) + 0.5) * (2 * REACH / RES) - REACH
    rho = (line[None, :].square() + line[:, None].square()).sqrt()
    place = torch.atan2(line[:, None], line[None, :]).remainder(2 * math.pi) / (2 * math.pi)
    place = place.flatten() * ANGLES
    low = place.long().clamp_max(ANGLES - 1)
    radius = torch.cat([radius, radius[:, :1]], dim=1)  # periodic
    near = radius[:, low] + (place - low) * (radius[:, low + 1] - radius[:, low])
    slope = (radius[:, low + 1] - radius[:, low]) * (ANGLES / (2 * math.pi))
    steep = (1 + (slope / rho.flatten().clamp_min(0.1)).square()).sqrt()
    distance = (near - rho.flatten()) / steep.clamp_max(6.0)
    return distance.view(-1, 1, RES, RES)
