"""Three-dimensional scenes by ray casting: pictures with exact depth, frame pairs with exact flow.

Scenes of all families become one batch, drawn by the steps in `frame`. Compiled, a picture of
128 px takes a few milliseconds of one CPU core; eagerly it takes half a second.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.data.procedural.atlas import Atlas, make_atlas
from training.data.procedural.draws import uniform
from training.data.procedural.families import FAMILIES
from training.data.procedural.frame import draw_frame
from training.data.procedural.motion import draw_motion, flow_between
from training.data.procedural.scene import NUM_TEXTURES, TEXTURE_SIDE, Scene
from training.data.procedural.textures import make_textures
from training.data.sample import DepthBatch, FlowBatch

NUM_ATLASES = 4
"""Sets of textures in use; one is drawn for a batch."""

T = TypeVar("T")


@functools.cache
def _atlas(index: int, device: torch.device) -> Atlas:
    generator = torch.Generator(device).manual_seed(index)
    return make_atlas(make_textures(generator, NUM_TEXTURES, TEXTURE_SIDE))


def combine(parts: list[T], order: Tensor) -> T:
    """Batches of the same dataclass one after the other, then reordered."""
    columns: list[Any] = list(parts)
    result: Any
    if isinstance(columns[0], Tensor):
        result = torch.cat(columns)[order]
    else:
        names = [field.name for field in fields(columns[0])]
        result = type(columns[0])(
            *(combine([getattr(part, name) for part in columns], order) for name in names)
        )
    return result


def draw_scenes(generator: torch.Generator, count: int) -> Scene:
    """`count` scenes of random families."""
    weights = torch.tensor([weight for _, weight in FAMILIES.values()], device=generator.device)
    family = torch.multinomial(weights, count, replacement=True, generator=generator)
    return scenes_of(generator, family)


def scenes_of(generator: torch.Generator, family: Tensor) -> Scene:
    """One scene of each family (n,), int64 positions in FAMILIES, in that order."""
    numbers = family.bincount(minlength=len(FAMILIES)).tolist()
    parts = [
        draw(generator, n) for (draw, _), n in zip(FAMILIES.values(), numbers, strict=True) if n
    ]
    return combine(parts, family.argsort(stable=True).argsort())


def draw_atlas(generator: torch.Generator) -> Atlas:
    """One of the sets of textures."""
    index = torch.randint(NUM_ATLASES, (), generator=generator, device=generator.device)
    return _atlas(int(index), generator.device)


@torch.no_grad()
def render_depth(
    generator: torch.Generator, count: int, size: int, compiled: bool = False
) -> DepthBatch:
    """`count` random scenes on size x size pictures with the exact plane depth of every pixel.

    Everything is drawn from the generator, on its device. With `compiled` the first call for a pair
    (count, size) takes half a minute, later ones are an order of magnitude faster than without.
    """
    scene = draw_scenes(generator, count)
    key = uniform(generator, 0.1, 0.4, count, 1)
    frame = draw_frame(scene, draw_atlas(generator), size, key, torch.zeros_like(key), compiled)
    depth = torch.minimum(frame.depth, scene.air[:, 4, None])
    return DepthBatch(frame.image, depth.view(count, 1, size, size))


@torch.no_grad()
def render_motion(
    generator: torch.Generator, count: int, size: int, compiled: bool = False
) -> FlowBatch:
    """`count` pairs of frames of moving cameras and things with exact flow and occlusion.

    A point that leaves the picture counts as occluded. Otherwise as `render_depth`.
    """
    first = draw_scenes(generator, count)
    motion = draw_motion(generator, first)
    second = motion.apply(first)
    key, atlas = uniform(generator, 0.1, 0.4, count, 1), draw_atlas(generator)
    frame1 = draw_frame(first, atlas, size, key, torch.zeros_like(key), compiled)
    frame2 = draw_frame(second, atlas, size, key, frame1.exposure, compiled)
    flow, occluded = flow_between(first, second, motion, size, frame1.depth, frame1.entry, compiled)
    return FlowBatch(
        frame1.image,
        frame2.image,
        flow.view(count, 2, size, size),
        occluded.view(count, 1, size, size),
    )
