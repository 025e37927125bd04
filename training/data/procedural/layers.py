"""Layered scenes: textured things in front of each other, in motion (flow) or half hidden (amodal).

A layer is a silhouette with a texture; what it covers, how far it went and what it hides are known
exactly. Edges are anti-aliased; labels belong to the topmost layer that covers half a pixel.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.backdrop import draw_backdrop, sample_backdrop
from training.data.procedural.draws import chance, integers, log_uniform, normal, uniform
from training.data.procedural.layer_motion import draw_layer_motion
from training.data.procedural.occlusion import place_object, place_occluder
from training.data.procedural.placing import (
    Layer,
    cast_shadow,
    coverage,
    make_layer,
    moved,
    over,
    picture_axes,
    sample_distance,
    sample_layer,
)
from training.data.procedural.sprites import make_sprites
from training.data.procedural.textures import make_textures
from training.data.sample import AmodalBatch, FlowBatch

MAX_THINGS = 7
NUM_OCCLUDERS = 2
MIN_TEXTURES = 6
CACHED_PIXELS = 2**19  # per plane and batch
LEAST_VISIBLE = 0.03  # share of the picture


def relight(generator: torch.Generator, picture: Tensor) -> Tensor:
    """A frame under its own light: sometimes a little brighter, sometimes lit from one side."""
    count, size = len(picture), picture.shape[-1]
    x, y = picture_axes(size, picture.device)
    k = 0.06 * normal(generator, 3, count, 1, 1, 1) * chance(generator, 0.5, 3, count, 1, 1, 1)
    return (picture * (1 + k[0] + k[1] * x[:, None] + k[2] * y[:, None])).clamp_(0.0, 1.0)


def _draw_things(
    generator: torch.Generator, count: int, textures: Tensor, layers: int
) -> tuple[list[Layer], Tensor]:
    """Things of all sizes and their middles (L, B, 2); some lie far outside the picture."""
    sprites = make_sprites(generator, count * layers)
    middle = uniform(generator, -1.0, 1.0, layers, count, 2)
    absent = chance(generator, 0.15, layers, count, 1)
    absent[0] = False
    middle = torch.where(absent, 9.0, middle)
    things = []
    for layer in range(layers):
        half = log_uniform(generator, 0.1, 1.0, count, 1)
        aspect = (0.35 * normal(generator, count)).exp()
        half = half * torch.stack([aspect, 1 / aspect], 1)
        upright = chance(generator, 0.5, count)
        angle = uniform(generator, -3.15, 3.15, count)
        angle = torch.where(upright, 0.15 * normal(generator, count), angle)
        rows = torch.arange(count, device=textures.device) + layer * count
        things.append(make_layer(generator, sprites, rows, textures, middle[layer], half, angle))
    return things, middle


def _pieces(generator: torch.Generator, count: int, size: int) -> list[int]:
    """How many pictures to render at a time: all on a GPU, as many as fit the cache on a CPU."""
    if generator.device.type != "cpu":
        return [count]
    most = max(1, CACHED_PIXELS // size**2)
    return [min(most, count - start) for start in range(0, count, most)]


@torch.no_grad()
def render_flow(generator: torch.Generator, count: int, size: int) -> FlowBatch:
    """Two frames of layered scenes with two to seven moving layers.

    Args:
        generator: source of randomness; its device is the result's.
        count: number of pairs B.
        size: side of the frames in px, a multiple of 8.

    Returns:
        The pairs; `occluded` marks pixels of frame 1 whose point is hidden in frame 2 (decided at
        the exact point, half coverage) or outside of it.
    """
    pieces = [_render_flow(generator, n, size) for n in _pieces(generator, count, size)]
    return FlowBatch(
        frame1=torch.cat([piece.frame1 for piece in pieces]),
        frame2=torch.cat([piece.frame2 for piece in pieces]),
        flow=torch.cat([piece.flow for piece in pieces]),
        occluded=torch.cat([piece.occluded for piece in pieces]),
    )


def _render_flow(generator: torch.Generator, count: int, size: int) -> FlowBatch:
    layers = int(integers(generator, 2, MAX_THINGS + 1, 1).item())
    textures = make_textures(generator, max(MIN_TEXTURES, count // 2), size)
    motion = draw_layer_motion(generator, count, layers + 1)
    things, middle = _draw_things(generator, count, textures, layers)
    things = [moved(t, motion.shift[:, i + 1] / 2) for i, t in enumerate(things)]
    backdrop = draw_backdrop(generator, count, textures)
    x, y = picture_axes(size, generator.device)
    wave = motion.waves.at(x, y)

    x2, y2 = motion.forward(0, torch.zeros_like(middle[0]), wave, x, y)
    frame1 = sample_backdrop(backdrop, x2, y2)
    frame2 = sample_backdrop(backdrop, x, y)
    target = torch.stack([x2, y2], 1)  # where every pixel of frame 1 goes
    owner = torch.zeros(count, 1, size, size, device=frame1.device)
    for i, thing in enumerate(things, start=1):
        x2, y2 = motion.forward(i, middle[i - 1], wave, x, y)
        colour, distance = sample_layer(thing, x2, y2)
        alpha = coverage(thing, distance, size)
        frame1 = over(frame1, colour, alpha, cast_shadow(thing, distance))
        mine = (alpha > 0.5).float()  # blending by 0 or 1 is exact
        target = torch.lerp(target, torch.stack([x2, y2], 1), mine)
        owner = torch.lerp(owner, torch.full_like(owner, i), mine)
        colour, distance = sample_layer(thing, x, y)
        alpha = coverage(thing, distance, size)
        frame2 = over(frame2, colour, alpha, cast_shadow(thing, distance))
    flow = (target - torch.cat([x.expand(1, size, size), y.expand(1, size, size)])) * (size / 2)
    return FlowBatch(
        frame1=relight(generator, frame1),
        frame2=relight(generator, frame2),
        flow=flow,
        occluded=_occluded(things, owner, target),
    )


def _occluded(things: list[Layer], owner: Tensor, target: Tensor) -> Tensor:
    """Whether a nearer layer, or the border, hides the point in the second frame, (B, 1, S, S)."""
    x2, y2 = target[:, 0], target[:, 1]
    hidden = (target.abs() > 1).any(1, keepdim=True)
    for i, thing in enumerate(things, start=1):
        distance = sample_distance(thing, x2, y2)
        hidden |= (distance > 0) & (owner < i)
    return hidden


@torch.no_grad()
def render_amodal(generator: torch.Generator, count: int, size: int) -> AmodalBatch:
    """Half-hidden objects: hidden share spread from 5 to 65 %, a tenth of them not hidden at all.

    Args:
        generator: source of randomness; its device is the result's.
        count: number of pictures B.
        size: side of the pictures in px, a multiple of 8.

    Returns:
        The pictures. `visible` covers at least 3 % of the picture wherever the whole object does.
    """
    pieces = [_render_amodal(generator, n, size) for n in _pieces(generator, count, size)]
    return AmodalBatch(
        image=torch.cat([piece.image for piece in pieces]),
        visible=torch.cat([piece.visible for piece in pieces]),
        amodal=torch.cat([piece.amodal for piece in pieces]),
        whole=torch.cat([piece.whole for piece in pieces]),
    )


def _render_amodal(generator: torch.Generator, count: int, size: int) -> AmodalBatch:
    device = generator.device
    textures = make_textures(generator, max(MIN_TEXTURES, count // 2), size)
    x, y = picture_axes(size, device)
    picture = sample_backdrop(draw_backdrop(generator, count, textures), x, y)
    behind, _ = _draw_things(generator, count, textures, int(integers(generator, 1, 4, 1).item()))
    for other in behind:
        colour, distance = sample_layer(other, x, y)
        alpha = coverage(other, distance, size)
        picture = over(picture, colour, alpha, cast_shadow(other, distance))

    sprites = make_sprites(generator, (1 + NUM_OCCLUDERS) * count)
    rows = torch.arange(count, device=device)
    thing = place_object(generator, sprites, rows, textures)
    colour, distance = sample_layer(thing, x, y)
    alpha = coverage(thing, distance, size)
    clear = over(picture, colour, alpha, cast_shadow(thing, distance))
    amodal = alpha > 0.5
    # The soft edge of a stretched thing is wide; on white it ends one pixel beyond the mask.
    alpha = alpha * F.max_pool2d(amodal.float(), 3, stride=1, padding=1)
    whole = torch.lerp(torch.ones_like(colour), colour, alpha)

    hidden = uniform(generator, 0.03, 0.68, NUM_OCCLUDERS, count)
    # The first occluder is there in nine pictures of ten, others are fewer and hide less.
    hidden[0] *= chance(generator, 0.9, count)
    hidden[1:] *= 0.3 * chance(generator, 0.3, NUM_OCCLUDERS - 1, count) * (hidden[0] > 0)
    picture, visible = clear, amodal
    for i, share in enumerate(hidden, start=1):
        front = place_occluder(generator, sprites, rows + i * count, textures, thing, share)
        colour, distance = sample_layer(front, x, y)
        present = (share > 0)[:, None, None, None]
        cover = coverage(front, distance, size) * present
        light = torch.where(present, cast_shadow(front, distance), 1.0)
        picture = over(picture, colour, cover, light)
        visible = visible & (cover < 0.5)
    # Occluders that leave too little to recognise are taken away.
    keep = visible.float().mean((1, 2, 3), keepdim=True) >= LEAST_VISIBLE
    return AmodalBatch(
        image=torch.where(keep, picture, clear).clamp_(0.0, 1.0),
        visible=torch.where(keep, visible, amodal).float(),
        amodal=amodal.float(),
        whole=whole.clamp_(0.0, 1.0),
    )
