"""A batch of procedural scenes: primitives, materials, lights and camera in world coordinates.

World coordinates are metres: x right, y ahead, z up. n is the number of scenes, P of primitives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.data.procedural.draws import log_uniform, uniform
from training.data.procedural.shading import MATERIAL_CHANNELS

NUM_TEXTURES = 192
TEXTURE_SIDE = 128
NUM_LIGHTS = 3


@dataclass(frozen=True)
class Solids:
    """Primitives: unit shapes scaled by `half` along the columns of `axes`, moved to `centre`."""

    centre: Tensor  # (n, P, 3)
    axes: Tensor  # (n, P, 3, 3)
    half: Tensor  # (n, P, 3)
    profile: Tensor  # (n, P, 2), see geometry.quadric_span; unused by boxes
    material: Tensor  # (n, P, MATERIAL_CHANNELS)
    group: Tensor  # (n, P), int64: primitives of one group move together


@dataclass(frozen=True)
class Camera:
    """Pinhole camera; lengths on the picture are in widths of it."""

    position: Tensor  # (n, 3)
    rotation: Tensor  # (n, 3, 3), rows: right, down, forward
    focal: Tensor  # (n,)
    centre: Tensor  # (n, 2), principal point from the middle of the picture


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn."""

    boxes: Solids
    quadrics: Solids
    room_centre: Tensor  # (n, 3)
    room_half: Tensor  # (n, 3)
    room_material: Tensor  # (n, 6, MATERIAL_CHANNELS): faces -x, +x, -y, +y, -z, +z
    lights: Tensor  # (n, NUM_LIGHTS, 7), see shading.View, in world coordinates
    ambient: Tensor  # (n, 6): colour from above, colour from below
    air: Tensor  # (n, 6), see shading.View
    camera: Camera


def rotation_z(angle: Tensor) -> Tensor:
    """(...,) radians to (..., 3, 3)."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack((c, -s, zero, s, c, zero, zero, zero, one), -1).reshape(*angle.shape, 3, 3)


def rotation_x(angle: Tensor) -> Tensor:
    """(...,) radians to (..., 3, 3)."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack((one, zero, zero, zero, c, -s, zero, s, c), -1).reshape(*angle.shape, 3, 3)


def look(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Camera rotation (..., 3, 3): yaw 0 looks along +y, growing to the right; pitch looks down."""
    zero = torch.zeros_like(yaw)
    forward = torch.stack((yaw.sin() * pitch.cos(), yaw.cos() * pitch.cos(), -pitch.sin()), -1)
    right = torch.stack((yaw.cos(), -yaw.sin(), zero), -1)
    down = torch.linalg.cross(forward, right)
    c, s = roll.cos()[..., None], roll.sin()[..., None]
    return torch.stack((right * c + down * s, down * c - right * s, forward), -2)


def choose(generator: torch.Generator, weights: Tensor, *shape: int) -> Tensor:
    """Indices drawn with the given weights (K,), int64 of the given shape."""
    total = weights.to(generator.device).cumsum(0)
    draw = torch.rand(shape, generator=generator, device=generator.device) * total[-1]
    return torch.searchsorted(total, draw).clamp(max=len(weights) - 1)


def sometimes(generator: torch.Generator, probability: float, *shape: int) -> Tensor:
    """Boolean tensor, true with the given probability."""
    return torch.rand(shape, generator=generator, device=generator.device) < probability


def colours(
    generator: torch.Generator, low: float, high: float, vivid: float, *shape: int
) -> Tensor:
    """Linear RGB (..., 3): mostly greys, browns, pastels of value low..high; a share is vivid."""
    hue = uniform(generator, 0.0, 1.0, *shape)
    warm = uniform(generator, 0.02, 0.14, *shape)
    hue = torch.where(sometimes(generator, 0.5, *shape), warm, hue)
    saturation = uniform(generator, 0.0, 1.0, *shape) ** 2 * 0.5
    strong = uniform(generator, 0.5, 0.95, *shape)
    saturation = torch.where(sometimes(generator, vivid, *shape), strong, saturation)
    value = uniform(generator, low, high, *shape)
    offset = torch.tensor([0.0, 2 / 3, 1 / 3], device=generator.device)
    ramp = (((hue[..., None] + offset) % 1.0) * 6.0 - 3.0).abs() - 1.0
    rgb = value[..., None] * (1.0 - saturation[..., None] * (1.0 - ramp.clamp(0.0, 1.0)))
    return rgb.square()


@dataclass(frozen=True)
class Paint:
    """How surfaces of one kind look: ranges that `paint` draws from."""

    low: float = 0.08
    high: float = 0.95
    vivid: float = 0.15
    plain: float = 0.4
    repeats: tuple[float, float] = (0.5, 8.0)
    shiny: float = 0.3
    own: float = 1.0  # largest share of the texture's own colours


def paint(generator: torch.Generator, style: Paint, *shape: int) -> Tensor:
    """Random materials (..., MATERIAL_CHANNELS)."""
    result = torch.zeros(*shape, MATERIAL_CHANNELS, device=generator.device)
    result[..., 0:3] = colours(generator, style.low, style.high, style.vivid, *shape)
    result[..., 3] = torch.randint(
        NUM_TEXTURES, shape, generator=generator, device=generator.device
    ).float()
    textured = ~sometimes(generator, style.plain, *shape)
    result[..., 4] = textured * uniform(generator, 0.0, 1.2, *shape).clamp(max=1.0) * style.own
    # Even plain things carry faint dirt, grain or weave.
    result[..., 5] = torch.where(
        textured,
        uniform(generator, 0.0, 1.2, *shape),
        uniform(generator, 0.0, 0.25, *shape),
    )
    repeats = log_uniform(generator, *style.repeats, *shape)
    result[..., 6] = repeats
    result[..., 7] = repeats * log_uniform(generator, 0.6, 1.6, *shape)
    result[..., 8:10] = uniform(generator, 0.0, 1.0, *shape, 2)
    shine = sometimes(generator, style.shiny, *shape)
    result[..., 10] = shine * uniform(generator, 0.05, 0.6, *shape)
    result[..., 11] = log_uniform(generator, 5.0, 120.0, *shape)
    return result


def join(parts: list[Solids]) -> Solids:
    """Solids side by side, each keeping its own groups apart from the others'."""
    groups, used = [], 0
    for part in parts:
        groups.append(part.group + used)
        used += int(part.group.shape[1])
    return Solids(
        torch.cat([part.centre for part in parts], 1),
        torch.cat([part.axes for part in parts], 1),
        torch.cat([part.half for part in parts], 1),
        torch.cat([part.profile for part in parts], 1),
        torch.cat([part.material for part in parts], 1),
        torch.cat(groups, 1),
    )


def singles(
    centre: Tensor, half: Tensor, axes: Tensor, material: Tensor, profile: Tensor | None = None
) -> Solids:
    """Free-standing primitives, every one a group of its own; shapes as in Solids."""
    n, count = centre.shape[:2]
    group = torch.arange(count, device=centre.device).expand(n, count)
    if profile is None:
        profile = centre.new_zeros(n, count, 2)
    return Solids(centre, axes, half, profile, material, group)


def cleared(solids: Solids, position: Tensor, clearance: Tensor) -> Solids:
    """Buries the primitives that come nearer to position (n, 3) than clearance (n,)."""
    offset = position[:, None] - solids.centre
    local = (solids.axes.transpose(-1, -2) @ offset[..., None])[..., 0]
    gap = (local.abs() - solids.half).clamp(min=0.0).norm(dim=-1)
    blocked = (gap < clearance[:, None])[..., None]
    away = torch.tensor([0.0, 0.0, -1e5], device=position.device)
    return replace(
        solids,
        centre=torch.where(blocked, away, solids.centre),
        half=torch.where(blocked, 1e-3, solids.half),
    )


def degrees(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform angles, given in degrees, returned in radians."""
    return uniform(generator, math.radians(low), math.radians(high), *shape)
