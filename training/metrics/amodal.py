"""Masks of whole objects: intersection over union, of all of it and of its hidden part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from training.data.sample import Mask


@dataclass(frozen=True)
class AmodalScore:
    """Overlap of one object's predicted and true mask, in pixels and as a ratio.

    The hidden part is what a mask holds beyond the visible one; `hidden_iou` is NaN for an object
    of which nothing is hidden.
    """

    iou: float
    hidden_iou: float
    intersection: int
    union: int
    hidden_intersection: int
    hidden_union: int


def score_amodal(prediction: Mask, visible: Mask, truth: Mask) -> AmodalScore:
    """Scores a whole mask (H, W) against `truth` (H, W), given what is `visible` (H, W)."""
    hidden, guessed = truth & ~visible, prediction & ~visible
    return AmodalScore(
        iou=iou(prediction, truth),
        hidden_iou=iou(guessed, hidden) if hidden.any() else float("nan"),
        intersection=int((prediction & truth).sum()),
        union=int((prediction | truth).sum()),
        hidden_intersection=int((guessed & hidden).sum()),
        hidden_union=int((guessed | hidden).sum()),
    )


def mean_amodal(scores: Sequence[AmodalScore]) -> dict[str, float]:
    """mIoU both ways that are published, for whole objects and for their hidden parts.

    `miou`: the mean of each object's ratio (pix2gestalt), hidden parts where there are any.
    `miou_summed`: all intersections over all unions (SDAmodal), where large objects count for more.
    """
    hidden = [score.hidden_iou for score in scores if not np.isnan(score.hidden_iou)]
    return {
        "miou": float(np.mean([score.iou for score in scores])),
        "hidden_miou": float(np.mean(hidden)) if hidden else float("nan"),
        "miou_summed": _ratio(
            sum(score.intersection for score in scores), sum(score.union for score in scores)
        ),
        "hidden_miou_summed": _ratio(
            sum(score.hidden_intersection for score in scores),
            sum(score.hidden_union for score in scores),
        ),
    }


def iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union of two masks (H, W); 1 where both are empty."""
    return _ratio(int((prediction & truth).sum()), int((prediction | truth).sum()))


def _ratio(intersection: int, union: int) -> float:
    return intersection / union if union else 1.0


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
