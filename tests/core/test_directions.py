"""Unit vectors: their length, and ensembles of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.directions import normalized, reduce_directions
from service.core.ensemble import reduce_members


def members(count: int, seed: int = 0, spread: float = 0.4) -> np.ndarray:
    """Directions (count, 3, 6, 7) around one for every pixel."""
    rng = np.random.default_rng(seed)
    middle = rng.standard_normal((3, 6, 7))
    off = spread * rng.standard_normal((count, 3, 6, 7))
    return normalized((middle / np.linalg.norm(middle, axis=0) + off).astype(np.float32))


def angles(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """In half turns, by the cosine in double precision."""
    cosine = (one.astype(np.float64) * other).sum(axis=-3)
    return np.arccos(np.clip(cosine, -1, 1)) / np.pi


def tilted(degrees: float) -> np.ndarray:
    """Toward the viewer, turned to the right; one pixel."""
    turn = np.radians(degrees)
    return np.array([np.sin(turn), 0, np.cos(turn)], dtype=np.float32)[:, None, None]


def test_lengths_become_one_and_directions_stay():
    vectors = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32) * 7
    unit = normalized(vectors)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert np.abs(np.cross(unit, vectors, axis=1)).max() < 1e-5
    assert ((unit * vectors).sum(axis=1) > 0).all()


def test_nothing_has_no_direction():
    assert not normalized(np.zeros((3, 2, 2), np.float32)).any()


def test_known_angles():
    fan = np.stack([tilted(0), tilted(30), tilted(90)])
    mean = np.degrees(np.arctan2(0.5 + 1, 1 + np.cos(np.radians(30))))
    reduced = reduce_directions(fan, "mean")
    np.testing.assert_allclose(reduced.prediction, tilted(mean), atol=1e-6)
    expected = (mean + (mean - 30) + (90 - mean)) / 3 / 180
    assert reduced.uncertainty.shape == (1, 1)
    assert reduced.uncertainty.item() == pytest.approx(expected, rel=1e-5)
    closest = reduce_directions(fan, "closest")
    np.testing.assert_array_equal(closest.prediction, fan[1])
    assert closest.uncertainty.item() == pytest.approx(expected, rel=1e-5)


@given(count=st.integers(2, 9), seed=st.integers(0, 1000))
def test_the_mean_direction_is_the_mean_at_length_one(count, seed):
    values = members(count, seed)
    reduced = reduce_directions(values, "mean")
    np.testing.assert_allclose(np.linalg.norm(reduced.prediction, axis=0), 1, atol=1e-5)
    mean = values.astype(np.float64).mean(axis=0)
    assert angles(reduced.prediction, mean / np.linalg.norm(mean, axis=0)).max() < 1e-3
    np.testing.assert_allclose(
        reduced.uncertainty, angles(values, reduced.prediction[None]).mean(axis=0), atol=1e-3
    )


@given(count=st.integers(3, 9), seed=st.integers(0, 1000))
def test_the_closest_is_a_member_and_no_other_is_nearer(count, seed):
    values = members(count, seed)
    mean = reduce_directions(values, "mean").prediction
    chosen = reduce_directions(values, "closest").prediction
    assert (chosen[None] == values).all(axis=1).any(axis=0).all()
    off = angles(chosen, mean)
    assert (off <= angles(values, mean[None]).min(axis=0) + 1e-5).all()


@pytest.mark.parametrize("reduction", ["closest", "mean"])
def test_a_single_member_is_its_own_prediction(reduction):
    values = members(1)
    reduced = reduce_directions(values, reduction)
    np.testing.assert_array_equal(reduced.prediction, values[0])
    assert reduced.uncertainty.shape == (6, 7)
    assert not reduced.uncertainty.any()


def test_equal_members_have_no_uncertainty():
    values = np.repeat(members(1), 4, axis=0)
    assert reduce_directions(values, "closest").uncertainty.max() < 1e-6


def test_directions_and_values_have_reductions_of_their_own():
    for count in (1, 3):
        with pytest.raises(KeyError):
            reduce_directions(members(count), "median")
        with pytest.raises(KeyError):
            reduce_members(members(count), "closest")
