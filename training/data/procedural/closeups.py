"""Near things: desks and table-tops, still lifes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.compounds import Objects, draw_objects, place, weights_of
from training.data.procedural.draws import log_uniform, normal, uniform
from training.data.procedural.furniture import BOX_KINDS
from training.data.procedural.household import QUADRIC_KINDS
from training.data.procedural.interiors import (
    HOUSEHOLD_KINDS,
    ROOM_KINDS,
    SMALL_BOX_KINDS,
    draw_walls,
    interior,
)
from training.data.procedural.scene import (
    Paint,
    Scene,
    Solids,
    choose,
    degrees,
    join,
    look,
    paint,
    singles,
    sometimes,
)
from training.data.procedural.surroundings import (
    FLOOR,
    FURNITURE,
    NUM_FURNITURE,
    NUM_ROUND,
    NUM_THINGS,
    PICTURE,
    SMALL,
    WALL,
    Lens,
    draw_camera,
    draw_things,
    draw_yaws,
)


def _backdrop(
    generator: torch.Generator, n: int, height: Tensor, wall: Tensor, style: Paint
) -> tuple[Solids, Tensor]:
    """A table-top whose surface is z = 0 and the half sizes of a room whose floor is `height` below
    it and whose wall is `wall` behind; boxes (n, 2): the table and a screen behind it."""
    half = torch.stack((uniform(generator, 1.5, 4.0, n), wall, uniform(generator, 1.2, 1.7, n)), 1)
    wide = torch.where(sometimes(generator, 0.4, n), 6.0, uniform(generator, 0.5, 1.1, n))
    deep = torch.where(sometimes(generator, 0.4, n), 6.0, uniform(generator, 0.35, 0.8, n))
    thick = torch.minimum(uniform(generator, 0.01, 0.03, n), height * 0.4)
    screen_high = uniform(generator, 0.1, 0.6, n) * sometimes(generator, 0.4, n)
    zero = torch.zeros_like(wide)
    centre = torch.stack(
        (
            torch.stack((zero, zero, height - thick), 1),
            torch.stack((zero, deep.clamp(max=1.0) + 0.03, height + screen_high * 0.5), 1),
        ),
        1,
    )
    size = torch.stack(
        (
            torch.stack((wide, deep, thick), 1),
            torch.stack((wide, zero + 0.02, screen_high * 0.5 + 1e-3), 1),
        ),
        1,
    )
    axes = torch.eye(3, device=generator.device).expand(n, 2, 3, 3)
    return singles(centre, size, axes, paint(generator, style, n, 2)), half


def desk(generator: torch.Generator, n: int) -> Scene:
    """Desks, table-tops and floors with things on them, seen obliquely from near."""
    scale = log_uniform(generator, 0.7, 1.6, n, 1, 1)
    floor_only = sometimes(generator, 0.25, n)
    height = torch.where(floor_only, 0.02, uniform(generator, 0.45, 0.8, n))
    top, half = _backdrop(generator, n, height, log_uniform(generator, 0.8, 4.0, n), FURNITURE)
    level = F.pad(height[:, None, None], (2, 0))

    def spots(count: int, spread: float) -> Tensor:
        flat = normal(generator, n, count, 2).clamp(-2.0, 2.0) * spread
        return F.pad(flat, (0, 1)) * scale + level

    objects = draw_objects(
        generator, BOX_KINDS, choose(generator, SMALL_BOX_KINDS, n, NUM_FURNITURE)
    )
    where = spots(NUM_FURNITURE, 0.35)
    # The last one is a chair or a cupboard beside the desk.
    beside = draw_objects(generator, BOX_KINDS, choose(generator, ROOM_KINDS, n, 1))
    around = degrees(generator, 0, 360, n, 1)
    away = uniform(generator, 0.9, 1.6, n, 1)
    far = torch.stack((around.sin() * away, around.cos() * away, torch.zeros_like(away)), -1)
    boxes = join(
        [
            place(generator, objects, where, normal(generator, n, NUM_FURNITURE) * 0.6, SMALL),
            top,
            place(generator, beside, far, draw_yaws(generator, 0.5, n, 1), FURNITURE),
            draw_things(generator, spots(NUM_THINGS - 2, 0.3), 0.02, 0.12, SMALL, 0.6),
        ]
    )
    kind = choose(generator, HOUSEHOLD_KINDS, n, NUM_ROUND)
    rounds = draw_objects(
        generator, QUADRIC_KINDS, kind, uniform(generator, 0.7, 1.4, n, NUM_ROUND, 1)
    )
    yaw = degrees(generator, 0, 360, n, NUM_ROUND)
    quadrics = place(generator, rounds, spots(NUM_ROUND, 0.3), yaw, SMALL)
    distance = log_uniform(generator, 0.45, 1.8, n)
    pitch, yaw_camera = degrees(generator, 8, 62, n), normal(generator, n) * 0.5
    target = F.pad(normal(generator, n, 2) * 0.12, (0, 1)) + level[:, 0]
    forward = look(yaw_camera, pitch, torch.zeros_like(pitch))[:, 2]
    camera = draw_camera(
        generator, target - forward * distance[:, None], yaw_camera, pitch, Lens((35.0, 70.0), 5.0)
    )
    behind = torch.maximum(half[:, :2], camera.position[:, :2].abs() + 0.3)
    half = torch.stack((behind[:, 0], torch.maximum(half[:, 1], behind[:, 1]), half[:, 2]), 1)
    half[:, 2] = torch.maximum(half[:, 2], camera.position[:, 2] * 0.5 + 0.3)
    return interior(
        generator, half, (boxes, quadrics), camera, draw_walls(generator, n, FLOOR, WALL), 0.12
    )


def still_life(generator: torch.Generator, n: int) -> Scene:
    """Plants, toys, sticks and tilted boxes that fill the picture in front of a near wall."""
    top, half = _backdrop(
        generator,
        n,
        torch.full((n,), 0.5, device=generator.device),
        uniform(generator, 0.25, 0.9, n),
        PICTURE,
    )
    level = torch.tensor([0.0, 0.0, 0.5], device=generator.device)

    def spots(count: int) -> Tensor:
        flat = torch.stack(
            (uniform(generator, -0.5, 0.5, n, count), uniform(generator, -0.3, 0.25, n, count)), -1
        )
        return F.pad(flat, (0, 1)) + level

    kinds = weights_of(BOX_KINDS, pile=3, books=2, monitor=0.5, chair=0.5, shelf=0.7, cabinet=0.5)
    scale = torch.where(sometimes(generator, 0.5, n, NUM_FURNITURE, 1), 0.5, 0.9)
    objects = draw_objects(generator, BOX_KINDS, choose(generator, kinds, n, NUM_FURNITURE), scale)
    turned = uniform(generator, -1.0, 1.0, n, NUM_FURNITURE)
    boxes = join(
        [
            place(generator, objects, spots(NUM_FURNITURE), turned, SMALL),
            top,
            draw_things(generator, spots(6), 0.03, 0.3, SMALL, 0.3),
            draw_things(
                generator,
                spots(6) + level * uniform(generator, 0.0, 1.2, n, 6, 1),
                0.02,
                0.25,
                PICTURE,
                0.5,
            ),
        ]
    )
    kinds = weights_of(
        QUADRIC_KINDS,
        plant=6,
        sticks=3,
        toy=3,
        bush=2,
        fruit=1,
        bottle=2,
        ball=2,
        cone=2,
        lamp=1,
        roll=1,
        can=1,
        mug=1,
    )
    kind = choose(generator, kinds, n, NUM_ROUND)
    rounds = draw_objects(
        generator, QUADRIC_KINDS, kind, log_uniform(generator, 0.8, 2.5, n, NUM_ROUND, 1)
    )
    where = spots(NUM_ROUND)
    # Several fans of leaves at one place make one rich plant.
    shared = sometimes(generator, 0.5, n, 1, 1) & (
        torch.arange(NUM_ROUND, device=where.device)[:, None] < 3
    )
    where = torch.where(shared, where[:, :1], where)
    same = draw_objects(
        generator,
        QUADRIC_KINDS,
        weights_of(QUADRIC_KINDS, plant=1).argmax().expand(n, NUM_ROUND).to(where.device),
        log_uniform(generator, 0.9, 2.2, n, NUM_ROUND, 1),
    )
    rounds = Objects(
        QUADRIC_KINDS,
        torch.where(shared[..., 0], same.kind, rounds.kind),
        torch.where(shared, same.size, rounds.size),
    )
    quadrics = place(generator, rounds, where, degrees(generator, 0, 360, n, NUM_ROUND), SMALL)
    distance = uniform(generator, 0.8, 1.9, n)
    pitch, yaw = degrees(generator, -5, 28, n), normal(generator, n) * 0.25
    forward = look(yaw, pitch, torch.zeros_like(pitch))[:, 2]
    target = normal(generator, n, 3) * 0.08 + level * 1.35
    camera = draw_camera(
        generator, target - forward * distance[:, None], yaw, pitch, Lens((30.0, 60.0), 3.0)
    )
    behind = torch.maximum(half, camera.position.abs() + 0.2)
    room_half = torch.stack((behind[:, 0], half[:, 1] + 0.5 * behind[:, 1], behind[:, 2]), 1)
    scene = interior(
        generator,
        room_half,
        (boxes, quadrics),
        camera,
        draw_walls(generator, n, FLOOR, PICTURE),
        0.15,
    )
    # The wall behind is near, but there is space around the camera.
    back = F.pad((half[:, 1] - room_half[:, 1])[:, None], (1, 1))
    return replace(scene, room_centre=scene.room_centre + back)
