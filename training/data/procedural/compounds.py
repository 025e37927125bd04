"""From tables of parts to primitives in a scene."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.procedural.draws import log_uniform, uniform
from training.data.procedural.furniture import Kind
from training.data.procedural.scene import Paint, Solids, paint, rotation_x, rotation_z, sometimes

NUM_PARTS = 6
"""Parts of one object; shorter tables are filled with nothing."""


def _table(kinds: dict[str, Kind], device: torch.device) -> tuple[Tensor, Tensor]:
    """Parts (K, NUM_PARTS, 10) with zero size where there is none, and ranges (K, 8)."""
    parts = torch.zeros(len(kinds), NUM_PARTS, 10)
    for row, kind in enumerate(kinds.values()):
        for column, part in enumerate(kind.parts):
            parts[row, column, : len(part)] = torch.tensor(part)
    ranges = torch.tensor(
        [(*kind.width, *kind.depth, *kind.height, kind.top, kind.leafy) for kind in kinds.values()]
    )
    return parts.to(device), ranges.to(device)


def weights_of(kinds: dict[str, Kind], **weights: float) -> Tensor:
    """Weights (K,) in the order of the table; names use _ for a blank; unnamed kinds get none."""
    named = {name.replace("_", " "): weight for name, weight in weights.items()}
    unknown = named.keys() - kinds.keys()
    if unknown:
        raise KeyError(f"no such kind: {sorted(unknown)}")
    return torch.tensor([named.get(name, 0.0) for name in kinds])


@dataclass(frozen=True)
class Objects:
    """Objects before they are placed: kind and size (half width, half depth, height)."""

    kinds: dict[str, Kind]
    kind: Tensor  # (n, I), int64
    size: Tensor  # (n, I, 3)

    @property
    def top(self) -> Tensor:
        """Height (n, I) above its foot at which things can stand on an object."""
        ranges = _table(self.kinds, self.size.device)[1]
        return ranges[self.kind, 6] * self.size[..., 2]


def draw_objects(
    generator: torch.Generator, kinds: dict[str, Kind], kind: Tensor, scale: Tensor | float = 1.0
) -> Objects:
    """Objects of the given kinds (n, I) with random sizes, times scale."""
    ranges = _table(kinds, generator.device)[1][kind]  # (n, I, 8)
    low, high = ranges[..., 0:6:2], ranges[..., 1:6:2]
    draw = torch.rand(low.shape, generator=generator, device=generator.device)
    return Objects(kinds, kind, (low + (high - low) * draw) * scale)


def place(
    generator: torch.Generator, objects: Objects, foot: Tensor, yaw: Tensor, style: Paint
) -> Solids:
    """Primitives (n, I * NUM_PARTS) of objects standing at foot (n, I, 3), turned by yaw (n, I)."""
    parts = _table(objects.kinds, generator.device)[0][objects.kind]  # (n, I, 6, 10)
    shape = parts.shape[:3]
    size = objects.size[:, :, None]
    low, high = parts[..., 2], parts[..., 5]
    jitter = uniform(generator, 0.94, 1.06, *shape, 3)
    offset = torch.stack((parts[..., 0], parts[..., 1], 0.5 * (low + high)), -1) * size
    half = torch.stack((parts[..., 3], parts[..., 4], 0.5 * (high - low)), -1) * size * jitter
    later = torch.arange(NUM_PARTS, device=low.device) > 0
    missing = (high <= low) | (sometimes(generator, 0.04, *shape) & later)
    turn = rotation_z(yaw)[:, :, None]  # (n, I, 1, 3, 3)
    centre = foot[:, :, None] + (turn @ offset[..., None])[..., 0]
    centre = torch.where(missing[..., None], -1e5, centre)
    half = torch.where(missing[..., None], 1e-3, half)
    tilt, heading = torch.deg2rad(parts[..., 8]), torch.deg2rad(parts[..., 9])
    axes = turn @ rotation_z(heading) @ rotation_x(tilt)
    n, count = shape[:2]
    material = paint(generator, style, n, count, 2)
    second = sometimes(generator, 0.35, *shape).long()
    material = torch.gather(material, 2, second[..., None].expand(*shape, material.shape[-1]))
    leafy = _table(objects.kinds, generator.device)[1][objects.kind, 7] > 0
    # All but the first part of a plant, its pot or trunk, are green.
    green = (leafy[:, :, None] & (torch.arange(NUM_PARTS, device=leafy.device) > 0))[..., None]
    leaves = torch.stack(
        (
            uniform(generator, 0.03, 0.3, n, count, 1),
            uniform(generator, 0.1, 0.45, n, count, 1),
            uniform(generator, 0.01, 0.12, n, count, 1),
        ),
        -1,
    )
    leaves = leaves * log_uniform(generator, 0.4, 1.5, n, count, 1, 1)
    material[..., 0:3] = torch.where(green, leaves, material[..., 0:3])
    material[..., 4:5] = torch.where(green, 0.25 * material[..., 4:5], material[..., 4:5])
    group = torch.arange(count, device=generator.device)[None, :, None].expand(shape)
    return Solids(
        centre.flatten(1, 2),
        axes.flatten(1, 2),
        half.flatten(1, 2),
        parts[..., 6:8].flatten(1, 2),
        material.flatten(1, 2),
        group.flatten(1, 2),
    )
