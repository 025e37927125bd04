"""Error measures of the three tasks, on numpy arrays of one picture, with the field's protocols.

Depth is scored after a least-squares fit of scale and shift on the valid pixels, since a prediction
is affine-invariant; flow in pixels; amodal completion by intersection over union.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

SMALLEST_DEPTH = 1e-6


@dataclass(frozen=True)
class DepthScore:
    """AbsRel (mean |d - d*| / d*) and delta1 (share within a factor of 1.25)."""

    abs_rel: float
    delta1: float


def score_depth(prediction: Array, truth: Array, valid: Mask) -> DepthScore:
    """Scores `prediction` (H, W), any affine scale, against `truth` (H, W) > 0 where `valid`.

    Pass a truth in inverse depth to score by a fit in inverse depth: the fitted scale may be
    negative.
    """
    known = truth[valid].astype(np.float64)
    given = prediction[valid].astype(np.float64)
    columns = np.stack([given, np.ones_like(given)], axis=1)
    solution = np.linalg.lstsq(columns, known, rcond=None)[0]
    fitted = np.maximum(columns @ solution, SMALLEST_DEPTH)
    ratio = np.maximum(fitted / known, known / fitted)
    return DepthScore(float(np.mean(np.abs(fitted - known) / known)), float(np.mean(ratio < 1.25)))


@dataclass(frozen=True)
class FlowScore:
    """EPE (mean end-point error, px) and Fl (share wrong by more than 3 px and 5 %)."""

    epe: float
    fl_all: float


def score_flow(prediction: Array, truth: Array, valid: Mask) -> FlowScore:
    """Scores flow (2, H, W) in px against `truth` (2, H, W) where `valid` (H, W)."""
    error = np.linalg.norm(prediction - truth, axis=0)[valid]
    length = np.linalg.norm(truth, axis=0)[valid]
    return FlowScore(float(error.mean()), float(np.mean((error > 3) & (error > 0.05 * length))))


def iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union of two masks (H, W); 1 where both are empty."""
    union = np.logical_or(prediction, truth).sum()
    return float(np.logical_and(prediction, truth).sum() / union) if union else 1.0


def convex_hull(mask: Mask) -> Mask:
    """The filled convex hull of the set pixels of `mask` (H, W): the usual shape baseline."""
    points = np.argwhere(mask).astype(np.float64)
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):  # fewer than three points, or all on a line
        return mask
    rows, columns = np.indices(mask.shape)
    inside = np.ones(mask.shape, dtype=bool)
    for a, b, c in np.unique(hull.equations, axis=0):
        inside &= a * rows + b * columns + c <= 1e-9
    return inside


def gradient_baseline(shape: tuple[int, int]) -> Array:
    """Depth that only knows that down is near: 1 at the top row, 0 at the bottom."""
    column = np.linspace(1, 0, shape[0], dtype=np.float32)[:, None]
    return np.broadcast_to(column, shape).copy()
