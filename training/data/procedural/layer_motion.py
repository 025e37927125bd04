"""Where the points of a layer go between two frames: p2 = D(p1), in closed form.

D is affine about the layer's centre, or a disparity plane, plus a share of one smooth wave of the
scene. A scene is rendered as it is in the second frame, and in the first frame at D(p1): so the
flow D(p1) - p1 is exact to rounding and no motion has to be inverted.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.procedural.draws import chance, log_uniform, normal, uniform

NUM_WAVES = 3


@dataclass(frozen=True)
class Waves:
    """A smooth displacement of the whole picture, a sum of sines."""

    direction: Tensor  # (B, K, 2), amplitude in picture units
    frequency: Tensor  # (B, K, 2), radians per picture unit
    phase: Tensor  # (B, K)

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """Displacement (2, B, H, W) at points x (1, 1, W), y (1, H, 1)."""
        total = torch.zeros((), device=x.device)
        for k in range(NUM_WAVES):
            fx, fy = (self.frequency[:, k, axis, None, None] for axis in (0, 1))
            wave = torch.sin(fx * x + fy * y + self.phase[:, k, None, None])
            total = total + self.direction[:, k].T[:, :, None, None] * wave
        return total


@dataclass(frozen=True)
class LayerMotion:
    """Motions of all layers of B scenes; layer 0 is the background, later ones are nearer."""

    shift: Tensor  # (B, L, 2), translation of the centre in picture units (half widths)
    matrix: Tensor  # (B, L, 2, 2), linear part about the centre
    bend: Tensor  # (B, L), share of the waves
    tilt: Tensor  # (B, 2), perspective of the background
    waves: Waves

    def forward(
        self, layer: int, middle: Tensor, wave: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Points of the second frame, each (B, H, W), where points x, y of the first one go.

        Args:
            layer: index of the layer.
            middle: (B, 2), halfway between the layer's centres in the two frames.
            wave: `waves.at(x, y)`.
            x: (1, 1, W).
            y: (1, H, 1).
        """
        shift, m = self.shift[:, layer], self.matrix[:, layer, :, :, None, None]
        first, second = middle - shift / 2, middle + shift / 2
        dx, dy = x - first[:, 0, None, None], y - first[:, 1, None, None]
        if layer == 0:
            depth = 1 + self.tilt[:, 0, None, None] * x + self.tilt[:, 1, None, None] * y
            dx, dy = dx / depth, dy / depth
        bend = self.bend[:, layer, None, None]
        x2 = m[:, 0, 0] * dx + m[:, 0, 1] * dy + second[:, 0, None, None] + bend * wave[0]
        y2 = m[:, 1, 0] * dx + m[:, 1, 1] * dy + second[:, 1, None, None] + bend * wave[1]
        return x2, y2


def _draw_waves(generator: torch.Generator, count: int) -> Waves:
    return Waves(
        direction=normal(generator, count, NUM_WAVES, 2),
        frequency=uniform(generator, -4.0, 4.0, count, NUM_WAVES, 2),
        phase=uniform(generator, 0, 2 * math.pi, count, NUM_WAVES),
    )


def draw_layer_motion(generator: torch.Generator, count: int, layers: int) -> LayerMotion:
    """Motions of random scenes: half of them small, a fifth a wide stereo pair, the rest anything.

    Speeds are log-uniform: from 0.0004 of the width (0.1 px of 256) to a quarter of it.
    """
    device = generator.device
    mode = uniform(generator, 0.0, 1.0, count, 1)
    small = log_uniform(generator, 0.0008, 0.016, count, 1)
    speed = torch.where(mode < 0.5, small, log_uniform(generator, 0.008, 0.35, count, 1))
    each = speed * log_uniform(generator, 0.15, 1.6, count, layers)
    heading = uniform(generator, -math.pi, math.pi, count, layers)
    # Often the camera moves too: then the layers share a motion and add their own to it.
    shared = heading[:, :1] + 0.3 * normal(generator, count, layers)
    heading = torch.where(chance(generator, 0.4, count, 1), shared, heading)
    shift = each[..., None] * torch.stack([heading.cos(), heading.sin()], -1)
    camera = (chance(generator, 0.5, count, 1) * speed)[:, :, None]
    shift = shift + camera * 0.7 * normal(generator, count, 1, 2)
    turn = each * normal(generator, count, layers) * chance(generator, 0.8, count, layers)
    grow = (0.6 * each * normal(generator, count, layers)).clamp(-0.3, 0.3).exp()
    skew = 0.25 * each * normal(generator, count, layers)
    c, s = grow * turn.cos(), grow * turn.sin()
    matrix = torch.stack([torch.stack([c, skew - s], -1), torch.stack([s, c], -1)], -2)
    stereo = (mode > 0.8)[:, :, None]
    disparity, plane = _draw_stereo(generator, count, layers)
    free = chance(generator, 0.35, count, layers) * each * 0.3
    tilt = 0.15 * speed * normal(generator, count, 2) * chance(generator, 0.5, count, 1)
    return LayerMotion(
        shift=torch.where(stereo, disparity, shift).clamp(-0.55, 0.55),
        matrix=torch.where(stereo[..., None], plane, matrix),
        bend=torch.where(stereo[..., 0], torch.zeros((), device=device), free),
        tilt=torch.where(stereo[:, 0], torch.zeros((), device=device), tilt.clamp(-0.2, 0.2)),
        waves=_draw_waves(generator, count),
    )


def _draw_stereo(generator: torch.Generator, count: int, layers: int) -> tuple[Tensor, Tensor]:
    """Horizontal shifts (B, L, 2), nearer layers faster, and matrices of slanted planes."""
    device = generator.device
    far = log_uniform(generator, 0.01, 0.25, count, 1)
    step = far * log_uniform(generator, 0.05, 0.6, count, 1)
    nearer = (step * uniform(generator, 0.0, 1.0, count, layers)).cumsum(1)
    side = torch.where(chance(generator, 0.7, count, 1), -1.0, 1.0)
    shift = torch.zeros(count, layers, 2, device=device)
    shift[..., 0] = side * (far + nearer)
    slant = far[:, :, None] * 0.35 * normal(generator, count, layers, 2)
    plane = torch.eye(2, device=device).repeat(count, layers, 1, 1)
    plane[:, :, 0] += slant.clamp(-0.25, 0.25) * chance(generator, 0.7, count, layers, 1)
    return shift, plane
