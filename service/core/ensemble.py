"""Turning the members of an ensemble into one prediction and its per-pixel uncertainty.

The alignment is Marigold's (arXiv 2312.02145, section 3.4) as diffusers' `ensemble_depth` states
it, but in float64: in float32 that solver's finite differences are mostly rounding, and its answer
hangs on the last bit of its input.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.optimize import approx_fprime, minimize

Reduction = Literal["median", "mean", "aligned", "closest"]

REGULARIZER = 0.02  # pulls the aligned median to 0..1
# Part of the method, not a saving: the optimum itself is the collapse of all members to one value.
MAX_ITERATIONS = 2
TOLERANCE = 1e-3
DIFFERENCE = 2.0**-26  # forward differences' step: the root of float64's epsilon, scipy's default
SMALLEST_RANGE = 1e-6


@dataclass(frozen=True)
class Reduced:
    """A prediction, and the members' spread around it: per value, or per pixel for directions."""

    prediction: Float32[np.ndarray, "..."]
    uncertainty: Float32[np.ndarray, "..."]


def reduce_members(values: Float32[np.ndarray, " N *rest"], reduction: Reduction) -> Reduced:
    """Reduce N members in one unit to a prediction and an uncertainty in that unit.

    `median` takes the lower middle of an even N, as torch does, and the median absolute deviation;
    `mean` the standard deviation with divisor N - 1. `aligned` first gives each member the scale
    and shift under which all agree, then takes the median and stretches it to [0, 1]. A single
    member is returned as it is, with uncertainty 0. Raises KeyError for a reduction of directions
    (`core/directions`).
    """
    reduce = _REDUCTIONS[reduction]
    if len(values) == 1:
        return Reduced(values[0], np.zeros_like(values[0]))
    return reduce(values)


def _reduce_by_mean(values: Float32[np.ndarray, " N *rest"]) -> Reduced:
    return Reduced(values.mean(axis=0), values.std(axis=0, ddof=1))


def _reduce_aligned(values: Float32[np.ndarray, " N *rest"]) -> Reduced:
    scale, shift = _agreement(values.reshape(len(values), -1).astype(np.float64))
    aligned = (scale * values.T + shift).T
    low, high = _extremes(_lower_median(aligned))
    return _reduce_by_median((aligned - low) / max(high - low, SMALLEST_RANGE))


def _reduce_by_median(values: Float[np.ndarray, " N *rest"]) -> Reduced:
    prediction = _lower_median(values)
    deviation = _lower_median(np.abs(values - prediction))
    return Reduced(prediction.astype(np.float32), deviation.astype(np.float32))


_REDUCTIONS: Mapping[Reduction, Callable[[Float32[np.ndarray, " N *rest"]], Reduced]] = {
    "median": _reduce_by_median,
    "mean": _reduce_by_mean,
    "aligned": _reduce_aligned,
}


def _lower_median(values: Float[np.ndarray, " N *rest"]) -> Float[np.ndarray, " *rest"]:
    middle = (len(values) - 1) // 2
    return np.partition(values, middle, axis=0)[middle]


def _agreement(
    members: Float64[np.ndarray, "N P"],
) -> tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
    """Find each member's (scale, shift): least disagreement of all pairs, the median near 0..1.

    One pass over the pixels yields the moments that every pair's RMSE follows from, and the
    regularizer's derivative needs only the pixels near the median's extremes, so that one step of
    the solver costs one median, not N^2 images for each of 2N parameters.
    """
    means = members.mean(axis=1)
    centred = members - means[:, None]
    # Not a BLAS product: its thread pool would fight the model's over the same cores.
    covariance = np.einsum("ip,jp->ij", centred, centred) / members.shape[1]
    reach = 2 * DIFFERENCE * max(1.0, float(np.abs(members).max()))

    def cost(parameters: Float64[np.ndarray, " M"], pixels: Float64[np.ndarray, "N Q"]) -> float:
        low, high = _extremes(_aligned_median(parameters, pixels))
        disagreement = _disagreement(parameters, means, covariance)
        return disagreement + REGULARIZER * (abs(low) + abs(1 - high))

    def cost_and_gradient(
        parameters: Float64[np.ndarray, " M"],
    ) -> tuple[float, Float64[np.ndarray, " M"]]:
        median = _aligned_median(parameters, members)
        low, high = _extremes(median)
        # No other pixel can become an extreme while one parameter moves by DIFFERENCE.
        extreme = members[:, (median <= low + reach) | (median >= high - reach)]
        return cost(parameters, extreme), approx_fprime(parameters, cost, DIFFERENCE, extreme)

    low, high = members.min(axis=1), members.max(axis=1)
    scale = 1 / np.maximum(high - low, SMALLEST_RANGE)
    found = minimize(
        cost_and_gradient,
        np.concatenate((scale, -scale * low)),
        jac=True,
        method="BFGS",
        tol=TOLERANCE,
        options={"maxiter": MAX_ITERATIONS},
    )
    scale, shift = np.split(found.x, 2)
    return scale, shift


def _disagreement(
    parameters: Float64[np.ndarray, " M"],
    means: Float64[np.ndarray, " N"],
    covariance: Float64[np.ndarray, "N N"],
) -> float:
    """Sum over pairs the RMSE between aligned members, from bias and variance of the difference."""
    scale, shift = np.split(parameters, 2)
    mean = scale * means + shift
    cov = np.outer(scale, scale) * covariance
    var = np.diag(cov)
    squared = var[:, None] + var - 2 * cov + (mean[:, None] - mean) ** 2
    # Rounding can leave two equal members a little below 0.
    return float(np.sqrt(np.maximum(squared, 0)[np.triu_indices(len(mean), 1)]).sum())


def _aligned_median(
    parameters: Float64[np.ndarray, " M"], pixels: Float64[np.ndarray, "N P"]
) -> Float64[np.ndarray, " P"]:
    scale, shift = np.split(parameters, 2)
    return _lower_median(scale[:, None] * pixels + shift[:, None])


def _extremes(values: Float64[np.ndarray, " *any"]) -> tuple[float, float]:
    return float(values.min()), float(values.max())
