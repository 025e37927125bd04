"""A sample as training sees it: part of it or all, perhaps in a mirror, as a square of one size.

The sides of the square keep their own scale, as in the paper: what a picture's shape was is lost on
the network, and motion is scaled by each axis' own factor (the paper's release means to do so, but
scales a row of the picture in place of its vertical motion).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from service.core.record import require
from training.data.sample import (
    AmodalTruth,
    Array,
    DepthTruth,
    FlowTruth,
    Mask,
    Picture,
    Sample,
    Truth,
)

Plane = TypeVar("Plane", Array, Mask, Picture)

_SMOOTH = Image.Resampling.BILINEAR  # over the whole footprint of a pixel where it shrinks


@dataclass(frozen=True)
class AugmentConfig:
    """How often a picture is mirrored, and how much of it a random crop keeps.

    `crop_area` is the least share of the area, 1 for no crops; `crop_stretch` is the most by which
    the ratio of a crop's sides may differ from the picture's. Crops are for depth and flow: they
    would cut what amodal completion is asked for.
    """

    flip: float = 0.5
    crop_area: float = 1.0
    crop_stretch: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.flip <= 1, "flip", "must be in 0..1")
        require(0 < self.crop_area <= 1, "crop_area", "must be above 0 and at most 1")
        require(self.crop_stretch >= 1, "crop_stretch", "must be at least 1")


@dataclass(frozen=True)
class View:
    """The part of a picture that is looked at, in px, and whether in a mirror."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool


def augment(sample: Sample, size: int, config: AugmentConfig, generator: torch.Generator) -> Sample:
    """A random view of `sample` as pictures of `size` x `size` px."""
    return see(sample, draw_view(sample.truth, config, generator), size)


def draw_view(truth: Truth, config: AugmentConfig, generator: torch.Generator) -> View:
    """A random view, by always as many random numbers."""
    flip, area, stretch, x, y = torch.rand(5, generator=generator).tolist()
    height, width = truth.shape
    kept = 1.0 if isinstance(truth, AmodalTruth) else 1 - area * (1 - config.crop_area)
    ratio = math.exp((2 * stretch - 1) * math.log(config.crop_stretch))
    # A stretched crop must still fit: no side grows beyond the picture's.
    across = min(1.0, math.sqrt(kept * ratio)) if kept < 1 else 1.0
    down = min(1.0, math.sqrt(kept / ratio)) if kept < 1 else 1.0
    cut_width, cut_height = max(1, round(width * across)), max(1, round(height * down))
    left, top = int(x * (width - cut_width + 1)), int(y * (height - cut_height + 1))
    return View(left, top, cut_width, cut_height, mirrored=flip < config.flip)


def see(sample: Sample, view: View, size: int) -> Sample:
    """`sample` through a view, as pictures of `size` x `size` px."""
    images = tuple(_picture(image, view, size) for image in sample.images)
    return replace(sample, images=images, truth=_see_truth(sample.truth, view, size))


@singledispatch
def _see_truth(truth: Truth, view: View, size: int) -> Truth:
    raise TypeError(f"no view of {size} px is defined for {type(truth).__name__}, {view}")


@_see_truth.register
def _(truth: DepthTruth, view: View, size: int) -> DepthTruth:
    # Between a near and a far thing there is no middle depth: every pixel takes its nearest one's.
    return DepthTruth(_nearest(truth.depth, view, size), _nearest(truth.valid, view, size))


@_see_truth.register
def _(truth: FlowTruth, view: View, size: int) -> FlowTruth:
    flow, valid = _smooth_known(truth, view, size)
    flow *= np.array([size / view.width, size / view.height], np.float32)[:, None, None]
    if view.mirrored:
        flow[0] *= -1
    hidden = None if truth.occluded is None else _nearest(truth.occluded, view, size)
    return FlowTruth(flow, valid, hidden)


@_see_truth.register
def _(truth: AmodalTruth, view: View, size: int) -> AmodalTruth:
    whole = None if truth.whole is None else _picture(truth.whole, view, size)
    visible, amodal = (_nearest(mask, view, size) for mask in (truth.visible, truth.amodal))
    return AmodalTruth(visible, amodal, whole)


def _picture(picture: Picture, view: View, size: int) -> Picture:
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    shown = Image.fromarray(picture).resize((size, size), _SMOOTH, box=box)
    return _turn(np.asarray(shown), view)


def _smooth(plane: Array, view: View, size: int) -> Array:
    """A plane (H, W) of numbers, averaged or interpolated linearly."""
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    shown = Image.fromarray(plane).resize((size, size), _SMOOTH, box=box)
    return _turn(np.asarray(shown), view)


def _smooth_known(truth: FlowTruth, view: View, size: int) -> tuple[Array, Mask]:
    """The mean of the vectors (2, size, size) that are known, and where the nearest one is."""
    if truth.valid.all():
        flow = np.stack([_smooth(plane, view, size) for plane in truth.flow])
        return flow, np.ones((size, size), dtype=bool)
    known = np.where(truth.valid, truth.flow, np.float32(0))
    weight = _smooth(truth.valid.astype(np.float32), view, size)
    valid = _nearest(truth.valid, view, size) & (weight > 0)
    flow = np.stack([_smooth(plane, view, size) for plane in known])
    return np.where(valid, flow / np.where(valid, weight, 1), 0).astype(np.float32), valid


def _nearest(plane: Plane, view: View, size: int) -> Plane:
    centres = (np.arange(size) + 0.5) / size
    rows = view.top + (centres * view.height).astype(int)
    columns = view.left + (centres * view.width).astype(int)
    return _turn(plane[rows[:, None], columns], view)


def _turn(plane: Plane, view: View) -> Plane:
    return plane[:, ::-1] if view.mirrored else plane
