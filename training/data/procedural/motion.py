"""What moves between two frames, and the exact optical flow that follows from it.

A point seen in the first frame moves with its thing, is seen by the moved camera, and is occluded
if a second ray to where it should be meets something nearer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.data.procedural.draws import log_uniform, normal, uniform
from training.data.procedural.frame import cast, pixel_rays
from training.data.procedural.geometry import NEAR
from training.data.procedural.scene import Camera, Scene, Solids, choose, sometimes

MODES: dict[str, tuple[float, tuple[float, float, float], float, tuple[float, float], float]] = {
    "drive": (0.3, (0.1, 0.03, 1.0), 0.12, (0.004, 0.1), 0.4),
    "stereo": (0.2, (1.0, 0.0, 0.0), 0.0, (0.01, 0.1), 0.0),
    "hand": (0.3, (0.6, 0.4, 0.6), 0.5, (0.0015, 0.06), 0.35),
    "leap": (0.1, (1.0, 0.5, 1.0), 0.6, (0.04, 0.15), 0.4),
    "still": (0.1, (0.1, 0.1, 0.1), 0.1, (0.0005, 0.004), 0.6),
}
"""Share of pairs, spread of the camera's step along right, down and forward, spread of its rotation
relative to the step, range of the typical flow in widths, and probability that a thing moves."""

_PROBE = 12  # side of the coarse picture on which a motion is scaled to the flow wanted


@dataclass(frozen=True)
class RigidMotion:
    """Things turn by (n, G, 3, 3) around pivot (n, G, 3) and move by shift (n, G, 3)."""

    turn: Tensor
    pivot: Tensor
    shift: Tensor

    def apply(self, solids: Solids) -> Solids:
        """The primitives after the motion of their group."""
        rows = torch.arange(len(solids.group), device=solids.group.device)[:, None]
        turn, pivot = self.turn[rows, solids.group], self.pivot[rows, solids.group]
        moved = (turn @ (solids.centre - pivot)[..., None])[..., 0] + pivot
        return replace(
            solids, centre=moved + self.shift[rows, solids.group], axes=turn @ solids.axes
        )


@dataclass(frozen=True)
class Motion:
    """From the first frame to the second one."""

    boxes: RigidMotion
    quadrics: RigidMotion
    camera: Camera

    def apply(self, scene: Scene) -> Scene:
        """The scene of the second frame."""
        return replace(
            scene,
            boxes=self.boxes.apply(scene.boxes),
            quadrics=self.quadrics.apply(scene.quadrics),
            camera=self.camera,
        )


def rotation(vector: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) around vector (..., 3) by its length in radians (Rodrigues)."""
    angle = vector.norm(dim=-1).clamp(min=1e-9)[..., None, None]
    x, y, z = (vector / angle[..., 0]).unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).reshape(*x.shape, 3, 3)
    identity = torch.eye(3, device=vector.device)
    return identity + angle.sin() * skew + (1.0 - angle.cos()) * (skew @ skew)


def _stepped(camera: Camera, step: Tensor, turn: Tensor) -> Camera:
    """The camera moved by step (n, 3) metres and turned by turn (n, 3) radians, in its own axes."""
    position = camera.position + (camera.rotation.transpose(-1, -2) @ step[..., None])[..., 0]
    return replace(camera, position=position, rotation=rotation(turn) @ camera.rotation)


def _pivots(solids: Solids) -> Tensor:
    """A point (n, G, 3) of every group; primitives that are buried do not count."""
    n, count = solids.group.shape
    start = solids.centre.new_full((n, count, 3), -1e5)
    return start.scatter_reduce(
        1, solids.group[..., None].expand(n, count, 3), solids.centre, "amax"
    )


def _thing_motion(
    generator: torch.Generator, solids: Solids, camera: Camera, flow: Tensor, moving: Tensor
) -> RigidMotion:
    """Motions of a share `moving` (n, 1) of the groups that look about as large as flow (n, 1)."""
    pivot = _pivots(solids)
    n, count = pivot.shape[:2]
    distance = (pivot - camera.position[:, None]).norm(dim=-1).clamp(max=100.0)
    active = torch.rand((n, count), generator=generator, device=flow.device) < moving
    # Faster than a quarter of the picture, a thing is gone before it could be found.
    seen = (flow * log_uniform(generator, 0.3, 3.0, n, count)).clamp(max=0.25)
    length = seen * distance / camera.focal[:, None]
    direction = normal(generator, n, count, 3)
    direction = direction / direction.norm(dim=-1, keepdim=True).clamp(min=1e-3)
    shift = direction * (length * active)[..., None]
    axis = normal(generator, n, count, 3) * flow.new_tensor([0.4, 0.4, 1.0])
    angle = (flow * 4.0).clamp(max=0.4) * active
    return RigidMotion(rotation(axis * angle[..., None]), pivot, shift)


def _still(motion: RigidMotion) -> RigidMotion:
    identity = torch.eye(3, device=motion.turn.device).expand_as(motion.turn)
    return replace(motion, turn=identity, shift=torch.zeros_like(motion.shift))


def draw_motion(generator: torch.Generator, scene: Scene) -> Motion:
    """A random motion; its typical flow is drawn first and the camera's step scaled to give it."""
    device, n = generator.device, len(scene.room_half)
    mode = choose(generator, torch.tensor([m[0] for m in MODES.values()]), n)
    spread = torch.tensor([m[1] for m in MODES.values()], device=device)[mode]
    turning = torch.tensor([m[2] for m in MODES.values()], device=device)[mode]
    low, high = torch.tensor([m[3] for m in MODES.values()], device=device).log()[mode].unbind(1)
    moving = torch.tensor([m[4] for m in MODES.values()], device=device)[mode][:, None]
    target = (low + (high - low) * uniform(generator, 0.0, 1.0, n)).exp()[:, None]

    boxes = _thing_motion(generator, scene.boxes, scene.camera, target, moving)
    quadrics = _thing_motion(generator, scene.quadrics, scene.camera, target, moving)
    direction = normal(generator, n, 3) * spread
    direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-3)
    turn = normal(generator, n, 3) * _turn_spread(turning) * target
    # Forward steps are to be towards the scene more often than away from it.
    backward = (direction[:, 2:] < 0.0) & sometimes(generator, 0.6, n, 1)
    direction = torch.where(backward, -direction, direction)

    depth, entry = cast(scene, *pixel_rays(scene.camera, _PROBE), False)
    trial = 0.02 * depth.median(dim=1, keepdim=True).values
    still = Motion(
        _still(boxes), _still(quadrics), _stepped(scene.camera, direction * trial, turn * 0.0)
    )
    flow, _ = project(scene.camera, still, _PROBE, depth, entry, scene)
    typical = flow.norm(dim=1).median(dim=1, keepdim=True).values / _PROBE
    scale = (target / (typical + 1e-5)).clamp(max=15.0)
    # Nobody steps through what is in front of him.
    nearest = depth.amin(1, keepdim=True)
    step = direction * torch.minimum(trial * scale, 0.2 * nearest + 0.1 * trial)
    return Motion(boxes, quadrics, _stepped(scene.camera, step, turn))


def _turn_spread(turning: Tensor) -> Tensor:
    """Spread (n, 3) of rotations around right, down and forward for a relative amount (n,)."""
    return turning[:, None] * turning.new_tensor([0.7, 1.0, 0.6])


def _combined(
    camera1: Camera, camera2: Camera, motion: RigidMotion, group: Tensor
) -> tuple[Tensor, Tensor]:
    """Matrices (n, P, 3, 3) and vectors (n, P, 3): camera coordinates in frame 1 to frame 2."""
    rows = torch.arange(len(group), device=group.device)[:, None]
    turn, pivot = motion.turn[rows, group], motion.pivot[rows, group]
    shift = motion.shift[rows, group]
    after = camera2.rotation[:, None]
    matrix = after @ turn @ camera1.rotation.transpose(-1, -2)[:, None]
    # Written with differences of nearby points: a pivot may be far away.
    lever = camera1.position[:, None] - pivot
    bent = ((turn - torch.eye(3, device=turn.device)) @ lever[..., None])[..., 0]
    offset = bent + shift + (camera1.position - camera2.position)[:, None]
    return matrix, (after @ offset[..., None])[..., 0]


def project(
    camera1: Camera,
    motion: Motion,
    size: int,
    depth: Tensor,
    entry: Tensor,
    scene: Scene,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Flow (n, 2, N) in px of a picture of the given side, and depth (n, N) in the second frame."""
    camera2 = motion.camera
    n, faces = len(depth), scene.room_material.shape[1]
    fixed = torch.eye(3, device=depth.device).expand(n, 1, 3, 3)
    nowhere = torch.zeros(n, 1, 3, device=depth.device)
    room = RigidMotion(fixed, nowhere, nowhere)
    room_group = torch.zeros(n, faces, dtype=torch.int64, device=depth.device)
    parts = [
        _combined(camera1, camera2, motion.boxes, scene.boxes.group),
        _combined(camera1, camera2, motion.quadrics, scene.quadrics.group),
        _combined(camera1, camera2, room, room_group),
    ]
    matrix = torch.cat([part[0] for part in parts], 1).flatten(2)
    offset = torch.cat([part[1] for part in parts], 1)
    table = torch.cat((matrix, offset), -1).transpose(1, 2)  # (n, 12, E)
    x, y = pixel_rays(camera1, size)
    return _carrier(compiled)(table, entry, x, y, depth, size * camera1.focal[:, None])


def _carry(
    table: Tensor, entry: Tensor, x: Tensor, y: Tensor, depth: Tensor, width: Tensor
) -> tuple[Tensor, Tensor]:
    c = [torch.gather(table[:, i], 1, entry) for i in range(12)]
    point = (x * depth, y * depth, depth)
    moved = [
        c[3 * i] * point[0] + c[3 * i + 1] * point[1] + c[3 * i + 2] * point[2] + c[9 + i]
        for i in range(3)
    ]
    forward = moved[2].clamp(min=NEAR)
    flow = torch.stack(((moved[0] / forward - x) * width, (moved[1] / forward - y) * width), 1)
    return flow, moved[2]


@functools.cache
def _carrier(compiled: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(_carry, dynamic=False) if compiled else _carry


def flow_between(
    first: Scene,
    second: Scene,
    motion: Motion,
    size: int,
    depth: Tensor,
    entry: Tensor,
    compiled: bool,
) -> tuple[Tensor, Tensor]:
    """Flow (n, 2, S^2) in px of what the first frame saw at depth and entry (n, S^2), and occluded
    (n, S^2), bool: hidden, behind the camera or outside the picture in the second frame."""
    flow, forward = project(first.camera, motion, size, depth, entry, first, compiled)
    flow = flow.clamp(-4.0 * size, 4.0 * size)
    x, y = pixel_rays(first.camera, size)
    width = size * first.camera.focal[:, None]
    x2, y2 = x + flow[:, 0] / width, y + flow[:, 1] / width
    seen, _ = cast(second, x2, y2, compiled)
    column = (x2 * first.camera.focal[:, None] + first.camera.centre[:, :1]).abs()
    row = (y2 * first.camera.focal[:, None] + first.camera.centre[:, 1:]).abs()
    outside = (column > 0.5) | (row > 0.5) | (forward < NEAR)
    return flow, outside | (seen < forward * (1.0 - 2e-3))
