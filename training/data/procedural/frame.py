"""Pictures of a batch of scenes: a camera's view, its rays, the steps from ray to pixel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.atlas import Atlas
from training.data.procedural.geometry import intersect
from training.data.procedural.scene import Camera, Scene, Solids
from training.data.procedural.shading import Hit, View, describe, occluders, occlusion, shade


def _to_local(centre: Tensor, axes: Tensor, half: Tensor, camera: Camera) -> Tensor:
    """(n, P, 3, 4) from camera coordinates to the unit shape."""
    turn = axes.transpose(-1, -2) @ camera.rotation.transpose(-1, -2)[:, None]
    shift = axes.transpose(-1, -2) @ (camera.position[:, None] - centre)[..., None]
    return torch.cat((turn, shift), -1) / half[..., None]


def _surfaces(solids: Solids, to_local: Tensor, is_box: bool) -> Tensor:
    one = torch.ones_like(solids.half[..., :1])
    return torch.cat(
        (
            to_local.flatten(2),
            one * float(is_box),
            solids.profile,
            one,
            solids.half,
            solids.material,
        ),
        -1,
    )


def view_of(scene: Scene) -> View:
    """The scene in its camera's coordinates."""
    camera = scene.camera
    boxes = _to_local(scene.boxes.centre, scene.boxes.axes, scene.boxes.half, camera)
    quadrics = _to_local(scene.quadrics.centre, scene.quadrics.axes, scene.quadrics.half, camera)
    n = len(camera.position)
    upright = torch.eye(3, device=boxes.device).expand(n, 1, 3, 3)
    room = _to_local(scene.room_centre[:, None], upright, scene.room_half[:, None], camera)
    faces = scene.room_material.shape[1]
    walls = Solids(
        scene.room_centre[:, None].expand(n, faces, 3),
        upright.expand(n, faces, 3, 3),
        scene.room_half[:, None].expand(n, faces, 3),
        boxes.new_zeros(n, faces, 2),
        scene.room_material,
        torch.zeros(n, faces, dtype=torch.int64, device=boxes.device),
    )
    wall_rows = _surfaces(walls, room.expand(n, faces, 3, 4), True)
    wall_rows[..., 15] = -1.0  # a room is seen from inside
    rows = torch.cat(
        (
            _surfaces(scene.boxes, boxes, True),
            _surfaces(scene.quadrics, quadrics, False),
            wall_rows,
        ),
        1,
    )
    place = (scene.lights[..., :3] - camera.position[:, None]) @ camera.rotation.transpose(-1, -2)
    lamp, radius = place[:, 0], scene.air[:, 1]
    return View(
        occluders(boxes, scene.boxes.half, scene.boxes.profile, lamp, radius),
        occluders(quadrics, scene.quadrics.half, scene.quadrics.profile, lamp, radius),
        room[:, 0],
        scene.room_half,
        rows.transpose(1, 2).contiguous(),
        torch.cat((place, scene.lights[..., 3:]), -1),
        torch.cat((camera.rotation[:, :, 2], scene.ambient), -1),
        scene.air,
    )


def pixel_rays(camera: Camera, size: int) -> tuple[Tensor, Tensor]:
    """x and y (n, size^2) of the rays (x, y, 1) through the middles of the pixels, row by row."""
    line = (torch.arange(size, device=camera.focal.device) + 0.5) / size - 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    focal = camera.focal[:, None]
    return (x.flatten() - camera.centre[:, :1]) / focal, (
        y.flatten() - camera.centre[:, 1:]
    ) / focal


class Frame(NamedTuple):
    """One picture of every scene."""

    image: Tensor  # (n, 3, S, S) in [0, 1]
    depth: Tensor  # (n, S^2), z in metres, sky and horizon not yet cut at the far limit
    entry: Tensor  # (n, S^2), int64, what was hit
    exposure: Tensor  # (n, 1)


def _smoothed_edges(image: Tensor, entry: Tensor) -> Tensor:
    """Blurs the pixels at the borders of surfaces: a cheap stand-in for several rays a pixel."""
    around = F.pad(entry.float()[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    middle = around[:, 1:-1, 1:-1]
    edge = (
        (middle != around[:, 1:-1, :-2])
        | (middle != around[:, 1:-1, 2:])
        | (middle != around[:, :-2, 1:-1])
        | (middle != around[:, 2:, 1:-1])
    )
    wide = F.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = 0.25 * wide[:, :, :-2] + 0.5 * wide[:, :, 1:-1] + 0.25 * wide[:, :, 2:]
    soft = 0.25 * rows[..., :-2] + 0.5 * rows[..., 1:-1] + 0.25 * rows[..., 2:]
    return torch.where(edge[:, None], soft, image)


def develop(
    colour: tuple[Tensor, Tensor, Tensor], entry: Tensor, key: Tensor, exposure: Tensor
) -> tuple[Tensor, Tensor]:
    """Picture (n, 3, S, S) in [0, 1] of linear colours, and the exposure (n, 1) used.

    key (n, 1) is the mean brightness aimed at; exposure (n, 1), where positive, is used instead.
    """
    n, size = len(entry), int(entry.shape[1] ** 0.5)
    level = (
        sum((c.clamp(max=2.0).mean(1, keepdim=True) for c in colour), torch.zeros_like(key)) / 3.0
    )
    exposure = torch.where(exposure > 0.0, exposure, key / (level + 1e-3))
    exposed = [1.0 - torch.exp(-1.4 * exposure * c.clamp(min=0.0)) for c in colour]
    image = torch.stack([(c + 1e-5) ** (1.0 / 2.2) for c in exposed], 1)
    image = image + 0.4 * (image * image * (3.0 - 2.0 * image) - image)  # a camera's contrast
    image = _smoothed_edges(image.view(n, 3, size, size), entry.view(n, size, size))
    return image.clamp(0.0, 1.0), exposure


@dataclass(frozen=True)
class _Stages:
    """The steps of a picture, as they are or compiled."""

    intersect: Callable[..., tuple[Tensor, Tensor]]
    describe: Callable[..., Hit]
    occlusion: Callable[..., tuple[Tensor, Tensor]]
    shade: Callable[..., tuple[Tensor, Tensor, Tensor]]
    develop: Callable[..., tuple[Tensor, Tensor]]


@functools.cache
def _stages(compiled: bool) -> _Stages:
    """Compiled apart: in the loops over primitives everything is to be recomputed, never stored,
    between them nothing is to be recomputed."""
    if not compiled:
        return _Stages(intersect, describe, occlusion, shade, develop)
    inline: dict[str, str | int | bool | Callable[..., Any]] = {
        "realize_opcount_threshold": 100000,
        "realize_reads_threshold": 100000,
        "realize_acc_reads_threshold": 100000,
        "max_fusion_size": 1024,
    }
    return _Stages(
        torch.compile(intersect, dynamic=False, options=inline),
        torch.compile(describe, dynamic=False),
        torch.compile(occlusion, dynamic=False, options=inline),
        torch.compile(shade, dynamic=False),
        torch.compile(develop, dynamic=False),
    )


def cast(scene: Scene, x: Tensor, y: Tensor, compiled: bool) -> tuple[Tensor, Tensor]:
    """Depth and entry (n, N) that rays (x, y, 1) of the scene's camera meet, see `intersect`."""
    view = view_of(scene)
    return _stages(compiled).intersect(x, y, *view.shapes)


def draw_frame(
    scene: Scene, atlas: Atlas, size: int, key: Tensor, exposure: Tensor, compiled: bool
) -> Frame:
    """Casts, shades and exposes one picture of every scene; key and exposure as in `develop`."""
    stages, view = _stages(compiled), view_of(scene)
    x, y = pixel_rays(scene.camera, size)
    pixel = 1.0 / (size * scene.camera.focal[:, None])
    depth, entry = stages.intersect(x, y, *view.shapes)
    hit = stages.describe(view, x, y, depth, entry)
    box_chord, box_near = stages.occlusion(view, False, hit)
    chord, near = stages.occlusion(view, True, hit)
    colour = stages.shade(view, atlas, hit, chord + box_chord, near + box_near, pixel)
    image, exposure = stages.develop(colour, entry, key, exposure)
    return Frame(image, depth, entry, exposure)
