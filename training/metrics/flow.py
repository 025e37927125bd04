"""Optical flow in pixels: end-point errors, as they are and after the paper's fit, and shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.data.sample import Array, Mask
from training.metrics.depth import fit_affine

Averaging = Literal["samples", "pixels"]


@dataclass(frozen=True)
class FlowScore:
    """Errors of one pair of frames.

    epe: mean end-point error, px. epe_fitted: the same after a least-squares fit of scale and shift
    to the truth, per component, as the paper's released evaluation computes it. fl_all: share of
    pixels wrong by more than 3 px and 5 % (KITTI). within_n: share of pixels wrong by less than
    n px. pixels: how many were scored.
    """

    epe: float
    epe_fitted: float
    fl_all: float
    within_1px: float
    within_3px: float
    within_5px: float
    pixels: int


def score_flow(prediction: Array, truth: Array, valid: Mask) -> FlowScore:
    """Scores flow (2, H, W) in px against `truth` (2, H, W) where `valid` (H, W)."""
    given = prediction[:, valid].astype(np.float64)
    known = truth[:, valid].astype(np.float64)
    error = np.linalg.norm(given - known, axis=0)
    length = np.linalg.norm(known, axis=0)
    within = [float(np.mean(error < limit)) for limit in (1, 3, 5)]
    return FlowScore(
        epe=float(error.mean()),
        epe_fitted=float(np.linalg.norm(_fitted(given, known) - known, axis=0).mean()),
        fl_all=float(np.mean((error > 3) & (error > 0.05 * length))),
        within_1px=within[0],
        within_3px=within[1],
        within_5px=within[2],
        pixels=int(valid.sum()),
    )


def _fitted(given: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Both components (2, P) of `given`, each with the scale and shift that fit it to `known`."""
    fits = [fit_affine(g, k) for g, k in zip(given, known, strict=True)]
    return np.stack([scale * g + shift for (scale, shift), g in zip(fits, given, strict=True)])


def mean_flow(scores: Sequence[FlowScore], averaging: Averaging) -> dict[str, float]:
    """End-point errors averaged over pictures (KITTI) or over all pixels; shares over all pixels.

    So does RAFT's evaluation, which FlyingChairs, Sintel and KITTI numbers are compared by.
    """
    pixels = np.array([score.pixels for score in scores], dtype=np.float64)
    errors = {"pixels": pixels, "samples": np.ones_like(pixels)}[averaging]
    means = {}
    for field in fields(FlowScore):
        values = [getattr(score, field.name) for score in scores]
        weights = errors if field.name.startswith("epe") else pixels
        means[field.name] = float(np.average(values, weights=weights))
    return {**means, "pixels": float(pixels.sum())}
