"""A plan keeps its budget, and no plan that the budget affords is better."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.artifact import CalibrationPoint
from service.core.budget import QUALITIES, TIE, Choice, ErrorModel, PlanError, Quality, fit_errors
from service.engine.planner import Pace, frontier, plan_evaluations, plan_quality, plan_time
from tests.support.calibrations import STEPS, Points, lawful_table, noisy_tables

COMPONENTS = st.integers(1, 3)
MS = st.floats(0, 100)
Costs = tuple[float, tuple[float, ...], tuple[float, ...]]
COSTS = st.tuples(MS, st.tuples(*[MS] * 20), st.tuples(*[MS] * 20))
TYPICAL = fit_errors(
    lawful_table({1: (0.30, 0.01), 5: (0.28, 0.07), 50: (0.27, 0.2)}, (1, 2, 3, 5, 10))
)


@dataclass(frozen=True)
class Plans:
    """All that may be planned, flat: cheapest first, and of equally cheap ones fewest steps."""

    steps: np.ndarray
    members: np.ndarray
    errors: np.ndarray
    evaluations: np.ndarray

    def where(self, mask: np.ndarray) -> "Plans":
        return Plans(
            self.steps[mask], self.members[mask], self.errors[mask], self.evaluations[mask]
        )

    def cost_ms(self, pace: Pace) -> np.ndarray:
        step_ms, finish_ms = np.array(pace.step_ms), np.array(pace.finish_ms)
        at = self.members - 1
        return pace.fixed_ms + self.steps * step_ms[at] + finish_ms[at]

    def index(self, choice: Choice) -> int:
        """Where a choice stands; ValueError when it is none of these or says other numbers."""
        (found,) = np.flatnonzero((self.steps == choice.steps) & (self.members == choice.members))
        assert choice.expected_error == self.errors[found]
        assert choice.evaluations == self.evaluations[found]
        return int(found)


def every_plan(model: ErrorModel, num_components: int) -> Plans:
    steps, members = np.mgrid[model.steps[0] : model.steps[-1] + 1, 1:21].reshape(2, -1)
    evaluations = steps * members * num_components
    order = np.lexsort((steps, evaluations))
    steps, members = steps[order], members[order]
    return Plans(steps, members, model.table()[steps - 1, members - 1], evaluations[order])


@settings(deadline=None)
@given(noisy_tables(), COMPONENTS, st.integers(1, 13000))
def test_no_plan_within_an_evaluation_budget_is_better(
    points: Points, num_components: int, budget: int
):
    model = fit_errors(points)
    least = model.steps[0] * num_components
    if budget < least:
        with pytest.raises(PlanError, match="pay for no plan") as caught:
            plan_evaluations(model, num_components, budget)
        assert caught.value.field == "budget_evals"
        assert caught.value.limit == f"at least {least}"
        return
    chosen = plan_evaluations(model, num_components, budget)
    assert chosen.evaluations <= budget
    plans = every_plan(model, num_components)
    affordable = plans.where(plans.evaluations <= budget)
    assert chosen.expected_error <= affordable.errors.min() + TIE
    assert np.all(affordable.errors[: affordable.index(chosen)] > chosen.expected_error)
    assert chosen in frontier(model, num_components)


@settings(deadline=None)
@given(noisy_tables(), COMPONENTS, st.integers(600, 13000), st.integers(600, 13000))
def test_more_evaluations_never_give_a_larger_error(
    points: Points, num_components: int, budget: int, other: int
):
    model = fit_errors(points)
    smaller, larger = (
        plan_evaluations(model, num_components, evals) for evals in sorted((budget, other))
    )
    assert larger.expected_error <= smaller.expected_error
    assert larger.evaluations >= smaller.evaluations


@settings(deadline=None)
@given(noisy_tables(), COMPONENTS)
def test_the_frontier_is_what_more_evaluations_buy(points: Points, num_components: int):
    model = fit_errors(points)
    choices = frontier(model, num_components)
    assert choices[0].evaluations == model.steps[0] * num_components
    for choice, following in pairwise(choices):
        assert following.evaluations > choice.evaluations
        assert following.expected_error < choice.expected_error - TIE
    plans = every_plan(model, num_components)
    at = np.searchsorted([c.evaluations for c in choices], plans.evaluations, side="right") - 1
    bought = np.array([choice.expected_error for choice in choices])[at]
    assert np.all(bought <= plans.errors + TIE)
    for choice in choices:
        assert plan_evaluations(model, num_components, choice.evaluations) == choice


@settings(deadline=None)
@given(STEPS, st.floats(0, 10), COMPONENTS, COSTS)
def test_of_equal_errors_the_cheapest_is_taken(
    steps: list[int], error: float, num_components: int, costs_ms: Costs
):
    pace = Pace(*costs_ms)
    points = [CalibrationPoint(count, m, error) for count in steps for m in (1, 3, 7)]
    model = fit_errors(points)
    only = Choice(min(steps), 1, model.error(min(steps), 1), min(steps) * num_components)
    assert frontier(model, num_components) == (only,)
    assert plan_evaluations(model, num_components, 13000) == only
    assert plan_time(model, num_components, 1e6, pace) == only
    for quality in QUALITIES:
        assert plan_quality(model, num_components, quality) == only


def test_of_equal_errors_and_evaluations_the_fewest_steps_are_taken():
    model = fit_errors(lawful_table({1: (0.1, 0.9), 2: (0.1, 0.9), 4: (0.1, 0.0)}, (1, 2, 4)))
    assert model.error(1, 20) > model.error(4, 1) + TIE
    assert plan_evaluations(model, 1, 4).steps == 4
    # (1, 4) and (2, 2) are as dear as (4, 1); a table where all three are as good:
    equal = fit_errors(lawful_table({1: (0.1, 0.4), 2: (0.1, 0.2), 4: (0.1, 0.1)}, (1, 2, 4)))
    assert plan_evaluations(equal, 1, 4).members == 4


@settings(deadline=None)
@given(noisy_tables(), COMPONENTS, COSTS, st.floats(0, 25000))
def test_no_plan_within_a_time_budget_is_better(
    points: Points, num_components: int, costs_ms: Costs, budget_ms: float
):
    pace = Pace(*costs_ms)
    model = fit_errors(points)
    plans = every_plan(model, num_components)
    costs = plans.cost_ms(pace)
    affordable = plans.where(costs <= budget_ms)
    if len(affordable.steps):
        chosen = plan_time(model, num_components, budget_ms, pace)
        tied = affordable.errors <= affordable.errors.min() + TIE
        assert affordable.index(chosen) == np.flatnonzero(tied)[0]
        return
    with pytest.raises(PlanError, match="pay for no plan") as caught:
        plan_time(model, num_components, budget_ms, pace)
    least_ms = float(np.ceil(costs.min()))
    assert caught.value.field == "budget_ms"
    assert caught.value.limit == f"at least {least_ms:.0f} ms now"
    enough = plan_time(model, num_components, least_ms, pace)
    assert costs[plans.index(enough)] <= least_ms


@settings(deadline=None)
@given(noisy_tables(), COSTS, st.floats(0, 25000), st.floats(0, 25000))
def test_more_time_never_gives_a_larger_error(
    points: Points, costs_ms: Costs, budget_ms: float, other: float
):
    pace = Pace(*costs_ms)
    model = fit_errors(points)
    choices = []
    for limit in sorted((budget_ms, other)):
        try:
            choices.append(plan_time(model, 1, limit, pace))
        except PlanError:
            assert not choices  # more time does not turn a plan into none
    if len(choices) == 2:
        assert choices[1].expected_error <= choices[0].expected_error + TIE


def test_time_goes_where_workers_make_it_cheap():
    """With idle workers for every member, members cost nothing; on one, each costs its share."""
    fleet = Pace(10.0, (20.0,) * 20, (5.0,) * 20)
    single = Pace(10.0, tuple(20.0 * m for m in range(1, 21)), tuple(5.0 * m for m in range(1, 21)))
    wide, narrow = (plan_time(TYPICAL, 1, 120.0, pace) for pace in (fleet, single))
    assert (wide.steps, wide.members) == (5, 20)  # 10 + 5 * 20 + 5 <= 120
    assert (narrow.steps, narrow.members) == (1, 4)  # 10 + 4 * (20 + 5) <= 120
    with pytest.raises(PlanError, match="34 ms pay for no plan: the fastest would take 35 ms now"):
        plan_time(TYPICAL, 1, 34.0, fleet)


@settings(deadline=None)
@given(noisy_tables(), COMPONENTS)
def test_better_qualities_cost_no_less_and_keep_their_share(points: Points, num_components: int):
    model = fit_errors(points)
    plans = every_plan(model, num_components)
    most = max(point.members for point in points)
    least = plans.errors[plans.members <= most].min()
    order: tuple[Quality, ...] = ("draft", "standard", "best")
    chosen = [plan_quality(model, num_components, quality) for quality in order]
    for quality, choice in zip(order, chosen, strict=True):
        assert choice in frontier(model, num_components)
        limit = (1 + QUALITIES[quality]) * least
        assert choice.expected_error <= limit + TIE
        cheaper = plans.evaluations < choice.evaluations
        assert np.all(plans.errors[cheaper] > limit)
    for choice, better in pairwise(chosen):
        assert choice.evaluations <= better.evaluations
        assert better.expected_error <= choice.expected_error


def test_a_single_measurement_is_a_plan():
    model = fit_errors([CalibrationPoint(4, 2, 0.5)])
    assert frontier(model, 2) == (Choice(4, 1, 0.5, 8),)
    assert plan_quality(model, 2, "best") == Choice(4, 1, 0.5, 8)


@pytest.mark.parametrize("num_components", [0, -1])
def test_there_is_a_component(num_components: int):
    with pytest.raises(ValueError, match="num_components"):
        frontier(TYPICAL, num_components)


@pytest.mark.parametrize(
    ("fixed_ms", "step_ms", "finish_ms", "message"),
    [
        (-1.0, (1.0,) * 20, (1.0,) * 20, "at least 0 ms"),
        (0.0, (1.0,) * 19, (1.0,) * 20, "step_ms must have 20"),
        (0.0, (1.0,) * 20, (1.0,) * 21, "finish_ms must have 20"),
        (0.0, (float("inf"),) * 20, (1.0,) * 20, "finite"),
        (float("nan"), (1.0,) * 20, (1.0,) * 20, "finite"),
    ],
)
def test_a_pace_is_a_cost_of_every_member_count(
    fixed_ms: float, step_ms: tuple[float, ...], finish_ms: tuple[float, ...], message: str
):
    with pytest.raises(ValueError, match=message):
        Pace(fixed_ms, step_ms, finish_ms)
