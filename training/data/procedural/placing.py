"""Things placed in a picture: where a sprite and its texture land, and what a layer covers."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.colours import recolour
from training.data.procedural.draws import chance, integers, log_uniform, normal, uniform
from training.data.procedural.shapes import REACH
from training.data.procedural.sprites import FAR, Sprites


@dataclass(frozen=True)
class Layer:
    """One thing for each of B pictures; picture coordinates run from -1 to 1, x right, y down."""

    sprite: Tensor  # (B, 5, R, R)
    texture: Tensor  # (B, 3, T, T), mirrored beyond its border
    inverse: Tensor  # (B, 2, 3), picture to sprite coordinates (in units of the sprite's reach)
    surface: Tensor  # (B, 2, 3), picture to texture coordinates, one tile is [-1, 1]
    scale: Tensor  # (B,), picture units in a sprite unit
    shadow: Tensor  # (B, 2): darkness in [0, 1] and width (sprite units) of the shadow around it


def picture_axes(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel centres in picture coordinates [-1, 1], shapes (1, 1, S) and (1, S, 1)."""
    line = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
    return line[None, None, :], line[None, :, None]


def affine(centre: Tensor, half: Tensor, angle: Tensor, shear: Tensor | None = None) -> Tensor:
    """Matrices (B, 2, 3) from picture coordinates to those of a thing that lies there.

    Args:
        centre: (B, 2).
        half: (B, 2), half axes in picture units.
        angle: (B,), radians.
        shear: (B,), or none.
    """
    c, s = angle.cos(), angle.sin()
    rows = torch.stack([torch.stack([c, s], -1), torch.stack([-s, c], -1)], 1)
    if shear is not None:
        rows = torch.stack([rows[:, 0] + shear[:, None] * rows[:, 1], rows[:, 1]], 1)
    rows = rows / half[:, :, None]
    return torch.cat([rows, -(rows @ centre[:, :, None])], 2)


def apply_affine(matrix: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Transformed points (B, H, W, 2) of x (B|1, 1|H, W) and y (B|1, H, 1|W)."""
    m = matrix[:, :, :, None, None]
    points = x.new_empty(len(matrix), y.shape[1], x.shape[2], 2)
    points[..., 0] = m[:, 0, 0] * x + (m[:, 0, 1] * y + m[:, 0, 2])
    points[..., 1] = m[:, 1, 0] * x + (m[:, 1, 1] * y + m[:, 1, 2])
    return points


def sample_texture(texture: Tensor, surface: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Colours (B, 3, H, W) of a texture, mirrored beyond its border, at picture points."""
    points = apply_affine(surface, x, y)
    return F.grid_sample(texture, points, padding_mode="reflection", align_corners=False)


def sample_layer(layer: Layer, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (B, 3, H, W) and signed distances (B, 1, H, W, sprite units) at picture points."""
    points = apply_affine(layer.inverse, x, y)
    sampled = F.grid_sample(layer.sprite, points, align_corners=False)
    colour = sample_texture(layer.texture, layer.surface, x, y)
    return torch.addcmul(sampled[:, 2:], colour, sampled[:, 1:2]), sampled[:, :1] - FAR


def sample_distance(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
    """Signed distances (B, 1, H, W, sprite units) at picture points."""
    points = apply_affine(layer.inverse, x, y)
    return F.grid_sample(layer.sprite[:, :1], points, align_corners=False) - FAR


def moved(layer: Layer, offset: Tensor) -> Layer:
    """The layer, texture and all, displaced by `offset` (B, 2) in picture units."""
    inverse, surface = (
        torch.cat([m[:, :, :2], m[:, :, 2:] - m[:, :, :2] @ offset[:, :, None]], 2)
        for m in (layer.inverse, layer.surface)
    )
    return replace(layer, inverse=inverse, surface=surface)


def coverage(layer: Layer, distance: Tensor, size: int) -> Tensor:
    """Share of a pixel that the thing covers, from the signed distance; (B, 1, H, W) in [0, 1]."""
    pixels = (layer.scale * (size / 2))[:, None, None, None]
    return (distance * pixels + 0.5).clamp(0.0, 1.0)


def cast_shadow(layer: Layer, distance: Tensor) -> Tensor:
    """Brightness (B, 1, H, W) left to what lies behind, by distance from the thing."""
    darkness, width = layer.shadow.unbind(1)
    near = (distance / width[:, None, None, None] + 1).clamp(0.0, 1.0)
    return 1 - darkness[:, None, None, None] * near.square()


def over(picture: Tensor, colour: Tensor, alpha: Tensor, light: Tensor) -> Tensor:
    """The picture behind, in shadow, with a thing in front of it."""
    return torch.lerp(picture * light, colour, alpha)


def random_surface(generator: torch.Generator, count: int, least: float = 0.75) -> Tensor:
    """Picture to texture coordinates (B, 2, 3): any turn, magnified `least` times to twice that."""
    angle = uniform(generator, -3.15, 3.15, count) * chance(generator, 0.6, count)
    half = log_uniform(generator, least, 2 * least, count, 1)
    half = half * (0.15 * normal(generator, count, 2)).exp()
    return affine(uniform(generator, -0.5, 0.5, count, 2), half, angle)


def make_layer(
    generator: torch.Generator,
    sprites: Sprites,
    rows: Tensor,
    textures: Tensor,
    centre: Tensor,
    half: Tensor,
    angle: Tensor,
) -> Layer:
    """Place the chosen sprites.

    Args:
        generator: source of textures, surfaces and shadows.
        sprites: where `rows` (B,) points.
        rows: index into the sprites.
        textures: (K, 3, T, T), one is chosen for each.
        centre: (B, 2) in picture units.
        half: (B, 2), half axes in picture units.
        angle: (B,), radians.
    """
    count = len(rows)
    chosen = textures[integers(generator, 0, len(textures), count)]
    shear = 0.1 * normal(generator, count)
    dark = uniform(generator, -0.3, 0.65, count).clamp_min(0.0)
    width = log_uniform(generator, 0.04, 0.3, count)
    return Layer(
        sprite=sprites.picture[rows],
        texture=recolour(generator, chosen),
        inverse=affine(centre, half * REACH, angle, shear),
        surface=random_surface(generator, count),
        scale=half.amin(1),
        shadow=torch.stack([dark, width], 1),
    )
