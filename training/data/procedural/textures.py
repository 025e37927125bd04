"""Procedural textures with the statistics of photographs: power-law spectra, leaves, cells.

Every family returns a field (n, 3, S, S); one common step then turns fields into colours, because
the colour statistics of photographs (correlated channels, low saturation, varied contrast) do not
depend on the pattern. All fields but the gradients are periodic, so a texture may be sampled beyond
its border by wrapping.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.colours import colourise
from training.data.procedural.draws import chance, integers, log_uniform, normal, uniform

GRID = 32  # the finest jittered grid; working sizes are its multiples
Field = Callable[[torch.Generator, int, int], Tensor]


def unit_grid(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel centres (x, y) in [0, 1), shapes (1, 1, S) and (1, S, 1)."""
    line = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
    return line[None, None, :], line[None, :, None]


def standardise(field: Tensor) -> Tensor:
    """Zero mean and unit variance over the pixels of each channel; flat channels stay flat."""
    centred = field - field.mean((-2, -1), keepdim=True)
    return centred / (centred.square().mean((-2, -1), keepdim=True).sqrt() + 1e-4)


def spectral_noise(generator: torch.Generator, count: int, size: int) -> Tensor:
    """Periodic Gaussian fields of amplitude 1/f^a, a in [0.7, 2.4], some stretched one way."""
    device = generator.device
    fy = torch.fft.fftfreq(size, 1 / size, device=device)[None, :, None]
    fx = torch.fft.rfftfreq(size, 1 / size, device=device)[None, None, :]
    exponent = uniform(generator, 0.7, 2.4, count, 1, 1)
    angle = uniform(generator, 0.0, math.pi, count, 1, 1)
    stretch = log_uniform(generator, 1.0, 8.0, count, 1, 1)
    stretch = torch.where(chance(generator, 0.4, count, 1, 1), stretch, 1.0)
    along, across = fx * angle.cos() + fy * angle.sin(), fy * angle.cos() - fx * angle.sin()
    radius = (along.square() * stretch + across.square() / stretch).clamp_min(0.5).sqrt()
    amplitude = (radius**-exponent)[:, None]  # (n, 1, S, S/2+1)
    amplitude[..., 0, 0] = 0.0
    spectrum = torch.fft.rfft2(normal(generator, count, 3, size, size)) * amplitude
    return standardise(torch.fft.irfft2(spectrum, s=(size, size)))


def _blocks(size: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Position x, y in [0, 1) of a pixel in its grid cell; planes are viewed as (n, g, s, g, s)."""
    side = size // cells
    line = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side
    return line.view(1, 1, 1, 1, side), line.view(1, 1, side, 1, 1)


def _shifted(values: Tensor, dy: int, dx: int) -> Tensor:
    """Values (n, g, g) of the neighbouring cell (dy, dx), broadcastable over pixels."""
    return values.roll((-dy, -dx), (1, 2))[:, :, None, :, None]


def dead_leaves(generator: torch.Generator, count: int, size: int) -> Tensor:
    """Overlapping ellipses and boxes of five octaves of size, each with its own colour and shading.

    Every cell of five jittered grids holds one leaf; a random depth decides who hides whom. Number
    times squared size is the same for every octave, the scale-invariant law of natural images.
    """
    device = generator.device
    depth = torch.full((count, size, size), -9.0, device=device)
    shade = torch.zeros(count, size, size, device=device)
    boxy = chance(generator, 0.5, count, 1, 1, 1, 1).float()
    # Small leaves on top make foliage and gravel, large ones on top make walls of big things.
    preference = uniform(generator, -0.5, 0.2, count, 1, 1)
    for octave, grid in enumerate((2, 4, 8, 16, 32)):
        x, y = _blocks(size, grid, device)
        cx, cy = (uniform(generator, 0.0, 1.0, count, grid, grid) for _ in range(2))
        rx, ry = (log_uniform(generator, 0.25, 0.95, count, grid, grid) for _ in range(2))
        angle = uniform(generator, 0.0, math.pi, count, grid, grid)
        ux, uy = angle.cos() / rx, angle.sin() / rx
        vx, vy = -angle.sin() / ry, angle.cos() / ry
        z = uniform(generator, 0.0, 1.0, count, grid, grid) + preference * octave
        shape = (count, grid, size // grid, grid, size // grid)
        depth, shade = depth.view(shape), shade.view(shape)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                px, py = x - (_shifted(cx, dy, dx) + dx), y - (_shifted(cy, dy, dx) + dy)
                u = px * _shifted(ux, dy, dx) + py * _shifted(uy, dy, dx)
                v = px * _shifted(vx, dy, dx) + py * _shifted(vy, dy, dx)
                reach = torch.lerp(u * u + v * v, torch.maximum(u.abs(), v.abs()), boxy)
                here = _shifted(z, dy, dx) - (reach >= 1.0) * 99.0
                # Blending by 0 or 1 is exact, and several times faster than a selection.
                shade = torch.lerp(shade, u, (here > depth).float())
                depth = torch.maximum(depth, here)
        depth, shade = depth.reshape(count, size, size), shade.reshape(count, size, size)
    # The depth of a leaf is unique, so its digits also choose the colour.
    code = (depth * 977.0).remainder(1.0)
    index = (code * 64).long().clamp(0, 63).view(count, 1, -1).expand(-1, 3, -1)
    flat = normal(generator, count, 3, 64).gather(2, index).view(count, 3, size, size)
    relief = uniform(generator, -0.8, 0.8, count, 1, 1, 1)
    return flat + relief * shade[:, None] + 0.2 * spectral_noise(generator, count, size)


def cells(generator: torch.Generator, count: int, size: int) -> Tensor:
    """Voronoi cells (stones, scales, cracked ground): one colour each, lines between them."""
    fields = []
    for start, grid in zip(range(4), (4, 8, 16, 32), strict=True):
        n = len(range(start, count, 4))
        if n:
            fields.append(_cells_of_grid(generator, n, size, grid))
    return torch.cat(fields)


def _cells_of_grid(generator: torch.Generator, count: int, size: int, grid: int) -> Tensor:
    device = generator.device
    x, y = _blocks(size, grid, device)
    jitter = uniform(generator, 0.2, 1.0, count, 1, 1)
    cx, cy = (0.5 + jitter * uniform(generator, -0.5, 0.5, count, grid, grid) for _ in range(2))
    colour = uniform(generator, 0.0, 1.0, count, grid, grid)
    shape = (count, grid, size // grid, grid, size // grid)
    first = torch.full(shape, 9.0, device=device)
    second, code = first, torch.zeros(shape, device=device)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            px, py = x - (_shifted(cx, dy, dx) + dx), y - (_shifted(cy, dy, dx) + dy)
            distance = px.square() + py.square()
            code = torch.lerp(code, _shifted(colour, dy, dx), (distance < first).float())
            second = torch.minimum(second, torch.maximum(first, distance))
            first = torch.minimum(first, distance)
    first, second, code = (p.reshape(count, 1, size, size) for p in (first, second, code))
    line = torch.sigmoid((second.sqrt() - first.sqrt() - 0.08) * 25.0)
    bump = uniform(generator, -1.0, 1.0, count, 1, 1, 1) * (first.sqrt() - 0.4)
    dark = uniform(generator, -2.5, 1.5, count, 1, 1, 1)
    hues = normal(generator, count, 3, 1, 1) * 0.4
    body = (code - 0.5) * 2.5 + torch.sin(code * 40.0) * hues + bump
    return body * line + dark * (1 - line) + 0.3 * spectral_noise(generator, count, size)


def patterns(generator: torch.Generator, count: int, size: int) -> Tensor:
    """Stripes, checks, tiles, dots and wood-like bands; whole periods, so they stay tileable."""
    device = generator.device
    x, y = unit_grid(size, device)
    warp = spectral_noise(generator, count, size)
    strength = log_uniform(generator, 0.003, 0.15, count, 1, 1)
    x, y = x + strength * warp[:, 0], y + strength * warp[:, 1]
    most = max(3, size // 8)
    periods = [log_uniform(generator, 1.0, most, count, 1, 1).round() for _ in range(2)]
    tilt = integers(generator, -3, 4, count, 1, 1)
    a = torch.sin(2 * math.pi * (periods[0] * x + tilt * y))
    b = torch.sin(2 * math.pi * (periods[1] * y - tilt * x))
    sharp = log_uniform(generator, 0.7, 12.0, count, 1, 1)
    kinds = torch.stack(
        [
            torch.tanh(sharp * a),
            torch.tanh(sharp * a * b * 2),
            torch.tanh(sharp * (torch.maximum(a, b) - 0.9) * 2),
            torch.tanh(sharp * (a + b - 0.6)),
            torch.tanh(sharp * a) + torch.tanh(sharp * b),
            torch.sin(4 * a + 3 * warp[:, 2]),
        ]
    )
    kind = integers(generator, 0, len(kinds), count)
    body = kinds[kind, torch.arange(count, device=device)][:, None]
    return body * (0.4 + normal(generator, count, 3, 1, 1)) + 0.25 * warp


def gradients(generator: torch.Generator, count: int, size: int) -> Tensor:
    """Smooth surfaces, walls and skies: a quadratic ramp with a little grain."""
    x, y = unit_grid(size, generator.device)
    x, y = x[:, None] - 0.5, y[:, None] - 0.5
    k = normal(generator, 5, count, 3, 1, 1) * 0.5 + normal(generator, 5, count, 1, 1, 1)
    ramp = k[0] * x + k[1] * y + 0.8 * (k[2] * x * x + k[3] * x * y + k[4] * y * y)
    grain = log_uniform(generator, 0.02, 0.4, count, 1, 1, 1)
    return standardise(ramp) + grain * spectral_noise(generator, count, size)


def random_networks(generator: torch.Generator, count: int, size: int) -> Tensor:
    """Noise through randomly initialised convolutions that double the resolution up to the size."""
    width, side = 6, size // 16
    field = normal(generator, 1, count * width, side, side)
    keep = uniform(generator, 0.3, 1.0, count, 1, 1, 1).expand(count, width, 1, 1)
    keep = keep.reshape(1, count * width, 1, 1)
    gain = 1.0
    while side < size:
        side = 2 * side
        # Wrapped before it is enlarged, so that it stays periodic.
        padded = F.pad(field, (1, 1, 1, 1), mode="circular")
        field = F.interpolate(padded, scale_factor=2.0, mode="bilinear")[..., 2:-2, 2:-2]
        weight = normal(generator, count * width, width, 3, 3) * (1.6 / math.sqrt(9 * width))
        padded = F.pad(field, (1, 1, 1, 1), mode="circular")
        new = torch.sin(2 * F.conv2d(padded, weight, groups=count))
        field = gain * new + (1 - gain * keep) * field
        gain *= 0.55  # finer octaves add less, as in photographs
    colour = normal(generator, count * 3, width, 1, 1)
    return F.conv2d(field, colour, groups=count).view(count, 3, size, size)


FAMILIES: tuple[tuple[Field, float], ...] = (
    (spectral_noise, 0.22),
    (dead_leaves, 0.24),
    (cells, 0.12),
    (patterns, 0.16),
    (gradients, 0.12),
    (random_networks, 0.14),
)


def _split(generator: torch.Generator, count: int) -> list[int]:
    """How many of `count` textures each family makes."""
    weights = torch.tensor([w for _, w in FAMILIES], device=generator.device)
    picks = torch.multinomial(weights, count, replacement=True, generator=generator)
    return [int(n) for n in torch.bincount(picks, minlength=len(FAMILIES)).tolist()]


@torch.no_grad()
def make_textures(generator: torch.Generator, count: int, size: int) -> Tensor:
    """Random textures, float32 (count, 3, size, size) in [0, 1], on the generator's device.

    Periodic when `size` is a multiple of 32, apart from the gradients; a third are blends of two.

    Raises:
        ValueError: for a count below 1 or a size below 8.
    """
    if count < 1 or size < 8:
        raise ValueError(f"count must be >= 1 and size >= 8, got {count} and {size}")
    side = GRID * math.ceil(size / GRID)
    parts = [
        family(generator, n, side)
        for (family, _), n in zip(FAMILIES, _split(generator, count), strict=True)
        if n
    ]
    order = torch.randperm(count, generator=generator, device=generator.device)
    fields = standardise(torch.cat(parts)[order])
    blend = uniform(generator, -1.2, 0.6, count, 1, 1, 1).clamp_min(0.0)
    fields = fields * (1 - blend) + fields.roll(1, 0) * blend
    return colourise(generator, fields)[..., :size, :size].clamp(0, 1).contiguous()
