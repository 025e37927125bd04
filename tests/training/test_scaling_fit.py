"""Power laws: known exponents are found, and none is claimed where there is none."""

import math

import numpy as np
import pytest

from training.scaling.fit import fit_power_law

X = np.logspace(9, 13, 6)


def _noisy(values: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    return values * np.exp(np.random.default_rng(seed).normal(0, deviation, len(values)))


def test_a_known_exponent_is_found():
    law = fit_power_law(X.tolist(), (85.81 * X**-0.1511).tolist())
    assert law.supported
    assert law.a == pytest.approx(85.81, rel=1e-6)
    assert law.b == pytest.approx(-0.1511, rel=1e-6)
    assert law.verdict.startswith("law: y = 85.81 C^-0.1511")
    assert law(X) == pytest.approx(85.81 * X**-0.1511)


def test_the_interval_covers_the_exponent_as_often_as_it_says():
    fits = [fit_power_law(X.tolist(), _noisy(3 * X**-0.15, 0.05, s).tolist()) for s in range(300)]
    covered = np.mean([law.low <= -0.15 <= law.high for law in fits])
    assert 0.90 < covered < 0.98
    assert np.mean([law.supported for law in fits]) > 0.95


@pytest.mark.parametrize("points", [4, 5, 6, 10])
def test_noise_is_no_law(points: int):
    x = np.logspace(9, 13, points)
    fits = [
        fit_power_law(x.tolist(), _noisy(np.full(points, 0.3), 0.1, s).tolist()) for s in range(300)
    ]
    assert np.mean([law.supported for law in fits]) < 0.08
    assert sum("no law" in law.verdict for law in fits) > 270


def test_constant_values_are_no_law():
    law = fit_power_law(X.tolist(), [0.25] * 6)
    assert not law.supported
    assert "includes 0" in law.verdict


def test_three_points_are_too_few_and_repeated_x_are_one_point():
    x = [1e9, 1e9, 1e10, 1e10, 1e11, 1e11]
    law = fit_power_law(x, [3.0, 3.1, 2.0, 2.1, 1.0, 1.1])
    assert not law.supported
    assert law.num_points == 3
    assert "3 different x" in law.verdict
    assert math.isnan(law.low)
    assert law.b < 0  # a direction is still given


def test_a_single_point_has_no_direction():
    law = fit_power_law([1e9], [0.4])
    assert law.a == pytest.approx(0.4)
    assert law.b == 0
    assert not law.supported


def test_a_narrow_range_of_x_is_no_law():
    law = fit_power_law([1.0, 1.1, 1.2, 1.3, 1.4], [1.4, 1.3, 1.2, 1.1, 1.0])
    assert not law.supported
    assert "factor of 1.40" in law.verdict


def test_an_offset_is_found_where_the_error_levels_out():
    x = np.logspace(0, 3, 9)
    law = fit_power_law(x.tolist(), _noisy(0.2 + 0.6 * x**-0.8, 0.002, 1).tolist())
    assert law.supported
    assert law.curved
    assert law.offset == pytest.approx(0.2, rel=0.05)
    assert law.b == pytest.approx(-0.8, rel=0.1)
    assert law.low < -0.8 < law.high


def test_a_plain_law_with_noise_gets_no_offset():
    x = np.logspace(0, 3, 9)
    laws = [fit_power_law(x.tolist(), _noisy(0.6 * x**-0.3, 0.02, s).tolist()) for s in range(100)]
    assert np.mean([law.offset > 0 for law in laws]) < 0.06


def test_an_error_of_zero_is_no_law():
    law = fit_power_law([1.0, 2.0, 4.0, 8.0], [0.1, 0.05, 0.01, 0.0])
    assert not law.supported
    assert "0 has no logarithm" in law.verdict


def test_growing_errors_have_a_positive_exponent():
    law = fit_power_law(X.tolist(), (0.1 * X**0.05).tolist())
    assert law.supported
    assert law.b == pytest.approx(0.05)
    assert law.verdict.startswith("law of growing error:")


def test_a_change_too_small_to_matter_is_no_law():
    law = fit_power_law(X.tolist(), (0.5 * X**-0.0003).tolist())
    assert not law.supported
    assert "y changes by 0.3% over the whole range" in law.verdict


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [1.0], "one length"),
        ([1.0, math.nan], [1.0, 1.0], "finite"),
        ([0.0, 1.0], [1.0, 1.0], "x above 0"),
        ([1.0, 2.0], [1.0, -1.0], "no y below"),
    ],
)
def test_other_numbers_are_refused(x: list[float], y: list[float], message: str):
    with pytest.raises(ValueError, match=message):
        fit_power_law(x, y)
