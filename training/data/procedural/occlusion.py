"""Where the object of an amodal picture lies, and what is put in front of it."""

import torch
from torch import Tensor

from training.data.procedural.draws import chance, log_uniform, normal, uniform
from training.data.procedural.placing import Layer, make_layer, moved, picture_axes, sample_distance
from training.data.procedural.sprites import Sprites

NUM_TRIES = 16  # placements of an occluder of which the best is taken
COARSE = 32  # side of the grid on which placements are judged


def place_object(
    generator: torch.Generator, sprites: Sprites, rows: Tensor, textures: Tensor
) -> Layer:
    """The object of interest: 15 to 90 % of the picture across, sometimes cut by its border."""
    count = len(rows)
    aspect = (0.2 * normal(generator, count)).exp()
    half = uniform(generator, 0.22, 1.0, count, 1)
    # Thin things must be larger to be seen at all.
    enough = (0.07 * 4 / sprites.area()[rows].clamp_min(0.05)).sqrt()[:, None]
    half = torch.maximum(half, enough.clamp_max(1.1)) * torch.stack([aspect, 1 / aspect], 1)
    room = (1 - 0.9 * half).clamp_min(0.05)
    room = torch.where(chance(generator, 0.15, count, 1), 0.8, room)
    centre = room * uniform(generator, -1.0, 1.0, count, 2)
    upright = chance(generator, 0.7, count)
    angle = torch.where(
        upright, 0.12 * normal(generator, count), uniform(generator, -3.15, 3.15, count)
    )
    return make_layer(generator, sprites, rows, textures, centre, half, angle)


def place_occluder(
    generator: torch.Generator,
    sprites: Sprites,
    rows: Tensor,
    textures: Tensor,
    thing: Layer,
    target: Tensor,
) -> Layer:
    """Of some random places in front of a thing, the one that hides nearest to the wanted share.

    Args:
        generator: source of randomness.
        sprites: where `rows` (B,) points to the occluders.
        rows: index into the sprites.
        textures: (K, 3, T, T).
        thing: what is to be hidden.
        target: (B,), share of the thing's area in the picture, 0 to 1.
    """
    count, device = len(rows), textures.device
    x, y = picture_axes(COARSE, device)
    whole = (sample_distance(thing, x, y) > 0).float()  # (B, 1, c, c)
    total = whole.sum((1, 2, 3)).clamp_min(1.0)
    middle = torch.stack([(whole[:, 0] * axis).sum((1, 2)) / total for axis in (x, y)], 1)
    reach = (total / COARSE**2).sqrt()[:, None]  # half the side of a square of the same area
    full = 4 / sprites.area()[rows].clamp_min(0.25)[:, None]  # box to silhouette
    half = reach * (full * target[:, None].clamp_min(0.05)).sqrt()
    half = half * log_uniform(generator, 0.9, 2.2, count, 1)
    half = half * (0.25 * normal(generator, count, 2)).exp()
    upright = chance(generator, 0.4, count)
    angle = torch.where(
        upright, 0.12 * normal(generator, count), uniform(generator, -3.15, 3.15, count)
    )
    origin = torch.zeros(count, 2, device=device)
    layer = make_layer(generator, sprites, rows, textures, origin, half.clamp_max(1.5), angle)
    offsets = middle + (reach + half) * 0.7 * normal(generator, NUM_TRIES, count, 2)
    misses = []
    for offset in offsets:
        cover = (sample_distance(moved(layer, offset), x, y) > 0) & (whole > 0)
        misses.append((cover.sum((1, 2, 3)) / total - target).abs())
    best = torch.stack(misses).argmin(0)
    return moved(layer, offsets[best, torch.arange(count, device=device)])
