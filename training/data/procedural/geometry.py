"""Ray against box, quadric and room, on tensors of rays and primitives.

Every primitive is a unit shape in its own coordinates, reached from camera coordinates (x right,
y down, z forward, metres) by a 3x4 matrix. A ray is (x t, y t, t): its parameter is plane depth.
Sizes: B images, P primitives, N rays of one image.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 0.05
"""Metres. Surfaces nearer than this are not seen."""

_INDEX_BITS = 6
MAX_PRIMITIVES = 1 << _INDEX_BITS
_NO_HIT = 1e9


def away_from_zero(value: Tensor) -> Tensor:
    return torch.where(value.abs() < 1e-7, 1e-7, value)


def _directions(to_local: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    """Local components of the rays (x, y, 1): three of (B, P, N)."""
    matrix = to_local.unsqueeze(-1)  # (B, P, 3, 4, 1)
    rays_x, rays_y = x.unsqueeze(1), y.unsqueeze(1)
    return [
        away_from_zero(
            matrix[:, :, i, 0] * rays_x + matrix[:, :, i, 1] * rays_y + matrix[:, :, i, 2]
        )
        for i in range(3)
    ]


def slab(origin: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Parameters at which a line enters and leaves -1 <= coordinate <= 1; 1 / its direction."""
    first, second = (-1.0 - origin) * inverse, (1.0 - origin) * inverse
    return torch.minimum(first, second), torch.maximum(first, second)


def box_span(origin: list[Tensor], direction: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Enter and leave parameters of the cube |x|, |y|, |z| <= 1; missed where enter >= leave."""
    dx, dy, dz = direction
    # One division instead of three: it is the slowest operation here.
    product = dx * dy
    inverse = 1.0 / (product * dz)
    spans = [
        slab(origin[0], inverse * dy * dz),
        slab(origin[1], inverse * dx * dz),
        slab(origin[2], inverse * product),
    ]
    enter = torch.maximum(torch.maximum(spans[0][0], spans[1][0]), spans[2][0])
    leave = torch.minimum(torch.minimum(spans[0][1], spans[1][1]), spans[2][1])
    return enter, leave


def quadric_span(
    origin: list[Tensor], direction: list[Tensor], profile: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for x^2 + y^2 + k z^2 + 2 l z <= 1 cut to |z| <= 1; profile (B, P, 2) is (k, l).

    (1, 0) is a ball, (0, 0) a cylinder, (-s^2, s) with 0 < |s| < 1 a frustum of radius 1 - s z.
    """
    k, l = profile[:, :, 0, None], profile[:, :, 1, None]
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    a = away_from_zero(dx * dx + dy * dy + k * dz * dz)
    b = ox * dx + oy * dy + (k * oz + l) * dz
    c = ox * ox + oy * oy + (k * oz + 2.0 * l) * oz - 1.0
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0.0).sqrt()
    both = 1.0 / (a * dz)
    inverse = both * dz
    first, second = (-b - root) * inverse, (-b + root) * inverse
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    # a < 0 happens inside a cone only: the line is inside on one side of one root.
    steep, away = a < 0.0, l * dz < 0.0  # away from the tip
    enter = torch.where(steep, torch.where(away, high, -_NO_HIT), low)
    leave = torch.where(steep, torch.where(away, _NO_HIT, low), high)
    cap_enter, cap_leave = slab(oz, both * a)
    enter = torch.maximum(enter, cap_enter)
    leave = torch.minimum(leave, cap_leave)
    return torch.where((discriminant < 0.0) & ~steep, _NO_HIT, enter), leave


def _nearest(enter: Tensor, leave: Tensor) -> Tensor:
    """Depth and index of the first hit in one int32: positive floats order like their bits."""
    depth = torch.where((enter < leave) & (enter > NEAR), enter, _NO_HIT)
    index = torch.arange(enter.shape[1], device=enter.device, dtype=torch.int32)[:, None]
    keys = (depth.view(torch.int32) & -MAX_PRIMITIVES) | index
    return keys.amin(1)


def _origins(to_local: Tensor) -> list[Tensor]:
    return [to_local[:, :, i, 3, None] for i in range(3)]


def intersect(
    x: Tensor, y: Tensor, boxes: Tensor, quadrics: Tensor, profile: Tensor, room: Tensor
) -> tuple[Tensor, Tensor]:
    """First surface along the rays (x, y, 1).

    x, y (B, N); boxes (B, P, 3, 4), quadrics (B, Q, 3, 4), room (B, 3, 4) to local; profile
    (B, Q, 2). Returns depth z (B, N), exact to 1e-5 of itself, and the entry hit, int64 (B, N):
    0..P-1 a box, P..P+Q-1 a quadric, then the room's faces -x, +x, -y, +y, -z, +z.
    """
    num_boxes, num_quadrics = boxes.shape[1], quadrics.shape[1]
    box_key = _nearest(*box_span(_origins(boxes), _directions(boxes, x, y)))
    quadric_key = _nearest(*quadric_span(_origins(quadrics), _directions(quadrics, x, y), profile))
    is_box = box_key < quadric_key
    key = torch.where(is_box, box_key, quadric_key)
    depth = (key & -MAX_PRIMITIVES).view(torch.float32)
    entry = (key & (MAX_PRIMITIVES - 1)) + torch.where(is_box, 0, num_boxes)

    wall_depth = torch.full_like(x, _NO_HIT)
    face = torch.zeros_like(entry)
    for i in range(3):
        direction = away_from_zero(
            room[:, i, 0, None] * x + room[:, i, 1, None] * y + room[:, i, 2, None]
        )
        leave = (torch.where(direction < 0.0, -1.0, 1.0) - room[:, i, 3, None]) / direction
        face = torch.where(leave < wall_depth, torch.where(direction < 0.0, 2 * i, 2 * i + 1), face)
        wall_depth = torch.minimum(leave, wall_depth)
    is_room = wall_depth < depth
    depth = torch.where(is_room, wall_depth, depth)
    entry = torch.where(is_room, num_boxes + num_quadrics + face, entry)
    return depth, entry.long()
