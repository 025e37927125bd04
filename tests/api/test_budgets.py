"""From knobs to a plan: within every budget, by measurement, and the same from the same."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.budgets import Moment, Planned, choose_plan, expected_error
from service.api.knobs import Knobs, parse_knobs
from service.api.terms import Call
from service.core.artifact import CalibrationPoint, ServedTask
from service.core.budget import fit_errors
from service.core.tasks import TASKS
from service.engine.planner import Pace, frontier
from service.engine.request import Plan
from service.errors import InvalidField
from tests.support.tiny_repository import tiny_artifact

SERVED = tiny_artifact("tiny", 1, {}).served("depth")
UNMEASURED = dataclasses.replace(SERVED, calibration=())
# 10 ms before anything, 2 ms a step, 1 ms for each member's decoding
PACE = Pace(10.0, (2.0,) * 20, tuple(float(m) for m in range(1, 21)))


def never() -> Pace:
    raise AssertionError("only budgets of time need to know what things cost")


def plan(
    served: ServedTask = SERVED,
    *,
    components: int = 1,
    pace: Pace | None = None,
    now: float = 0.0,
    deadline: float | None = None,
    **texts: object,
) -> Planned:
    knobs = parse_knobs({name: str(text) for name, text in texts.items()}, TASKS["depth"])
    moment = Moment(Call(0.0, deadline=deadline), now, never if pace is None else lambda: pace)
    return choose_plan(knobs, served, components, 7, moment)


def refused(**arguments: object) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidField) as caught:
        plan(**arguments)  # type: ignore[arg-type]
    return caught.value.field, caught.value.limit


def test_without_a_budget_the_callers_choice_or_the_models():
    assert plan().plan == Plan(SERVED.steps, SERVED.members, 7)
    assert plan(steps=9).plan == Plan(9, SERVED.members, 7)
    assert plan(ensemble=9).plan == Plan(SERVED.steps, 9, 7)
    assert plan(UNMEASURED, steps=9, ensemble=1).plan == Plan(9, 1, 7)


@settings(deadline=None)
@given(budget=st.integers(1, 8000), components=st.integers(1, 2))
def test_a_budget_of_evaluations_is_kept(budget, components):
    if budget < components:
        assert refused(budget_evals=budget, components=components) == (
            "budget_evals",
            f"at least {components}",
        )
        return
    chosen = plan(budget_evals=budget, components=components).plan
    assert chosen.steps * chosen.members * components <= budget
    model = fit_errors(SERVED.calibration)
    least = min(
        choice.expected_error
        for choice in frontier(model, components)
        if choice.evaluations <= budget
    )
    assert model.error(chosen.steps, chosen.members) == pytest.approx(least, abs=1e-8)


def test_quality_needs_no_clock_and_better_costs_more():
    costs = [
        chosen.plan.steps * chosen.plan.members
        for chosen in (plan(quality=name) for name in ("draft", "standard", "best"))
    ]
    assert costs == sorted(costs)


@settings(deadline=None)
@given(budget=st.floats(0.01, 600_000), elapsed=st.floats(0, 100))
def test_a_budget_of_time_is_kept_from_the_headers_on(budget, elapsed):
    spent = PACE.fixed_ms + 1000 * elapsed
    least = spent + PACE.step_ms[0] + PACE.finish_ms[0]
    if budget < least - 1e-6:
        field, limit = refused(budget_ms=repr(budget), pace=PACE, now=elapsed)
        assert field == "budget_ms"
        assert limit == f"at least {math.ceil(least)} ms now"
    elif budget > least + 1e-6:
        chosen = plan(budget_ms=repr(budget), pace=PACE, now=elapsed).plan
        took = spent + chosen.steps * PACE.step_ms[0] + PACE.finish_ms[chosen.members - 1]
        assert took <= budget + 1e-6


@pytest.mark.parametrize("budget", [{"budget_evals": 9}, {"budget_ms": 9}, {"quality": "draft"}])
def test_without_measurements_no_plan_is_chosen(budget):
    field, limit = refused(served=UNMEASURED, pace=PACE, **budget)
    assert field == next(iter(budget))
    assert limit == "steps and ensemble"


def test_a_deadline_before_the_budgets_end_is_the_budget():
    tight = plan(budget_ms=1000, deadline=0.02, pace=PACE).plan
    assert tight == plan(budget_ms=20, pace=PACE).plan
    assert tight != plan(budget_ms=1000, pace=PACE).plan
    # what nothing can meet is the engine's to refuse: it knows when to come back
    assert plan(budget_ms=1000, deadline=0.001, pace=PACE).plan.steps >= 1
    assert refused(budget_ms=5, deadline=0.001, pace=PACE)[0] == "budget_ms"


def test_growing_ensembles():
    assert plan(ensemble="auto") == Planned(Plan(SERVED.steps, 20, 7, 0.01))
    assert plan(ensemble="auto", steps=9, tolerance=0.5) == Planned(Plan(9, 20, 7, 0.5))
    assert plan(UNMEASURED, ensemble="auto").plan.members == 20


@settings(deadline=None)
@given(budget=st.integers(1, 8000), steps=st.integers(1, 200), components=st.integers(1, 2))
def test_growing_ensembles_keep_a_budget_of_evaluations(budget, steps, components):
    arguments = {"ensemble": "auto", "budget_evals": budget, "steps": steps}
    if budget < steps * components:
        limit = f"at least {steps * components}"
        assert refused(components=components, **arguments) == ("budget_evals", limit)
        return
    most = plan(components=components, **arguments).plan.members
    assert most * steps * components <= budget
    assert most == 20 or (most + 1) * steps * components > budget


def test_growing_ensembles_stop_in_time():
    planned = plan(ensemble="auto", steps=10, budget_ms=100, pace=PACE, now=0.01)
    # 10 elapsed, 10 fixed, 20 for ten steps: 60 ms are left for members
    assert planned.plan == Plan(10, 20, 7, 0.01)
    assert planned.grow_until == pytest.approx(0.1 - 0.020 - 0.020)
    few = plan(ensemble="auto", steps=10, budget_ms=50, pace=PACE, now=0.01)
    assert few.plan.members == 10
    assert few.grow_until == pytest.approx(0.05 - 0.020 - 0.010)


def test_growing_ensembles_stop_before_a_deadline():
    free = plan(ensemble="auto", deadline=0.02, pace=PACE)
    assert free.plan.members == 6  # 10 fixed, 2 steps of 2 ms, 6 for decoding
    assert free.grow_until == pytest.approx(0.02 - 0.004 - 0.006)
    capped = plan(ensemble="auto", deadline=0.02, budget_evals=4, pace=PACE)
    assert capped.plan.members == 2
    assert plan(ensemble="auto", deadline=0.001, pace=PACE).plan.members == 1


def test_growing_ensembles_refuse_a_budget_below_one_member():
    field, limit = refused(ensemble="auto", steps=10, budget_ms=30, pace=PACE)
    assert (field, limit) == ("budget_ms", "at least 31 ms now")
    assert plan(ensemble="auto", steps=10, budget_ms=31, pace=PACE).plan.members == 1


def test_expected_errors_are_said_where_they_are_known():
    assert expected_error(UNMEASURED, 2, 3) is None
    assert expected_error(SERVED, 11, 3) is None  # ten steps are the most that were measured
    known = expected_error(SERVED, 3, 20)
    assert known == pytest.approx(fit_errors(SERVED.calibration).error(3, 20), rel=1e-5)
    assert float(f"{known:.6g}") == known
    one = dataclasses.replace(SERVED, calibration=(CalibrationPoint(4, 1, 0.25),))
    assert expected_error(one, 4, 9) == 0.25


def test_knobs_have_the_budgets_in_one_order():
    assert Knobs(budget_ms=5.0).budgets == ("budget_ms",)
