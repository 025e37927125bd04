"""Unit vectors of a picture: their length restored, and an ensemble's made one.

The axis before height and width is x, y, z.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float32

from service.core.ensemble import Reduced, Reduction

SMALLEST_LENGTH = 1e-6  # of a vector: what is shorter has no direction and stays as short

Directions = Float32[np.ndarray, "*b 3 h w"]


def normalized(vectors: Directions) -> Directions:
    """Give every vector length 1."""
    # Not the sum of a square, which would be a second array as large as an upload's vectors.
    length = np.sqrt(np.einsum("...chw,...chw->...hw", vectors, vectors))
    return vectors / np.maximum(length, np.float32(SMALLEST_LENGTH))[..., None, :, :]


def reduce_directions(values: Float32[np.ndarray, "N 3 h w"], reduction: Reduction) -> Reduced:
    """Reduce N members' unit vectors to one, and to the mean angle between it and them.

    As diffusers' `ensemble_normals`: angles are to the mean direction, in half turns (0..1), one
    per pixel; `mean` is that direction, `closest` the member nearest to it, which averaging has not
    blurred. Of two members either is as near. A single member is returned as it is, with angle 0.
    Raises KeyError for a reduction that directions have no meaning for.
    """
    choose = _REDUCTIONS[reduction]
    if len(values) == 1:
        return Reduced(values[0], np.zeros_like(values[0, 0]))
    mean = normalized(values.mean(axis=0))
    # The chord rather than the cosine, which float32 rounds away for small angles.
    chord = np.sqrt(np.square(values - mean).sum(axis=1))
    angle = 2 * np.arcsin(np.minimum(chord / 2, 1)) / np.float32(np.pi)
    return Reduced(choose(values, mean, chord), angle.mean(axis=0))


def _mean(
    _: Float32[np.ndarray, "N 3 h w"],
    mean: Float32[np.ndarray, "3 h w"],
    __: Float32[np.ndarray, "N h w"],
) -> Float32[np.ndarray, "3 h w"]:
    return mean


def _closest(
    values: Float32[np.ndarray, "N 3 h w"],
    _: Float32[np.ndarray, "3 h w"],
    chord: Float32[np.ndarray, "N h w"],
) -> Float32[np.ndarray, "3 h w"]:
    nearest = chord.argmin(axis=0)
    return np.take_along_axis(values, nearest[None, None], axis=0)[0]


_REDUCTIONS: Mapping[Reduction, Callable[..., Float32[np.ndarray, "3 h w"]]] = {
    "closest": _closest,
    "mean": _mean,
}
