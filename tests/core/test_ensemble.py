import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.core.ensemble import _disagreement, reduce_members

ENSEMBLES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(2, 9), st.integers(1, 5), st.integers(1, 6)),
    elements=st.floats(-10, 10, width=32),
)


def _scene():
    y, x = np.mgrid[0:24, 0:32] / 24
    return 0.5 * y + 0.2 * np.sin(5 * x) + 0.3 * x * y


def _distorted(count, noise, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            _scene() * rng.uniform(0.5, 1.5)
            + rng.uniform(-0.3, 0.3)
            + noise * rng.standard_normal((24, 32))
            for _ in range(count)
        ]
    ).astype(np.float32)


@given(values=ENSEMBLES)
def test_the_median_is_the_lower_middle_of_each_pixel(values):
    reduced = reduce_members(values, "median")
    for pixel in np.ndindex(values.shape[1:]):
        members = sorted(values[(slice(None), *pixel)])
        middle = members[(len(members) - 1) // 2]
        deviations = sorted(abs(member - middle) for member in members)
        assert reduced.prediction[pixel] == middle
        assert reduced.uncertainty[pixel] == deviations[(len(members) - 1) // 2]


@given(values=ENSEMBLES)
def test_the_mean_comes_with_the_sample_deviation(values):
    reduced = reduce_members(values, "mean")
    mean = sum(values.astype(np.float64)) / len(values)
    deviation = np.sqrt(sum((values - mean) ** 2) / (len(values) - 1))
    np.testing.assert_allclose(reduced.prediction, mean, atol=1e-5)
    np.testing.assert_allclose(reduced.uncertainty, deviation, atol=1e-4)


@given(values=ENSEMBLES, order=st.randoms())
def test_the_members_order_does_not_matter(values, order):
    shuffled = order.sample(range(len(values)), len(values))
    for reduction in ("median", "mean"):
        one, other = reduce_members(values, reduction), reduce_members(values[shuffled], reduction)
        np.testing.assert_allclose(one.prediction, other.prediction, atol=1e-5)
        np.testing.assert_allclose(one.uncertainty, other.uncertainty, atol=1e-4)


@pytest.mark.parametrize("reduction", ["median", "mean", "aligned"])
def test_a_single_member_is_its_own_prediction(reduction):
    values = _distorted(1, 0.1)
    reduced = reduce_members(values, reduction)
    np.testing.assert_array_equal(reduced.prediction, values[0])
    assert not reduced.uncertainty.any()


@pytest.mark.parametrize("count", [2, 3, 4, 7, 20])
def test_alignment_undoes_each_members_scale_and_shift(count):
    scene = _scene()
    truth = (scene - scene.min()) / (scene.max() - scene.min())
    reduced = reduce_members(_distorted(count, noise=0), "aligned")
    np.testing.assert_allclose(reduced.prediction, truth, atol=1e-5)
    assert reduced.uncertainty.max() < 1e-5


@pytest.mark.parametrize("count", [3, 5, 10])
def test_alignment_takes_scale_and_shift_out_of_the_uncertainty(count):
    members = _distorted(count, noise=0.02)
    aligned, plain = (reduce_members(members, name).uncertainty for name in ("aligned", "median"))
    assert aligned.mean() < 0.5 * plain.mean()


@given(seed=st.integers(0, 50), count=st.integers(2, 20), noise=st.floats(0, 0.5))
def test_aligned_predictions_fill_the_unit_range(seed, count, noise):
    reduced = reduce_members(_distorted(count, noise, seed), "aligned")
    assert reduced.prediction.min() == pytest.approx(0, abs=1e-6)
    assert reduced.prediction.max() == pytest.approx(1, abs=1e-6)
    assert np.isfinite(reduced.uncertainty).all()
    assert reduced.uncertainty.min() >= 0


@pytest.mark.parametrize(
    "values",
    [
        np.full((3, 4, 4), 0.5),
        np.stack([np.full((4, 4), 0.2), np.full((4, 4), 0.7)]),
        np.repeat(np.random.default_rng(0).uniform(size=(1, 4, 4)), 4, axis=0),
        np.random.default_rng(0).integers(0, 2, (5, 8, 8)),
    ],
    ids=["flat", "two levels", "copies", "saturated"],
)
def test_degenerate_members_stay_finite(values):
    reduced = reduce_members(values.astype(np.float32), "aligned")
    assert np.isfinite(reduced.prediction).all()
    assert np.isfinite(reduced.uncertainty).all()


def test_pairwise_disagreement_from_moments_equals_the_pixels():
    members = _distorted(6, 0.1).reshape(6, -1).astype(np.float64)
    rng = np.random.default_rng(1)
    scale, shift = rng.uniform(0.5, 2, 6), rng.uniform(-1, 1, 6)
    aligned = scale[:, None] * members + shift[:, None]
    slow = sum(np.sqrt(np.mean((a - b) ** 2)) for a, b in itertools.combinations(aligned, 2))
    fast = _disagreement(
        np.concatenate((scale, shift)), members.mean(axis=1), np.cov(members, bias=True)
    )
    assert fast == pytest.approx(slow, rel=1e-10)
