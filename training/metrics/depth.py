"""Depth up to scale and shift: the measures of Marigold's protocol (arXiv 2312.02145, section 4).

Formulas as in its released `src/util/metric.py` and `alignment.py`, computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from training.data.sample import Array, Mask

SMALLEST_DEPTH = 1e-6  # logarithms and ratios need a positive depth
DELTA = 1.25


@dataclass(frozen=True)
class DepthScore:
    """Errors of a fitted depth d against the truth d*; lengths in the truth's unit.

    abs_rel mean |d - d*| / d*; sq_rel mean (d - d*)^2 / d*; rmse, rmse_log (natural logarithm) and
    i_rmse (of 1 / d) root mean squares; log10 mean |log10 d - log10 d*|; delta_n the share within a
    factor of 1.25^n; si_log 100 times the standard deviation of log d - log d*.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    log10: float
    delta1: float
    delta2: float
    delta3: float
    i_rmse: float
    si_log: float


def fit_affine(
    given: NDArray[np.floating], known: NDArray[np.floating]
) -> tuple[np.float64, np.float64]:
    """Scale and shift of `given` (P,) with the least squared distance to `known` (P,)."""
    columns = np.stack([given, np.ones_like(given)], axis=1).astype(np.float64)
    scale, shift = np.linalg.lstsq(columns, known.astype(np.float64), rcond=None)[0]
    return scale, shift


def score_depth(
    prediction: Array,
    truth: Array,
    valid: Mask,
    limits: tuple[float, float] = (0.0, float("inf")),
    fit_side: int | None = None,
) -> DepthScore:
    """Scores `prediction` (H, W), any affine scale, against `truth` (H, W) > 0 where `valid`.

    The fitted prediction is clipped to `limits`. `fit_side` thins the pixels that are fitted, not
    those that are scored (see `thin`). Pass a truth in inverse depth to score by a fit in inverse
    depth: the fitted scale may be negative.
    """
    chosen = valid if fit_side is None else valid & thin(valid.shape, fit_side)
    if not chosen.any():
        chosen = valid
    scale, shift = fit_affine(prediction[chosen], truth[chosen])
    known = truth[valid].astype(np.float64)
    fitted = np.clip(scale * prediction[valid].astype(np.float64) + shift, *limits)
    return _compare(np.maximum(fitted, SMALLEST_DEPTH), known)


def thin(shape: tuple[int, ...], side: int) -> Mask:
    """The pixels (H, W) that are left for a fit when the longer side is brought to `side` px.

    Every n-th column, nearest below, and every row: Marigold's released code hands torch a map
    without its channel axis, which thins the last axis only, and published numbers come from it.
    """
    height, width = shape
    factor = side / max(height, width)
    kept = np.zeros((height, width), dtype=bool)
    if factor >= 1:
        return ~kept
    columns = np.floor(np.arange(int(width * factor)) / factor).astype(int)
    kept[:, np.minimum(columns, width - 1)] = True
    return kept


def _compare(fitted: NDArray[np.float64], known: NDArray[np.float64]) -> DepthScore:
    error = fitted - known
    log_error = np.log(fitted) - np.log(known)
    factor = np.maximum(fitted / known, known / fitted)
    deltas = [float(np.mean(factor < DELTA**power)) for power in (1, 2, 3)]
    mean_square_log = np.mean(log_error**2)
    return DepthScore(
        abs_rel=float(np.mean(np.abs(error) / known)),
        sq_rel=float(np.mean(error**2 / known)),
        rmse=float(np.sqrt(np.mean(error**2))),
        rmse_log=float(np.sqrt(mean_square_log)),
        log10=float(np.mean(np.abs(log_error)) / np.log(10)),
        delta1=deltas[0],
        delta2=deltas[1],
        delta3=deltas[2],
        i_rmse=float(np.sqrt(np.mean((1 / fitted - 1 / known) ** 2))),
        si_log=100 * float(np.sqrt(max(mean_square_log - np.mean(log_error) ** 2, 0.0))),
    )


def mean_depth(scores: Sequence[DepthScore]) -> dict[str, float]:
    """Every measure's mean over the pictures."""
    return {
        field.name: float(np.mean([getattr(score, field.name) for score in scores]))
        for field in fields(DepthScore)
    }


def gradient_baseline(shape: tuple[int, int]) -> Array:
    """Depth that only knows that down is near: 1 at the top row, 0 at the bottom."""
    column = np.linspace(1, 0, shape[0], dtype=np.float32)[:, None]
    return np.broadcast_to(column, shape).copy()
