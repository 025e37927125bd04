"""What families of scenes share: camera, lights, air, styles of paint, things on things."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.compounds import Objects
from training.data.procedural.draws import log_uniform, normal, uniform
from training.data.procedural.scene import (
    NUM_LIGHTS,
    Camera,
    Paint,
    Solids,
    colours,
    degrees,
    look,
    paint,
    rotation_x,
    rotation_z,
    singles,
    sometimes,
)

NUM_FURNITURE = 5
NUM_THINGS = 8
NUM_PANELS = 6
NUM_ROUND = 6

FLOOR = Paint(0.15, 0.8, 0.04, 0.2, (0.25, 2.5), 0.35, 0.6)
WALL = Paint(0.5, 0.98, 0.04, 0.6, (0.2, 2.0), 0.1, 0.4)
FURNITURE = Paint(0.05, 0.9, 0.1, 0.45, (0.4, 4.0), 0.35, 0.6)
SMALL = Paint(0.04, 0.98, 0.35, 0.35, (2.0, 16.0), 0.4)
PICTURE = Paint(0.1, 0.98, 0.2, 0.3, (0.4, 3.0), 0.2)
GROUND = Paint(0.2, 0.6, 0.01, 0.1, (0.15, 1.2), 0.1, 0.3)
FACADE = Paint(0.3, 0.9, 0.08, 0.25, (0.08, 0.5), 0.15, 0.5)
OUTSIDE = Paint(0.04, 0.95, 0.2, 0.5, (0.15, 1.5), 0.4, 0.4)


@dataclass(frozen=True)
class Lens:
    """Ranges of the camera: horizontal field of view, pitch down and roll in degrees."""

    view: tuple[float, float] = (38.0, 82.0)
    roll: float = 4.0


def draw_camera(
    generator: torch.Generator, position: Tensor, yaw: Tensor, pitch: Tensor, lens: Lens
) -> Camera:
    n = len(position)
    roll = normal(generator, n) * math.radians(lens.roll)
    angle = degrees(generator, *lens.view, n)
    return Camera(
        position,
        look(yaw, pitch, roll),
        0.5 / (0.5 * angle).tan(),
        normal(generator, n, 2) * 0.02,
    )


def aim(position: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Yaw and pitch that look from position (n, 3) at target (n, 3)."""
    d = target - position
    return torch.atan2(d[:, 0], d[:, 1]), torch.atan2(-d[:, 2], d[:, :2].norm(dim=1))


def draw_ambient(generator: torch.Generator, n: int, level: tuple[float, float]) -> Tensor:
    above = 0.6 + 0.4 * colours(generator, 0.7, 1.0, 0.05, n)
    below = above * (0.5 + 0.5 * colours(generator, 0.5, 1.0, 0.1, n))
    return torch.cat((above, below * 0.6), 1) * uniform(generator, *level, n, 1)


def draw_lamps(generator: torch.Generator, low: Tensor, high: Tensor) -> Tensor:
    """Lights (n, NUM_LIGHTS, 7) somewhere in the box low..high (n, 3)."""
    n = len(low)
    draw = torch.rand((n, NUM_LIGHTS, 3), generator=generator, device=generator.device)
    position = low[:, None] + (high - low)[:, None] * draw
    tint = 0.55 + 0.45 * colours(generator, 0.8, 1.0, 0.1, n, NUM_LIGHTS)
    power = log_uniform(generator, 0.3, 3.0, n, NUM_LIGHTS, 1)
    reach = (high - low).norm(dim=1)[:, None, None] * uniform(
        generator, 0.15, 0.7, n, NUM_LIGHTS, 1
    )
    return torch.cat((position, tint * power, reach), 2)


def draw_air(
    generator: torch.Generator,
    n: int,
    hardness: tuple[float, float],
    radius: float,
    corners: float,
    fog: float = 0.0,
    far: tuple[float, float] = (60.0, 60.0),
) -> Tensor:
    shadowless = sometimes(generator, 0.2, n)
    hard = torch.where(shadowless, 0.0, log_uniform(generator, *hardness, n))
    thick = sometimes(generator, 0.3, n) * uniform(generator, 0.0, fog, n)
    return torch.stack(
        (
            hard,
            radius * uniform(generator, 0.7, 1.5, n),
            uniform(generator, 0.2, 0.7, n),
            thick,
            uniform(generator, *far, n),
            corners * uniform(generator, 0.4, 1.2, n),
        ),
        1,
    )


def draw_yaws(generator: torch.Generator, aligned: float, *shape: int) -> Tensor:
    """Headings, a share of them close to the axes of the room."""
    quarter = torch.randint(0, 4, shape, generator=generator, device=generator.device) * (
        math.pi / 2
    )
    straight = quarter + normal(generator, *shape) * 0.06
    return torch.where(
        sometimes(generator, aligned, *shape), straight, degrees(generator, 0, 360, *shape)
    )


def on_top(
    generator: torch.Generator, parents: Objects, foot: Tensor, yaw: Tensor, count: int
) -> Tensor:
    """Places (n, count, 3) on the tops of objects (n, I) that stand at foot with the given yaw."""
    n, num_parents = yaw.shape
    which = torch.randint(0, num_parents, (n, count), generator=generator, device=generator.device)
    rows = torch.arange(n, device=generator.device)[:, None]
    spread = uniform(generator, -0.8, 0.8, n, count, 2) * parents.size[rows, which, :2]
    local = torch.cat((spread, torch.zeros_like(spread[..., :1])), -1)[..., None]
    where = foot[rows, which] + (rotation_z(yaw[rows, which]) @ local)[..., 0]
    return where + F.pad(parents.top[rows, which, None], (2, 0))


def draw_things(
    generator: torch.Generator,
    foot: Tensor,
    low: float,
    high: float,
    style: Paint,
    lying: float = 0.5,
) -> Solids:
    """Single boxes that stand at foot (n, P, 3): packets, books, boxes; half sizes low..high."""
    shape = foot.shape[:2]
    half = log_uniform(generator, low, high, *shape, 1) * log_uniform(
        generator, 0.4, 1.6, *shape, 3
    )
    flat = sometimes(generator, lying, *shape)[..., None]
    flat = flat & (torch.arange(3, device=foot.device) == 2)
    half = torch.where(flat, half * uniform(generator, 0.05, 0.3, *shape, 1), half)
    centre = foot + F.pad(half[..., 2:], (2, 0))
    tilt = sometimes(generator, 0.12, *shape) * degrees(generator, -60, 60, *shape)
    axes = rotation_z(draw_yaws(generator, 0.3, *shape)) @ rotation_x(tilt)
    return singles(centre, half, axes, paint(generator, style, *shape))
