"""What stands behind all things: a surface facing the camera, often a ground plane before it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.procedural.colours import recolour
from training.data.procedural.draws import chance, integers, normal, uniform
from training.data.procedural.placing import random_surface, sample_texture


@dataclass(frozen=True)
class Backdrop:
    """Wall or sky, and a ground below a horizon, for each of B pictures."""

    wall: Tensor  # (B, 3, T, T)
    wall_surface: Tensor  # (B, 2, 3), picture to texture coordinates
    ground: Tensor  # (B, 3, T, T)
    ground_surface: Tensor  # (B, 2, 3), ground to texture coordinates
    horizon: Tensor  # (B, 2): its height in picture coordinates and its slope
    light: Tensor  # (B, 3): brightness at the centre and its change along x and y


def draw_backdrop(generator: torch.Generator, count: int, textures: Tensor) -> Backdrop:
    """Random backdrops; half of them have no ground (a horizon far below the picture)."""
    pick = integers(generator, 0, len(textures), 2, count)
    height = uniform(generator, -0.6, 0.8, count)
    height = torch.where(chance(generator, 0.5, count), height, 9.0)
    slope = 0.06 * normal(generator, count)
    light = 0.12 * normal(generator, count, 3)
    light[:, 0] = light[:, 0] * 0.5 + 1
    return Backdrop(
        wall=recolour(generator, textures[pick[0]]),
        wall_surface=random_surface(generator, count, 1.0),
        ground=recolour(generator, textures[pick[1]]),
        ground_surface=random_surface(generator, count),
        horizon=torch.stack([height, slope], 1),
        light=light,
    )


def sample_backdrop(backdrop: Backdrop, x: Tensor, y: Tensor) -> Tensor:
    """Colours (B, 3, H, W) at picture points x (B|1, 1|H, W), y (B|1, H, 1|W)."""
    size = max(x.shape[-1], y.shape[-2])
    height, slope = (v[:, None, None] for v in backdrop.horizon.unbind(1))
    depth = y - (height + slope * x)  # (B, H, W), picture units below the horizon
    # The half unit keeps the texture near the horizon from shrinking below its resolution.
    far = 1 / (depth.clamp_min(0.0) + 0.5)
    ground = sample_texture(backdrop.ground, backdrop.ground_surface, x * far, far)
    wall = sample_texture(backdrop.wall, backdrop.wall_surface, x, y)
    share = (depth * (size / 2) + 0.5).clamp(0.0, 1.0)[:, None]
    k = backdrop.light[:, :, None, None]
    return torch.lerp(wall, ground, share) * (k[:, 0] + k[:, 1] * x + k[:, 2] * y)[:, None]
