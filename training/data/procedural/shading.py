"""Colour of ray hits: texture, soft lights, shadow of one of them, contact darkening, fog.

Everything is in camera coordinates of one view and written component by component, so that a
compiler can fuse it into a few loops; only the surface that was hit is shaded.
Sizes: B images, P primitives, E entries (primitives and the six room faces), N rays, L lights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.data.procedural.atlas import Atlas, Vector, sample_atlas
from training.data.procedural.geometry import away_from_zero, box_span, quadric_span

SURFACE_CHANNELS = 33
"""Rows of a surface table: 12 to_local, is_box, k, l, side, half 3, then the 14 of a material."""

MATERIAL_CHANNELS = 14
"""Linear colour 3, texture, texture weight, texture contrast, repeats per metre in u and v, offset
u, offset v, specular, gloss, emission, sky."""


class Occluders(NamedTuple):
    """Primitives of one sort as seen from a light and from points near them."""

    to_local: Tensor  # (B, P, 3, 4), camera coordinates to unit shape
    light: Tensor  # (B, P, 3), the main light in local coordinates
    half: Tensor  # (B, P, 3), metres
    scaled: Tensor  # (B, P, 3, 3), rotation of to_local times half^2
    bulk: Tensor  # (B, P), 0..1, how much sky a thing of its thickness hides
    profile: Tensor  # (B, P, 2)


class View(NamedTuple):
    """A batch of scenes as one camera sees them. to_local matrices map camera to unit shape."""

    boxes: Occluders
    quadrics: Occluders
    room: Tensor  # (B, 3, 4)
    room_half: Tensor  # (B, 3)
    surfaces: Tensor  # (B, SURFACE_CHANNELS, E)
    lights: Tensor  # (B, L, 7): position, colour, reach; the first one casts shadows
    ambient: Tensor  # (B, 9): up, colour from above, colour from below
    air: Tensor  # (B, 6): shadow 1/m, contact radius m, contact, fog 1/m, far m, corners

    @property
    def shapes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `intersect` takes after the rays."""
        return self.boxes.to_local, self.quadrics.to_local, self.quadrics.profile, self.room


def _rows(matrix: Tensor, v: Vector) -> Vector:
    """Rotation part of (B, P, 3, 4) times vectors (B, N): each (B, P, N)."""
    m = matrix.unsqueeze(-1)
    x, y, z = (component.unsqueeze(1) for component in v)
    return (
        m[:, :, 0, 0] * x + m[:, :, 0, 1] * y + m[:, :, 0, 2] * z,
        m[:, :, 1, 0] * x + m[:, :, 1, 1] * y + m[:, :, 1, 2] * z,
        m[:, :, 2, 0] * x + m[:, :, 2, 1] * y + m[:, :, 2, 2] * z,
    )


def _dot(a: Vector, b: Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _normalised(v: Vector) -> Vector:
    scale = (_dot(v, v) + 1e-12).rsqrt()
    return v[0] * scale, v[1] * scale, v[2] * scale


class Hit(NamedTuple):
    """What was hit: point and normal in the camera's frame, texture place, its material rows."""

    point: Vector
    normal: Vector
    u: Tensor
    v: Tensor
    material: list[Tensor]
    entry: Tensor  # as float, which compares faster


def occluders(
    to_local: Tensor, half: Tensor, profile: Tensor, light: Tensor, radius: Tensor
) -> Occluders:
    """What `occlusion` needs of primitives (B, P, 3, 4) for a light (B, 3) and a contact radius
    (B,), worked out once, not at every ray."""
    origin = (to_local[..., :3] @ light[:, None, :, None])[..., 0] + to_local[..., 3]
    bulk = (half.amin(2) / radius[:, None] * 1.5).clamp(max=1.0)
    return Occluders(
        to_local, origin, half, to_local[..., :3] * half[..., None].square(), bulk, profile
    )


def occlusion(view: View, quadric: bool, hit: Hit) -> tuple[Tensor, Tensor]:
    """Metres of material between each point and the main light, and nearness of other things."""
    things = view.quadrics if quadric else view.boxes
    first = view.boxes.half.shape[1] if quadric else 0
    light, point = view.lights[:, 0, :, None], hit.point
    away = (point[0] - light[:, 0], point[1] - light[:, 1], point[2] - light[:, 2])
    distance = (_dot(away, away) + 1e-9).sqrt().unsqueeze(1)
    direction = [away_from_zero(d) for d in _rows(things.to_local, away)]
    origin = [things.light[:, :, i, None] for i in range(3)]
    if quadric:
        enter, leave = quadric_span(origin, direction, things.profile)
    else:
        enter, leave = box_span(origin, direction)
    end = 1.0 - 0.02 * view.air[:, 1, None, None] / distance
    chord = (torch.minimum(leave, end) - enter.clamp(min=0.0)).clamp(min=0.0) * distance

    normal = _rows(things.scaled, hit.normal)
    gap_squared, facing = torch.full_like(distance, 1e-8), torch.zeros_like(distance)
    for i in range(3):
        position = origin[i] + direction[i]
        gap = position.clamp(-1.0, 1.0) - position
        gap_metres = gap * things.half[:, :, i, None]
        gap_squared = gap_squared + gap_metres * gap_metres
        facing = facing + gap * normal[i]
    length = gap_squared.sqrt()
    # bulk (1 + cosine) / 2 / (1 + gap^2 / radius^2)^2 in one division
    fall = 1.0 + gap_squared * (1.0 / view.air[:, 1, None, None].square())
    nearness = things.bulk[:, :, None] * (length + facing) * (0.5 / (length * fall * fall))
    own = torch.arange(first, first + things.half.shape[1], device=point[0].device)
    nearness = torch.where(hit.entry.unsqueeze(1) == own.float()[:, None], 0.0, nearness)
    return chord.sum(1), nearness.sum(1)


def _corner(view: View, point: Vector, normal: Vector) -> Tensor:
    """Nearness of the walls, floor and ceiling."""
    total = torch.zeros_like(point[0])
    for i in range(3):
        row = view.room[:, i, :, None]
        half = view.room_half[:, i, None]
        position = row[:, 0] * point[0] + row[:, 1] * point[1] + row[:, 2] * point[2] + row[:, 3]
        along = (row[:, 0] * normal[0] + row[:, 1] * normal[1] + row[:, 2] * normal[2]) * half
        for side in (-1.0, 1.0):
            gap = (1.0 - side * position) * half / (2.0 * view.air[:, 1, None])
            total = total + (0.5 + 0.5 * side * along) / (1.0 + gap * gap)
    return total * view.air[:, 5, None]


def describe(view: View, x: Tensor, y: Tensor, depth: Tensor, entry: Tensor) -> Hit:
    """Gathers the row of the surface that was hit and finds its normal and texture coordinates."""
    c = [torch.gather(view.surfaces[:, i], 1, entry) for i in range(SURFACE_CHANNELS)]
    point = (x * depth, y * depth, depth)
    local = [
        c[4 * i] * point[0] + c[4 * i + 1] * point[1] + c[4 * i + 2] * point[2] + c[4 * i + 3]
        for i in range(3)
    ]
    is_box, k, l, side = c[12] > 0.5, c[13], c[14], c[15]
    half = c[16:19]
    size = [component.abs() for component in local]
    on_x = is_box & (size[0] >= size[1]) & (size[0] >= size[2])
    on_y = is_box & ~on_x & (size[1] >= size[2])
    on_z = (is_box & ~on_x & ~on_y) | (~is_box & (size[2] > 0.9995))
    lateral = ~(on_x | on_y | on_z)
    gx = torch.where(on_x | lateral, local[0], 0.0)
    gy = torch.where(on_y | lateral, local[1], 0.0)
    gz = torch.where(on_z, local[2], torch.where(lateral, k * local[2] + l, 0.0))
    normal = _normalised(
        (
            (c[0] * gx + c[4] * gy + c[8] * gz) * side,
            (c[1] * gx + c[5] * gy + c[9] * gz) * side,
            (c[2] * gx + c[6] * gy + c[10] * gz) * side,
        )
    )
    metric = [local[i] * half[i] for i in range(3)]
    around = torch.atan2(local[1], local[0]) * 0.5 * (half[0] + half[1])
    u = torch.where(lateral, around, torch.where(on_x, metric[1], metric[0]))
    v = torch.where(on_z, metric[1], metric[2])
    return Hit(point, normal, u, v, c[19:], entry.float())


def _lit(view: View, hit: Hit, albedo: Vector, visible: Tensor, open_air: Tensor) -> Vector:
    """Light that leaves each point towards the camera, before fog."""
    normal, point, m = hit.normal, hit.point, hit.material
    to_eye = _normalised((-point[0], -point[1], -point[2]))
    up = (view.ambient[:, 0, None], view.ambient[:, 1, None], view.ambient[:, 2, None])
    sky = 0.5 + 0.5 * _dot(normal, up)
    facing = _dot(normal, to_eye).clamp(0.0, 1.0)
    fresnel = m[10] * (0.3 + 0.7 * (1.0 - facing) ** 4)
    mirrored = 0.5 + 0.5 * (2.0 * _dot(normal, to_eye) * _dot(normal, up) - _dot(to_eye, up))
    colour = []
    for i in range(3):
        above, below = view.ambient[:, 3 + i, None], view.ambient[:, 6 + i, None]
        diffuse = albedo[i] * (below + (above - below) * sky)
        colour.append((diffuse + fresnel * (below + (above - below) * mirrored)) * open_air)
    for j in range(view.lights.shape[1]):
        light = view.lights[:, j, :, None]
        towards = (light[:, 0] - point[0], light[:, 1] - point[1], light[:, 2] - point[2])
        fall = light[:, 6] ** 2 / (light[:, 6] ** 2 + _dot(towards, towards))
        towards = _normalised(towards)
        # Wrapped cosine: a lamp has an extent, and light comes back from the walls.
        cosine = (0.85 * _dot(normal, towards) + 0.15).clamp(min=0.0)
        halfway = _normalised(
            (towards[0] + to_eye[0], towards[1] + to_eye[1], towards[2] + to_eye[2])
        )
        shine = _dot(normal, halfway).clamp(1e-4, 1.0) ** m[11] * m[10] * m[11] * 0.04
        amount = fall * (visible if j == 0 else 0.3 + 0.7 * open_air)
        for i in range(3):
            colour[i] = colour[i] + amount * light[:, 3 + i] * (albedo[i] * cosine + shine)
    return colour[0], colour[1], colour[2]


def shade(
    view: View, atlas: Atlas, hit: Hit, chord: Tensor, nearness: Tensor, pixel: Tensor
) -> Vector:
    """Linear RGB (each (B, N)) of the hits.

    chord and nearness (B, N) are the sums of `occlusion`; pixel (B, 1) is the width of a pixel at
    depth 1.
    """
    m, depth = hit.material, hit.point[2]
    slant = _dot(hit.normal, _normalised(hit.point)).abs().clamp(min=0.15)
    footprint = pixel * depth * torch.maximum(m[6], m[7]) / slant.sqrt()
    texture = sample_atlas(atlas, m[3], hit.u * m[6] + m[8], hit.v * m[7] + m[9], footprint)
    bright = (texture[0] + texture[1] + texture[2]) / 3.0
    relief = (1.0 + m[5] * (bright - 0.25) * 2.0).clamp(0.1, 2.5)
    weight = m[4]
    albedo = [(m[i] * (1.0 - weight) + texture[i] * weight) * relief for i in range(3)]

    visible = torch.exp(-chord * view.air[:, 0, None])
    crowded = nearness * view.air[:, 2, None] + _corner(view, hit.point, hit.normal)
    lit = _lit(view, hit, (albedo[0], albedo[1], albedo[2]), visible, torch.exp(-crowded))

    glow, is_sky = m[12], m[13]
    fog = (1.0 - torch.exp(-depth * view.air[:, 3, None])) * (1.0 - is_sky)
    colour = []
    for i in range(3):
        shaded = lit[i] * (1.0 - is_sky) + albedo[i] * glow
        colour.append(shaded + (view.ambient[:, 3 + i, None] * 1.2 - shaded) * fog)
    return colour[0], colour[1], colour[2]
