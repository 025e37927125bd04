"""Things for layered scenes: a silhouette with parts, painted, shaded, ready to be placed."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.draws import chance, integers, log_uniform, normal, uniform
from training.data.procedural.recipes import ANY, FIXED_KINDS, MAX_PARTS, recipe_tables
from training.data.procedural.shapes import REACH, RES, make_primitives

NUM_DECALS = 3  # painted patches that leave the silhouette alone
FAR = 0.5  # distances are cut here


@dataclass(frozen=True)
class Sprites:
    """Channels of every thing: signed distance, gain on its texture, paint (RGB) added to it.

    The distance is stored with FAR added, so that zeros around the picture mean far away.
    """

    picture: Tensor  # (N, 5, RES, RES) over [-REACH, REACH]

    @property
    def distance(self) -> Tensor:
        """Signed distance to the silhouette, > 0 inside, (N, 1, RES, RES)."""
        return self.picture[:, :1] - FAR

    def area(self) -> Tensor:
        """Area of each silhouette in sprite units, (N,)."""
        return (self.distance > 0).float().mean((1, 2, 3)) * (2 * REACH) ** 2


@dataclass(frozen=True)
class _Parts:
    kind: Tensor  # (N, P) row of the primitive
    inverse: Tensor  # (N, P, 2, 3), sprite to part coordinates
    scale: Tensor  # (N, P), distance unit of the part in the sprite, 0 where absent
    hole: Tensor  # (N, P), bool


def _draw_parts(generator: torch.Generator, count: int, num_primitives: int) -> _Parts:
    device = generator.device
    weights, table = recipe_tables(device)
    recipe = torch.multinomial(weights, count, replacement=True, generator=generator)
    rows = table[recipe]  # (N, 8, 7)
    wild = log_uniform(generator, 0.01, 0.2, count, 1)
    kind, x, y, rx, ry, turn, hole = rows.unbind(-1)
    present = rx > 0
    x = x + 0.5 * wild * normal(generator, count, MAX_PARTS)
    y = y + 0.5 * wild * normal(generator, count, MAX_PARTS)
    rx = rx * (wild * normal(generator, count, MAX_PARTS)).exp()
    ry = ry * (wild * normal(generator, count, MAX_PARTS)).exp()
    turn = turn + wild * normal(generator, count, MAX_PARTS)
    extra = (count, NUM_DECALS)
    x = torch.cat([x, uniform(generator, -0.7, 0.7, *extra)], 1)
    y = torch.cat([y, uniform(generator, -0.7, 0.7, *extra)], 1)
    rx = torch.cat([rx, log_uniform(generator, 0.05, 0.6, *extra)], 1).clamp_min(0.02)
    ry = torch.cat([ry, log_uniform(generator, 0.05, 0.6, *extra)], 1).clamp_min(0.02)
    turn = torch.cat([turn, 0.3 * normal(generator, *extra)], 1)
    present = torch.cat([present, chance(generator, 0.4, *extra)], 1)
    decals = torch.full(extra, float(ANY), device=device)
    kind = torch.cat([kind, decals], 1).long()
    anything = integers(generator, 0, num_primitives, *kind.shape)
    c, s = turn.cos(), turn.sin()
    inverse = torch.stack(
        [c / rx, s / rx, -(c * x + s * y) / rx, -s / ry, c / ry, (s * x - c * y) / ry], -1
    )
    return _Parts(
        kind=torch.where(kind == ANY, anything, kind),
        inverse=inverse.view(count, -1, 2, 3),
        scale=torch.minimum(rx, ry) * present,
        hole=F.pad(hole > 0, (0, NUM_DECALS)),
    )


def _line(device: torch.device) -> Tensor:
    """Sprite coordinates of pixel centres along one axis, (RES,)."""
    return (torch.arange(RES, device=device) + 0.5) * (2 * REACH / RES) - REACH


def _join(primitives: Tensor, parts: _Parts, fold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance of the union, distance to the topmost part's own edge, topmost part; (N, R, R)."""
    line = _line(fold.device)
    count = len(fold)
    y = line[None, :, None]
    x = torch.where(fold, line.abs() - 0.15, line).expand(count, 1, RES)
    shape = (count, RES, RES)
    union = torch.full(shape, -FAR, device=fold.device)
    own, top = union, torch.zeros(shape, device=fold.device)
    grid = torch.empty(*shape, 2, device=fold.device)
    absent = (parts.scale <= 0) * FAR
    hole = parts.hole.float()
    for p in range(parts.kind.shape[1]):
        m = parts.inverse[:, p, :, :, None, None] / REACH
        u = m[:, 0, 0] * x + (m[:, 0, 1] * y + m[:, 0, 2])
        v = m[:, 1, 0] * x + (m[:, 1, 1] * y + m[:, 1, 2])
        grid[..., 0], grid[..., 1] = u, v
        picture = primitives[parts.kind[:, p]]
        near = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)[:, 0]
        # Outside its picture a part is as much farther as the point is from the picture.
        near -= (torch.maximum(u.abs_(), v.abs_()) - 1).clamp_min_(0.0) * REACH
        distance = near * parts.scale[:, p, None, None] - absent[:, p, None, None]
        cut = hole[:, p, None, None]
        # Blending by 0 or 1 is exact, and several times faster than a selection.
        on_top = (distance > 0) * (1 - cut)
        top = torch.lerp(top, torch.full_like(top, p), on_top)
        if p < MAX_PARTS:
            joined = torch.maximum(union, distance)
            union = torch.lerp(joined, torch.minimum(union, -distance), cut)
            own = torch.lerp(own, distance, on_top)
    return union, own, top.long()


def _slopes(field: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of (N, R, R) along x and y per sprite unit, for any resolution R."""
    step = field.shape[-1] / (4 * REACH)
    padded = F.pad(field[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    dx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) * step
    dy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) * step
    return dx, dy


def _shade(generator: torch.Generator, own: Tensor, union: Tensor) -> Tensor:
    """Brightness of a rounded body lit from one side, about 1, (N, R, R).

    Computed at half the resolution, which also smooths the ridges of the distance.
    """
    count = len(own)
    shape = (count, 1, 1)
    width = log_uniform(generator, 0.06, 0.7, *shape)
    inside = F.avg_pool2d(torch.minimum(own, union).clamp_min(0.0), 2)
    rise = 1 - (1 - inside / width).clamp_min(0.0)
    height = width * (rise * (2 - rise)).clamp_min(1e-6).sqrt()
    dx, dy = _slopes(height)
    lx, ly = (normal(generator, *shape) * 0.6 for _ in range(2))
    ly = ly - 0.4  # light comes from above more often
    lambert = (1 - lx * dx - ly * dy) / (1 + dx * dx + dy * dy).sqrt()
    strength = uniform(generator, -0.3, 0.9, *shape).clamp_min(0.0)
    shade = (1 + strength * (lambert - 1)).clamp(0.15, 1.8)[:, None]
    return F.interpolate(shade, scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]


def make_sprites(generator: torch.Generator, count: int) -> Sprites:
    """Random things: one to eight parts, each with a paint of its own, and a few painted patches.

    Args:
        generator: source of randomness; its device is the result's.
        count: how many.
    """
    num_random = max(12, min(count, 64))
    primitives = make_primitives(generator, num_random)
    parts = _draw_parts(generator, count, FIXED_KINDS + num_random)
    fold = chance(generator, 0.12, count, 1, 1)
    union, own, top = _join(primitives, parts, fold)
    dx, dy = _slopes(union)
    union = union / (dx * dx + dy * dy).sqrt().clamp(0.5, 2.0)
    # Nothing may touch the border of the picture of a thing, or it would end in a straight edge.
    edge = REACH - _line(union.device).abs()
    room = torch.minimum(edge[:, None], edge[None, :]) * (4 * FAR / (2 * (REACH - 1))) - FAR
    union = torch.minimum(union, room).clamp(-FAR, FAR)
    shade = _shade(generator, own, union)
    paint = _paint(generator, top, parts.kind.shape[1]) * shade[:, None]
    return Sprites(torch.cat([union[:, None] + FAR, paint], 1))


def _paint(generator: torch.Generator, top: Tensor, num_parts: int) -> Tensor:
    """Gain on the texture and added colour of every pixel's part, (N, 4, R, R)."""
    count = len(top)
    base = uniform(generator, 0.05, 0.95, count, 1, 1)
    base = base + 0.12 * normal(generator, count, 1, 3)
    contrast = uniform(generator, 0.0, 0.45, count, 1, 1)
    light = normal(generator, count, num_parts, 1)
    colour = base + contrast * (light + 0.35 * normal(generator, count, num_parts, 3))
    cover = uniform(generator, -0.3, 0.8, count, 1, 1)
    cover = (cover + 0.25 * normal(generator, count, num_parts, 1)).clamp(0.0, 0.95)
    table = torch.cat([1 - cover, cover * colour.clamp(0.02, 0.98)], -1)  # (N, P, 4)
    index = top.flatten(1)[:, None].expand(-1, 4, -1)
    return table.transpose(1, 2).gather(2, index).view(count, 4, *top.shape[1:])
