"""From a caller's knobs to the plan of one call: chosen by measurement where a budget is given.

The planner knows errors and costs, the caller's clock starts with the headers: here they meet.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from service.api.knobs import AUTO, DEFAULT_TOLERANCE, Knobs
from service.api.terms import Call
from service.core.artifact import MAX_MEMBERS, ServedTask
from service.core.budget import Choice, PlanError, fit_errors
from service.engine.adaptive import ROUNDS
from service.engine.planner import Pace, plan_evaluations, plan_quality, plan_time
from service.engine.request import Plan
from service.errors import InvalidField

_LARGEST_ROUND = max(after - before for before, after in pairwise(ROUNDS))
_SIGNIFICANT = 6  # digits of an expected error: the same number in headers, JSON and arrays


@dataclass(frozen=True)
class Planned:
    """A plan, and until when (seconds on the engine's clock) an adaptive one may add members."""

    plan: Plan
    grow_until: float | None = None


@dataclass(frozen=True)
class Moment:
    """When a plan is chosen: `now` in seconds on the engine's clock, costs from then on."""

    call: Call
    now: float
    pace: Callable[[], Pace]

    def pace_of_call(self) -> Pace:
        """Return the cost of the whole call, with the time that it has already taken."""
        pace = self.pace()
        return replace(pace, fixed_ms=pace.fixed_ms + 1000 * (self.now - self.call.arrived))


def choose_plan(
    knobs: Knobs, served: ServedTask, num_components: int, seed: int, moment: Moment
) -> Planned:
    """Choose steps and members; raises InvalidField for a budget below the least.

    And for more steps than the model was made for.
    """
    if knobs.steps is not None and knobs.steps > served.max_steps:
        raise InvalidField(
            f"The model was not made for {knobs.steps} steps",
            field="steps",
            limit=f"1..{served.max_steps}",
        )
    if knobs.ensemble == AUTO:
        return _choose_growing(knobs, served, num_components, seed, moment)
    if not knobs.budgets:
        steps, members = knobs.steps or served.steps, knobs.ensemble or served.members
        return Planned(Plan(steps, members, seed))
    try:
        choice = _choose(knobs, served, num_components, moment)
    except PlanError as error:
        (budget,) = knobs.budgets
        raise InvalidField(error.message, field=error.field or budget, limit=error.limit) from error
    return Planned(Plan(choice.steps, choice.members, seed))


def expected_error(served: ServedTask, steps: int, members: int) -> float | None:
    """Return the error that a model's calibration leads to expect, None where it says nothing."""
    if not served.calibration:
        return None
    model = fit_errors(served.calibration)
    if not model.covers(steps):
        return None
    return rounded(model.error(steps, members))


def rounded(error: float) -> float:
    """Round an expected error to the digits that are told."""
    return float(f"{error:.{_SIGNIFICANT}g}")


def _choose(knobs: Knobs, served: ServedTask, num_components: int, moment: Moment) -> Choice:
    model = fit_errors(served.calibration)
    if knobs.budget_evals is not None:
        return plan_evaluations(model, num_components, knobs.budget_evals)
    if knobs.quality is not None:
        return plan_quality(model, num_components, knobs.quality)
    assert knobs.budget_ms is not None, "one of the three is given"
    pace = moment.pace_of_call()
    deadline_ms = moment.call.deadline_ms
    if deadline_ms is not None and deadline_ms < knobs.budget_ms:
        try:
            return plan_time(model, num_components, deadline_ms, pace)
        except PlanError:  # the engine refuses what cannot meet a deadline, and says until when
            pass
    return plan_time(model, num_components, knobs.budget_ms, pace)


def _choose_growing(
    knobs: Knobs, served: ServedTask, num_components: int, seed: int, moment: Moment
) -> Planned:
    steps = knobs.steps or served.steps
    tolerance = DEFAULT_TOLERANCE if knobs.tolerance is None else knobs.tolerance
    most = MAX_MEMBERS
    if knobs.budget_evals is not None:
        most = min(most, knobs.budget_evals // (steps * num_components))
        if most < 1:
            raise InvalidField(
                f"{knobs.budget_evals} evaluations do not pay for one member of {steps} steps",
                field="budget_evals",
                limit=f"at least {steps * num_components}",
            )
    limits_ms = [ms for ms in (knobs.budget_ms, moment.call.deadline_ms) if ms is not None]
    if not limits_ms:
        return Planned(Plan(steps, most, seed, tolerance))
    pace = moment.pace_of_call()
    costs_ms = [
        pace.fixed_ms + steps * step_ms + finish_ms
        for step_ms, finish_ms in zip(pace.step_ms, pace.finish_ms, strict=True)
    ]
    if knobs.budget_ms is not None and costs_ms[0] > knobs.budget_ms:
        raise InvalidField(
            f"One member of {steps} steps would take {costs_ms[0]:.0f} ms now",
            field="budget_ms",
            limit=f"at least {math.ceil(costs_ms[0])} ms now",
        )
    limit_ms = min(limits_ms)
    most = min(most, _most_within(costs_ms, limit_ms))
    # The last round must be begun while there is time for it and for all that follows.
    last_ms = steps * pace.step_ms[min(_LARGEST_ROUND, most) - 1] + pace.finish_ms[most - 1]
    grow_until = moment.call.arrived + (limit_ms - last_ms) / 1000
    return Planned(Plan(steps, most, seed, tolerance), grow_until)


def _most_within(costs_ms: Sequence[float], limit_ms: float) -> int:
    """Return the members up to which every ensemble fits; one where none does."""
    fitting = 0
    for cost_ms in costs_ms:
        if cost_ms > limit_ms:
            break
        fitting += 1
    return max(1, fitting)
