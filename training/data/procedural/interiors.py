"""Rooms and corridors: scenes inside a box of walls, with furniture and pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.compounds import draw_objects, place, weights_of
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
    degrees,
    join,
    paint,
    singles,
    sometimes,
)
from training.data.procedural.surroundings import (
    FLOOR,
    FURNITURE,
    NUM_FURNITURE,
    NUM_PANELS,
    NUM_ROUND,
    NUM_THINGS,
    PICTURE,
    SMALL,
    WALL,
    Lens,
    aim,
    draw_air,
    draw_ambient,
    draw_camera,
    draw_lamps,
    draw_things,
    draw_yaws,
    on_top,
)

ROOM_KINDS = weights_of(
    BOX_KINDS, table=2, desk=2, chair=3, office_chair=2, sofa=2, shelf=2, cabinet=2, bed=1, pile=1
)
SMALL_BOX_KINDS = weights_of(BOX_KINDS, pile=2, monitor=2, books=3, laptop=2)
HOUSEHOLD_KINDS = weights_of(
    QUADRIC_KINDS,
    bottle=4,
    can=3,
    mug=3,
    ball=2,
    fruit=1,
    lamp=2,
    roll=2,
    toy=2,
    cone=1,
    plant=3,
    bush=1,
    sticks=2,
)


def _panels(generator: torch.Generator, room_half: Tensor, style: Paint) -> Solids:
    """Pictures, doors, windows and boards on the walls of a room around the origin, floor at 0."""
    n = len(room_half)
    shape = (n, NUM_PANELS)
    on_x = sometimes(generator, 0.5, *shape)
    side = torch.where(sometimes(generator, 0.5, *shape), 1.0, -1.0)
    wall = torch.where(on_x, room_half[:, :1], room_half[:, 1:2])
    length = torch.where(on_x, room_half[:, 1:2], room_half[:, :1])
    along = uniform(generator, -0.9, 0.9, *shape) * length
    door = sometimes(generator, 0.3, *shape)
    tall = torch.where(door, 1.0, log_uniform(generator, 0.12, 0.8, *shape))
    wide = torch.where(door, 0.45, log_uniform(generator, 0.12, 1.2, *shape))
    tall = torch.minimum(tall, room_half[:, 2:] * 0.8)
    centre_z = torch.where(door, tall, torch.maximum(uniform(generator, 0.9, 1.8, *shape), tall))
    thick = uniform(generator, 0.005, 0.05, *shape)
    centre = torch.stack(
        (torch.where(on_x, side * wall, along), torch.where(on_x, along, side * wall), centre_z), -1
    )
    half = torch.stack((torch.where(on_x, thick, wide), torch.where(on_x, wide, thick), tall), -1)
    axes = torch.eye(3, device=generator.device).expand(*shape, 3, 3)
    material = paint(generator, style, *shape)
    window = sometimes(generator, 0.25, *shape)
    material[..., 12] = window * uniform(generator, 0.3, 1.5, *shape)
    return singles(centre, half, axes, material)


def draw_walls(generator: torch.Generator, n: int, floor: Paint, wall: Paint) -> Tensor:
    """Materials (n, 6, .) of a room: one for all walls mostly, floor and ceiling of their own."""
    one = paint(generator, wall, n, 1).expand(n, 4, -1)
    own = paint(generator, wall, n, 4)
    sides = torch.where(sometimes(generator, 0.25, n, 4, 1), own, one)
    ground = paint(generator, floor, n, 1)
    ceiling = paint(generator, Paint(0.6, 0.98, 0.02, 0.7, (0.4, 2.0), 0.0), n, 1)
    return torch.cat((sides, ground, ceiling), 1)


def interior(
    generator: torch.Generator,
    half: Tensor,
    solids: tuple[Solids, Solids],
    camera: Camera,
    material: Tensor,
    clearance: float,
) -> Scene:
    """A scene inside a room of half sizes (n, 3) around the origin, with its floor at z = 0."""
    n = len(half)
    centre = F.pad(half[:, 2:], (2, 0))
    reach = half * half.new_tensor([0.8, 0.8, 0.0])
    ceiling = half * half.new_tensor([0.0, 0.0, 1.9])
    lights = draw_lamps(generator, ceiling * 0.75 - reach, ceiling + reach)
    free = torch.full((n,), clearance, device=half.device)
    return Scene(
        cleared(solids[0], camera.position, free),
        cleared(solids[1], camera.position, free),
        centre,
        half,
        material,
        lights,
        draw_ambient(generator, n, (0.12, 0.6)),
        draw_air(generator, n, (8.0, 60.0), 0.12, 0.2),
        camera,
    )


def room(generator: torch.Generator, n: int) -> Scene:
    """Living rooms and offices, seen from anywhere inside."""
    half = torch.stack(
        (
            uniform(generator, 1.3, 2.8, n),
            uniform(generator, 1.3, 3.6, n),
            uniform(generator, 1.15, 1.6, n),
        ),
        1,
    )
    objects = draw_objects(generator, BOX_KINDS, choose(generator, ROOM_KINDS, n, NUM_FURNITURE))
    spot = uniform(generator, -1.0, 1.0, n, NUM_FURNITURE, 2)
    # Half of the furniture stands at a wall.
    axis = F.one_hot(choose(generator, torch.ones(2), n, NUM_FURNITURE), 2)
    at_wall = sometimes(generator, 0.5, n, NUM_FURNITURE, 1) & (axis > 0)
    spot = torch.where(at_wall, spot.sign(), spot)
    margin = objects.size[..., :2].amax(-1, keepdim=True)
    foot = F.pad(spot * (half[:, None, :2] - margin).clamp(min=0.1), (0, 1))
    yaw = draw_yaws(generator, 0.75, n, NUM_FURNITURE)
    furniture = place(generator, objects, foot, yaw, FURNITURE)
    boxes = join(
        [
            furniture,
            draw_things(
                generator, on_top(generator, objects, foot, yaw, NUM_THINGS), 0.04, 0.25, SMALL
            ),
            _panels(generator, half, PICTURE),
        ]
    )
    round_kind = choose(generator, HOUSEHOLD_KINDS, n, NUM_ROUND)
    rounds = draw_objects(
        generator, QUADRIC_KINDS, round_kind, uniform(generator, 0.8, 2.0, n, NUM_ROUND, 1)
    )
    round_foot = on_top(generator, objects, foot, yaw, NUM_ROUND)
    on_floor = sometimes(generator, 0.25, n, NUM_ROUND, 1)
    anywhere = F.pad(uniform(generator, -0.85, 0.85, n, NUM_ROUND, 2) * half[:, None, :2], (0, 1))
    round_foot = torch.where(on_floor, anywhere, round_foot)
    quadrics = place(generator, rounds, round_foot, degrees(generator, 0, 360, n, NUM_ROUND), SMALL)
    stand = uniform(generator, -1.0, 1.0, n, 2)
    stand = stand.sign() * stand.abs().sqrt() * 0.92 * half[:, :2]
    position = torch.cat((stand, uniform(generator, 0.7, 1.9, n, 1)), 1)
    target = torch.cat(
        (
            uniform(generator, -0.5, 0.5, n, 2) * half[:, :2] - 0.4 * stand,
            uniform(generator, 0.0, 1.5, n, 1),
        ),
        1,
    )
    yaw_camera, pitch = aim(position, target)
    camera = draw_camera(generator, position, yaw_camera, pitch.clamp(-0.15, 0.7), Lens())
    return interior(
        generator, half, (boxes, quadrics), camera, draw_walls(generator, n, FLOOR, WALL), 0.35
    )


def corridor(generator: torch.Generator, n: int) -> Scene:
    """Long rooms seen along their length, with cabinets and doors at the sides."""
    half = torch.stack(
        (
            uniform(generator, 0.75, 1.8, n),
            uniform(generator, 3.0, 13.0, n),
            uniform(generator, 1.1, 1.6, n),
        ),
        1,
    )
    kinds = weights_of(
        BOX_KINDS, shelf=2, cabinet=5, desk=1, chair=1, table=1, office_chair=1, pile=1
    )
    objects = draw_objects(generator, BOX_KINDS, choose(generator, kinds, n, NUM_FURNITURE))
    side = torch.where(sometimes(generator, 0.5, n, NUM_FURNITURE), 1.0, -1.0)
    across = (half[:, :1] - objects.size[..., 1]).clamp(min=0.2) * side
    along = uniform(generator, -0.95, 0.95, n, NUM_FURNITURE) * half[:, 1:2]
    foot = torch.stack((across, along, torch.zeros_like(along)), -1)
    yaw = -side * (math.pi / 2) + normal(generator, n, NUM_FURNITURE) * 0.04
    lamps = torch.stack(
        (torch.zeros_like(along), along.roll(1, 1), half[:, 2:] * 2.0 + along * 0.0), -1
    )
    glow = paint(generator, Paint(0.9, 1.0, 0.0, 1.0), n, NUM_FURNITURE)
    glow[..., 12] = uniform(generator, 0.5, 2.0, n, 1)
    flat = half.new_tensor([0.3, 0.6, 0.03]).expand(n, NUM_FURNITURE, 3)
    upright = torch.eye(3, device=half.device).expand(n, NUM_FURNITURE, 3, 3)
    things = on_top(generator, objects, foot, yaw, NUM_THINGS - NUM_FURNITURE)
    boxes = join(
        [
            place(generator, objects, foot, yaw, FURNITURE),
            draw_things(generator, things, 0.06, 0.3, SMALL),
            singles(lamps, flat, upright, glow),
            _panels(generator, half, PICTURE),
        ]
    )
    kind = choose(
        generator, weights_of(QUADRIC_KINDS, person=2, plant=2, can=1, lamp=1, ball=1), n, NUM_ROUND
    )
    rounds = draw_objects(
        generator, QUADRIC_KINDS, kind, uniform(generator, 0.9, 1.3, n, NUM_ROUND, 1)
    )
    spot = F.pad(uniform(generator, -0.9, 0.9, n, NUM_ROUND, 2) * half[:, None, :2], (0, 1))
    quadrics = place(generator, rounds, spot, degrees(generator, 0, 360, n, NUM_ROUND), SMALL)
    position = torch.stack(
        (
            uniform(generator, -0.6, 0.6, n) * half[:, 0],
            -uniform(generator, 0.5, 0.95, n) * half[:, 1],
            uniform(generator, 1.0, 1.8, n),
        ),
        1,
    )
    camera = draw_camera(
        generator, position, normal(generator, n) * 0.2, normal(generator, n) * 0.12 + 0.06, Lens()
    )
    return interior(
        generator, half, (boxes, quadrics), camera, draw_walls(generator, n, FLOOR, WALL), 0.4
    )
