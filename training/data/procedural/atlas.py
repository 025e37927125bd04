"""Textures packed for look-up at single points, with mip levels against aliasing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Vector = tuple[Tensor, Tensor, Tensor]
"""Three components, each (B, N) or broadcastable to it."""


class Atlas(NamedTuple):
    """Square textures as packed 8-bit RGB with all their mip levels, their number and side."""

    texels: Tensor  # int32
    num_textures: int
    side: int


def make_atlas(textures: Tensor) -> Atlas:
    """textures (count, 3, side, side) in [0, 1], side a power of two."""
    count, _, side, _ = textures.shape
    levels, level = [], textures
    while level.shape[-1] >= 2:
        red, green, blue = (level * 255.0).round().to(torch.int32).clamp(0, 255).unbind(1)
        levels.append((red * 65536 + green * 256 + blue).flatten())
        level = F.avg_pool2d(level, 2)
    return Atlas(torch.cat(levels), count, side)


def sample_atlas(atlas: Atlas, index: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Vector:
    """Linear RGB at (u, v) repeats, bilinear in the mip level of the footprint (repeats per px)."""
    last = atlas.side.bit_length() - 2
    level = (footprint * atlas.side).clamp(min=1.0).log2().round().clamp(max=float(last))
    side = torch.exp2(float(last + 1) - level)
    cells = side.int()
    base = (
        4 * atlas.num_textures * (atlas.side**2 - cells * cells)
    ) // 3 + index.int() * cells * cells
    x, y = u * side - 0.5, v * side - 0.5
    left, top = x.floor(), y.floor()
    fx, fy = x - left, y - top
    mask = cells - 1
    x0, y0 = left.int() & mask, top.int() & mask
    x1, y1 = (x0 + 1) & mask, (y0 + 1) & mask
    rgb = [torch.zeros_like(u) for _ in range(3)]
    for row, wy in ((y0, 1.0 - fy), (y1, fy)):
        for column, wx in ((x0, 1.0 - fx), (x1, fx)):
            texel = atlas.texels[(base + row * cells + column).long()]
            weight = wx * wy / 255.0
            rgb[0] = rgb[0] + weight * ((texel >> 16) & 255).float()
            rgb[1] = rgb[1] + weight * ((texel >> 8) & 255).float()
            rgb[2] = rgb[2] + weight * (texel & 255).float()
    return rgb[0] * rgb[0], rgb[1] * rgb[1], rgb[2] * rgb[2]
