"""Slanted planes and floating things of all sizes, which no other family has."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from training.data.procedural.draws import log_uniform, normal, uniform
from training.data.procedural.interiors import (
    draw_walls,
    interior,
)
from training.data.procedural.scene import (
    Scene,
    choose,
    degrees,
    paint,
    rotation_x,
    rotation_z,
    singles,
    sometimes,
)
from training.data.procedural.surroundings import (
    NUM_FURNITURE,
    NUM_PANELS,
    NUM_ROUND,
    NUM_THINGS,
    PICTURE,
    SMALL,
    Lens,
    draw_camera,
)


def clutter(generator: torch.Generator, n: int) -> Scene:
    """Slanted planes and floating things of all sizes: what no other family has."""
    num_boxes = NUM_FURNITURE * 6 + NUM_THINGS + NUM_PANELS
    num_quadrics = NUM_ROUND * 6
    depth = log_uniform(generator, 1.2, 8.0, n, 1)

    def floating(count: int, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
        ahead = depth * uniform(generator, 0.25, 1.0, n, count)
        place_x, place_z = (uniform(generator, -0.7, 0.7, n, count) * ahead for _ in range(2))
        centre = torch.stack((place_x, ahead, place_z), -1)
        half = log_uniform(generator, low, high, n, count, 1) * log_uniform(
            generator, 0.25, 2.0, n, count, 3
        )
        axes = (
            rotation_z(degrees(generator, 0, 360, n, count))
            @ rotation_x(degrees(generator, -90, 90, n, count))
            @ rotation_z(degrees(generator, 0, 360, n, count))
        )
        return centre, half * depth[..., None], axes

    centre, half, axes = floating(num_boxes, 0.006, 0.16)
    present = sometimes(generator, 0.6, n, num_boxes, 1)
    boxes = singles(
        torch.where(present, centre, -1e5), half, axes, paint(generator, SMALL, n, num_boxes)
    )
    centre, half, axes = floating(num_quadrics, 0.008, 0.14)
    present = sometimes(generator, 0.5, n, num_quadrics, 1)
    profiles = torch.tensor(
        ((1.0, 0.0), (0.0, 0.0), (-0.81, 0.9), (-0.04, 0.2)), device=depth.device
    )
    profile = profiles[choose(generator, torch.ones(4), n, num_quadrics)]
    quadrics = singles(
        torch.where(present, centre, -1e5),
        half,
        axes,
        paint(generator, SMALL, n, num_quadrics),
        profile,
    )
    room_half = torch.cat((depth, depth, depth), 1) * uniform(generator, 0.7, 1.0, n, 3)
    room_half[:, 1] = depth[:, 0]
    position = torch.zeros(n, 3, device=depth.device)
    camera = draw_camera(
        generator,
        position,
        normal(generator, n) * 0.5,
        normal(generator, n) * 0.3,
        Lens((35.0, 80.0), 20.0),
    )
    scene = interior(
        generator,
        room_half,
        (boxes, quadrics),
        camera,
        draw_walls(generator, n, PICTURE, PICTURE),
        0.25,
    )
    return replace(scene, room_centre=position)
