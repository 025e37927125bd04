"""The fitted errors keep to the law, to the measurements and to the measured range."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.artifact import CalibrationPoint
from service.core.budget import (
    QUALITIES,
    Choice,
    ErrorModel,
    PlanError,
    Quality,
    cheapest,
    fit_errors,
)
from tests.support.calibrations import MEMBERS, STEPS, Points, lawful_table, noisy_tables


@given(
    st.dictionaries(
        st.integers(1, 200),
        st.tuples(st.floats(0, 10), st.floats(0, 10)),
        min_size=1,
        max_size=5,
    ),
    MEMBERS.filter(lambda members: len(members) > 1),
)
def test_an_exact_law_is_found_again(laws: dict[int, tuple[float, float]], members: list[int]):
    model = fit_errors(lawful_table(laws, tuple(members)))
    assert model.steps == tuple(sorted(laws))
    assert model.most_members == max(members)
    for steps, (a, b) in laws.items():
        for count in range(1, 21):
            assert model.error(steps, count) == pytest.approx(a + b / count, abs=1e-9)


@given(noisy_tables())
def test_errors_are_never_negative_and_never_grow_with_members(points: Points):
    model = fit_errors(points)
    assert min(model.a) >= 0
    assert min(model.b) >= 0
    rows = model.table()[model.steps[0] - 1 : model.steps[-1]]
    assert rows.min() >= 0
    assert np.all(np.diff(rows, axis=1) <= 0)


@given(noisy_tables())
def test_no_other_law_is_nearer_to_the_measurements(points: Points):
    model = fit_errors(points)
    generator = np.random.default_rng(0)
    for steps, a, b in zip(model.steps, model.a, model.b, strict=True):
        here = [point for point in points if point.steps == steps]
        errors = np.array([point.error for point in here])
        x = 1 / np.array([point.members for point in here])
        fitted = np.sum((a + b * x - errors) ** 2)
        for scale in (1e-3, 0.1, 3.0):
            others = np.maximum(np.array([a, b]) + scale * generator.normal(size=(50, 2)), 0)
            residuals = np.sum((others[:, :1] + others[:, 1:] * x - errors) ** 2, axis=1)
            assert residuals.min() >= fitted - 1e-9


@given(noisy_tables())
def test_between_measured_step_counts_errors_lie_between_theirs(points: Points):
    model = fit_errors(points)
    table = model.table()
    for low, high in pairwise(model.steps):
        ends = table[[low - 1, high - 1]]
        between = table[low - 1 : high]
        assert np.all(between >= ends.min(axis=0) - 1e-12)
        assert np.all(between <= ends.max(axis=0) + 1e-12)


def test_between_step_counts_the_law_is_linear_in_the_logarithm():
    model = fit_errors(lawful_table({2: (1.0, 0.4), 8: (3.0, 0.0)}, (1, 5)))
    assert model.error(4, 2) == pytest.approx(2.0 + 0.2 / 2)


@given(noisy_tables(), st.integers(-3, 205), st.integers(-3, 25))
def test_only_measured_ranges_have_errors(points: Points, steps: int, members: int):
    model = fit_errors(points)
    covered = min(model.steps) <= steps <= max(model.steps)
    assert model.covers(steps) == covered
    if covered and 1 <= members <= 20:
        assert model.error(steps, members) == model.table()[steps - 1, members - 1]
    else:
        with pytest.raises(ValueError, match=r"members must be|steps must be"):
            model.error(steps, members)
    assert np.array_equal(
        np.isfinite(model.table()[:, 0]), [model.covers(count) for count in range(1, 201)]
    )


@given(STEPS, st.integers(1, 20), st.floats(0, 10))
def test_one_member_count_says_nothing_of_others(steps: list[int], members: int, error: float):
    model = fit_errors([CalibrationPoint(count, members, error) for count in steps])
    assert model.b == (0.0,) * len(steps)
    assert model.table()[steps[0] - 1].tolist() == pytest.approx([error] * 20)


@given(noisy_tables())
def test_the_least_error_is_that_of_the_measured_range(points: Points):
    model = fit_errors(points)
    most = max(point.members for point in points)
    assert model.least_error() == model.table()[:, :most].min()


def test_a_table_is_fitted_once_and_is_safe_to_share():
    points = lawful_table({1: (0.2, 0.1)}, (1, 2))
    model = fit_errors(points)
    assert fit_errors(list(points)) is model
    assert model.table() is ErrorModel(model.steps, model.a, model.b, 2).table()
    with pytest.raises(ValueError, match="read-only"):
        model.table()[0, 0] = 0


def test_nothing_can_be_fitted_to_nothing():
    with pytest.raises(PlanError, match="no errors were measured") as caught:
        fit_errors(())
    assert (caught.value.field, caught.value.limit) == ("", "steps and ensemble")


@pytest.mark.parametrize(
    ("quality", "expected"), [("draft", (1, 1)), ("standard", (1, 4)), ("best", (4, 2))]
)
def test_the_cheapest_choice_that_is_good_enough(quality: Quality, expected: tuple[int, int]):
    choices = [
        Choice(4, 2, 1.0, 8),
        Choice(2, 2, 1.019, 4),
        Choice(1, 4, 1.02, 4),
        Choice(1, 1, 1.15, 1),
    ]
    chosen = cheapest(choices, 1.0, quality)
    assert (chosen.steps, chosen.members) == expected


def test_no_choice_is_good_enough():
    with pytest.raises(ValueError, match="empty"):
        cheapest([Choice(1, 1, 2.0, 1)], 1.0, "draft")


def test_better_qualities_ask_for_less_error():
    assert QUALITIES["draft"] > QUALITIES["standard"] > QUALITIES["best"] == 0
