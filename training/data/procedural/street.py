"""Streets: houses, cars, people, trees and posts on open ground under a sky."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.compounds import Objects, draw_objects, place, weights_of
from training.data.procedural.draws import log_uniform, normal, uniform
from training.data.procedural.furniture import BOX_KINDS
from training.data.procedural.household import QUADRIC_KINDS
from training.data.procedural.scene import (
    Camera,
    Paint,
    Scene,
    Solids,
    choose,
    cleared,
    colours,
    degrees,
    join,
    paint,
    singles,
    sometimes,
)
from training.data.procedural.surroundings import (
    FACADE,
    GROUND,
    NUM_ROUND,
    OUTSIDE,
    Lens,
    draw_air,
    draw_camera,
    draw_lamps,
    draw_things,
)


def street(generator: torch.Generator, n: int) -> Scene:
    """Roads between houses with cars, people, trees and posts, under a sky."""
    road = uniform(generator, 3.0, 6.0, n, 1)
    kinds = torch.stack(
        (
            weights_of(BOX_KINDS, house=1),
            weights_of(BOX_KINDS, house=1),
            weights_of(BOX_KINDS, house=4, fence=1),
            weights_of(BOX_KINDS, car=4, van=1),
            weights_of(BOX_KINDS, car=4, van=1),
        )
    )
    kind = torch.cat([choose(generator, row, n, 1) for row in kinds], 1)
    objects = draw_objects(generator, BOX_KINDS, kind)
    extra = draw_objects(
        generator, BOX_KINDS, choose(generator, weights_of(BOX_KINDS, car=4, van=1, house=2), n, 1)
    )
    boxes = join(
        [
            _beside(generator, objects, road, OUTSIDE),
            _beside(generator, extra, road, FACADE),
            _pavements(generator, road, 4),
            draw_things(generator, _roadside(generator, road, 4), 0.15, 1.0, OUTSIDE, 0.2),
        ]
    )
    round_kinds = weights_of(QUADRIC_KINDS, tree=4, person=2, post=3, bush=1, cone=0.5)
    rounds = draw_objects(generator, QUADRIC_KINDS, choose(generator, round_kinds, n, NUM_ROUND))
    quadrics = place(
        generator,
        rounds,
        _roadside(generator, road, NUM_ROUND),
        degrees(generator, 0, 360, n, NUM_ROUND),
        OUTSIDE,
    )
    position = torch.cat(
        (
            uniform(generator, -0.7, 0.7, n, 1) * road,
            torch.zeros_like(road),
            uniform(generator, 1.2, 2.2, n, 1),
        ),
        1,
    )
    yaw = normal(generator, n) * 0.2
    camera = draw_camera(
        generator, position, yaw, normal(generator, n) * 0.05 + 0.03, Lens((40.0, 90.0), 1.5)
    )
    free = torch.full((n,), 2.0, device=road.device)
    return _open_air(generator, (boxes, quadrics), camera, free)


def _beside(generator: torch.Generator, objects: Objects, road: Tensor, style: Paint) -> Solids:
    """Objects along a road of half width (n, 1): houses and fences outside it, cars on it."""
    n, count = objects.kind.shape
    side = torch.where(sometimes(generator, 0.5, n, count), 1.0, -1.0)
    tall = objects.size[..., 1] > 3.9
    outside = road + objects.size[..., 0] + uniform(generator, 0.5, 5.0, n, count)
    inside = (road - objects.size[..., 0]) * uniform(generator, 0.2, 1.0, n, count)
    across = side * torch.where(tall, outside, inside)
    along = log_uniform(generator, 5.0, 60.0, n, count)
    foot = torch.stack((across, along, torch.zeros_like(along)), -1)
    return place(generator, objects, foot, normal(generator, n, count) * 0.05, style)


def _roadside(generator: torch.Generator, road: Tensor, count: int) -> Tensor:
    n = len(road)
    side = torch.where(sometimes(generator, 0.5, n, count), 1.0, -1.0)
    across = side * road * uniform(generator, 0.6, 1.9, n, count)
    along = log_uniform(generator, 3.0, 50.0, n, count)
    return torch.stack((across, along, torch.zeros_like(along)), -1)


def _pavements(generator: torch.Generator, road: Tensor, count: int) -> Solids:
    """Flat strips along the road: pavements at both sides and marks on it."""
    n = len(road)
    zero = torch.zeros_like(road)
    wide = torch.cat((zero + 3.0, zero + 3.0, zero + 0.07, zero + 0.07), 1)
    x = torch.cat((road + 3.0, -road - 3.0, zero, road * 0.92), 1)
    high = torch.cat((zero + 0.07, zero + 0.07, zero + 0.004, zero + 0.004), 1)
    centre = torch.stack((x, torch.full_like(x, 100.0), high * 0.5), -1)
    half = torch.stack((wide, torch.full_like(x, 120.0), high * 0.5), -1)
    material = paint(generator, GROUND, n, count)
    material[:, 2:, 0:3] = uniform(generator, 0.3, 0.9, n, 1, 1)
    axes = torch.eye(3, device=road.device).expand(n, count, 3, 3)
    return singles(centre, half, axes, material)


def _open_air(
    generator: torch.Generator, solids: tuple[Solids, Solids], camera: Camera, free: Tensor
) -> Scene:
    """A scene on open ground at z = 0 under a sky with sun."""
    n = len(free)
    air = draw_air(generator, n, (1.0, 8.0), 0.6, 0.1, 0.02, (25.0, 60.0))
    half = (air[:, 4:5] * 8.0).expand(n, 3).clone()
    material = paint(generator, GROUND, n, 6)
    sky = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 1.0], device=free.device)
    blue = torch.tensor([0.35, 0.55, 0.9], device=free.device)
    cloud = uniform(generator, 0.0, 1.0, n, 1)
    above = (blue + (0.85 - blue) * cloud) * uniform(generator, 0.6, 1.4, n, 1)
    material[..., 0:3] = torch.where(sky[:, None] > 0, above[:, None], material[..., 0:3])
    material[..., 12:14] = sky[:, None]
    material[..., 12] *= uniform(generator, 0.9, 2.0, n, 1)
    material[..., 4] *= 1.0 - sky
    material[..., 6:8] = torch.where(sky[:, None] > 0, 0.5 / half[:, :1, None], material[..., 6:8])
    height = degrees(generator, 15, 75, n)
    around = degrees(generator, 0, 360, n)
    sun = (
        torch.stack((around.sin() * height.cos(), around.cos() * height.cos(), height.sin()), 1)
        * 300.0
    )
    lights = draw_lamps(generator, -half, half)
    lights[:, 1:, 3:6] *= 0.1
    lights[:, 0, :3] = sun
    lights[:, 0, 3:6] = (colours(generator, 0.9, 1.0, 0.0, n) * (1.0 - 0.8 * cloud)) * 1.6
    lights[:, 0, 6] = 3000.0
    haze = 0.5 * above + 0.5 * above.mean(1, keepdim=True)
    ambient = torch.cat((haze * 0.6, haze * 0.25), 1)
    centre = F.pad(half[:, 2:], (2, 0))
    return Scene(
        cleared(solids[0], camera.position, free),
        cleared(solids[1], camera.position, free),
        centre,
        half,
        material,
        lights,
        ambient,
        air,
        camera,
    )
