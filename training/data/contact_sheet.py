"""A picture of many samples: what was photographed beside what is known of it, with captions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

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

PANEL_PX = 256  # the longer side of a picture on the sheet
GAP_PX = 12
TEXT_PX = 13
LARGEST_COLOURED_PX = 1500  # of the longer side; larger depth is thinned out first
MOST_PANELS = 6  # panels beside each other
_PAPER, _INK, _FAINT = (250, 250, 248), (30, 30, 30), (110, 110, 110)
_EDGE = (205, 205, 200)
_UNKNOWN = (72, 72, 78)
_NEAR_TO_FAR = np.array(  # ColorBrewer's Spectral
    [[158, 1, 66], [244, 109, 67], [254, 224, 139], [230, 245, 152], [102, 194, 165], [94, 79, 162]]
)
_VISIBLE, _HIDDEN = (60, 170, 90), (225, 40, 160)
_WHEEL_PX = 45

Panel = tuple[str, Picture]  # a title and a picture


def contact_sheet(title: str, samples: Iterable[Sample]) -> Image.Image:
    """One sheet of all samples, in as many columns as fit; holds one sample at a time.

    Raises ValueError for no samples.
    """
    cards = [_card(sample) for sample in samples]
    if not cards:
        raise ValueError("a contact sheet needs a sample")
    width, height = max(card.width for card in cards), max(card.height for card in cards)
    columns = min(len(cards), max(1, MOST_PANELS * (PANEL_PX + 4) // width))
    rows = math.ceil(len(cards) / columns)
    top = 3 * GAP_PX + TEXT_PX
    size = (GAP_PX + columns * (width + GAP_PX), top + rows * (height + GAP_PX))
    sheet = Image.new("RGB", size, _PAPER)
    text = ImageDraw.Draw(sheet)
    text.text((GAP_PX, GAP_PX), title, _INK, ImageFont.load_default(TEXT_PX + 4))
    for index, card in enumerate(cards):
        row, column = divmod(index, columns)
        sheet.paste(card, (GAP_PX + column * (width + GAP_PX), top + row * (height + GAP_PX)))
    return sheet


def _card(sample: Sample) -> Image.Image:
    """All panels of a sample beside each other above its name and numbers."""
    frames = ("picture",) if len(sample.images) == 1 else ("first frame", "second frame")
    photographs = [(name, fit(image)) for name, image in zip(frames, sample.images, strict=True)]
    shown = [*photographs, *panels(sample.truth, sample.images[0])]
    height = max(picture.shape[0] for _, picture in shown)
    width = sum(picture.shape[1] + 4 for _, picture in shown) - 4
    card = Image.new("RGB", (width, height + 3 * (TEXT_PX + 4)), _PAPER)
    text, font = ImageDraw.Draw(card), ImageFont.load_default(TEXT_PX)
    left = 0
    for name, picture in shown:
        card.paste(Image.fromarray(picture), (left, 0))
        edge = (left, 0, left + picture.shape[1] - 1, picture.shape[0] - 1)
        text.rectangle(edge, outline=_EDGE)
        text.text((left, height + 2), name, _FAINT, font)
        left += picture.shape[1] + 4
    rows, columns = sample.truth.shape
    lines = (sample.name, f"{columns} x {rows} px, {describe(sample.truth)}")
    for number, line in enumerate(lines, start=1):
        top = height + 2 + number * (TEXT_PX + 3)
        text.text((0, top), _shortened(line, font, width), _INK, font)
    return card


def _shortened(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The line, without its beginning where it is wider than `width`."""
    cut = line
    while font.getlength(cut) > width and len(cut) > 1:
        line = line[1:]
        cut = "…" + line
    return cut


@singledispatch
def describe(truth: Truth) -> str:
    """The truth in a few words."""
    raise TypeError(f"no words are defined for {type(truth).__name__}")


@describe.register
def _(truth: DepthTruth) -> str:
    if not truth.valid.any():
        return "no valid depth"
    known = truth.depth[truth.valid]
    return f"{known.min():.4g} to {known.max():.4g} m, {truth.valid.mean():.1%} valid"


@describe.register
def _(truth: FlowTruth) -> str:
    if not truth.valid.any():
        return "no valid flow"
    longest = np.hypot(*truth.flow)[truth.valid].max()
    hidden = "" if truth.occluded is None else f", {truth.occluded.mean():.1%} occluded"
    return f"up to {longest:.4g} px, {truth.valid.mean():.1%} valid{hidden}"


@describe.register
def _(truth: AmodalTruth) -> str:
    share = (truth.visible & truth.amodal).sum() / max(1, truth.amodal.sum())
    return f"object on {truth.amodal.mean():.1%}, {share:.1%} of it visible"


@singledispatch
def panels(truth: Truth, picture: Picture) -> list[Panel]:
    """What is known, as pictures of the panel's size."""
    raise TypeError(f"no panels are defined for {type(truth).__name__}, {picture.shape}")


@panels.register
def _(truth: DepthTruth, _picture: Picture) -> list[Panel]:
    step = max(1, max(truth.shape) // LARGEST_COLOURED_PX)
    depth, valid = truth.depth[::step, ::step], truth.valid[::step, ::step]
    return [("depth, near red", fit(depth_colors(depth, valid), valid))]


@panels.register
def _(truth: FlowTruth, _picture: Picture) -> list[Panel]:
    shown = fit(flow_colors(truth.flow, truth.valid), truth.valid)
    side = min(_WHEEL_PX, *shown.shape[:2])
    shown[-side:, -side:] = _wheel(side)
    known = [("flow, as on the wheel", shown)]
    if truth.occluded is not None:
        black_and_white = np.repeat(np.uint8(255) * truth.occluded[:, :, None], 3, axis=2)
        known.append(("occluded", fit(black_and_white.astype(np.uint8))))
    return known


@panels.register
def _(truth: AmodalTruth, picture: Picture) -> list[Panel]:
    tinted = picture.astype(np.float32)
    for mask, color in ((truth.visible, _VISIBLE), (truth.amodal & ~truth.visible, _HIDDEN)):
        tinted[mask] = 0.4 * tinted[mask] + 0.6 * np.array(color)
    shown = [("visible green, hidden pink", fit(tinted.astype(np.uint8)))]
    if truth.whole is not None:
        shown.append(("whole", fit(truth.whole)))
    return shown


def depth_colors(depth: Array, valid: Mask) -> Picture:
    """Depth (H, W) from red (2nd percentile) to violet (98th), uint8 (H, W, 3)."""
    if not valid.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.percentile(depth[valid], (2, 98))
    place = np.clip((depth - near) / max(far - near, 1e-6), 0, 1)
    stops = np.linspace(0, 1, len(_NEAR_TO_FAR))
    channels = [np.interp(place, stops, _NEAR_TO_FAR[:, i]) for i in range(3)]
    return np.stack(channels, axis=2).astype(np.uint8)


def flow_colors(flow: Array, valid: Mask) -> Picture:
    """Flow (2, H, W) as uint8 (H, W, 3): hue is direction, white rests, the longest are full.

    Colour grows with the root of the length, so that small motion shows beside large.
    """
    length = np.hypot(flow[0], flow[1])
    longest = np.percentile(length[valid], 98) if valid.any() else 1.0
    strength = np.clip(length / max(float(longest), 1e-6), 0, 1)[:, :, None] ** 0.5
    turn = np.arctan2(flow[1], flow[0])[:, :, None] + np.array([0, -2, 2]) * np.pi / 3
    full = np.clip(0.5 + np.cos(turn), 0, 1)  # red to the right
    return (255 * (1 - strength * (1 - full))).astype(np.uint8)


def _wheel(side: int) -> Picture:
    """Every direction in its colour, pointing away from the middle."""
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    inside = np.hypot(rows, columns) <= 1
    return np.where(
        inside[:, :, None], flow_colors(np.stack([columns, rows]), inside), np.uint8(255)
    )


def fit(picture: Picture, valid: Mask | None = None) -> Picture:
    """The picture in the panel's size; where nothing is `valid` it is grey.

    Averages over valid pixels alone, so that sparse depth keeps its colours.
    """
    height, width = picture.shape[:2]
    scale = PANEL_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    weight = np.ones((height, width), np.float32) if valid is None else valid.astype(np.float32)
    kept = _resized(weight, size)[:, :, None]
    channels = [_resized(picture[:, :, i] * weight, size) for i in range(3)]
    mean = np.stack(channels, axis=2) / np.maximum(kept, 1e-6)
    shown = np.where(kept > 1e-3, mean, np.array(_UNKNOWN, np.float32))
    return np.clip(shown.round(), 0, 255).astype(np.uint8)


def _resized(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    image = Image.fromarray(plane.astype(np.float32))
    method = Image.Resampling.BOX if size[0] < image.width else Image.Resampling.NEAREST
    return np.asarray(image.resize(size, method))
