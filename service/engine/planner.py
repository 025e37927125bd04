"""Turns a budget into steps and members: the least expected error that the budget affords.

What errors to expect comes from the model's calibration (`service/core/budget.py`), what a call
costs now from the caller. Knows no clock, no event loop and no backend. Plans keep to the measured
range of steps, and to 1..20 members.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from service.core.artifact import MAX_MEMBERS, MAX_STEPS
from service.core.budget import TIE, Choice, ErrorModel, PlanError, Quality, cheapest

_STEPS = np.arange(1, MAX_STEPS + 1)[:, None]  # (200, 1)
_MEMBERS = np.arange(1, MAX_MEMBERS + 1)  # (20,)
_EVALUATIONS = _STEPS * _MEMBERS  # (200, 20), of one component
# Flat indices from the cheapest plan to the dearest; of equally cheap ones fewest steps come first.
_ORDER = np.argsort(_EVALUATIONS, axis=None, kind="stable")


@dataclass(frozen=True)
class Pace:
    """What a call would cost now, in milliseconds, all finite and at least 0.

    `fixed_ms` is what no plan changes: time already spent, the queue, encoding, rendering.
    `step_ms[m - 1]` is one denoising step of all rows of m members, and `finish_ms[m - 1]` decoding
    and reducing them, for m = 1..20. Raises ValueError when a number or a length is wrong.
    """

    fixed_ms: float
    step_ms: tuple[float, ...]
    finish_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("step_ms", "finish_ms"):
            if len(getattr(self, name)) != MAX_MEMBERS:
                raise ValueError(f"{name} must have {MAX_MEMBERS} numbers")
        for cost in (self.fixed_ms, *self.step_ms, *self.finish_ms):
            if not 0 <= cost < math.inf:
                raise ValueError(f"a cost must be finite and at least 0 ms, not {cost}")


@lru_cache(maxsize=256)
def frontier(model: ErrorModel, num_components: int) -> tuple[Choice, ...]:
    """Every plan that no cheaper or equally cheap plan matches: what more evaluations buy.

    Evaluations ascend and expected errors fall, each by more than `TIE`. `num_components` is at
    least 1, and each step of each member takes that many evaluations.
    """
    if num_components < 1:
        raise ValueError(f"num_components must be at least 1, not {num_components}")
    errors = model.table().ravel()[_ORDER]
    least_before = np.minimum.accumulate(np.concatenate([[np.inf], errors[:-1]]))
    found: list[Choice] = []
    for index in _ORDER[errors < least_before]:  # the rest cannot be on it
        choice = _choice(model, num_components, int(index))
        if found and choice.expected_error >= found[-1].expected_error - TIE:
            continue
        if found and choice.evaluations == found[-1].evaluations:
            found.pop()
        found.append(choice)
    return tuple(found)


def plan_evaluations(model: ErrorModel, num_components: int, budget_evals: int) -> Choice:
    """The least expected error within a number of denoiser evaluations; of ties the cheapest.

    Always on the frontier, so a larger budget never has a larger error. Raises PlanError when the
    budget pays for no plan.
    """
    choices = frontier(model, num_components)
    num_affordable = bisect_right(choices, budget_evals, key=lambda choice: choice.evaluations)
    if num_affordable == 0:
        least = choices[0].evaluations
        raise PlanError(
            "budget_evals",
            f"{budget_evals} evaluations pay for no plan: the smallest takes {least}",
            f"at least {least}",
        )
    return choices[num_affordable - 1]


def plan_time(model: ErrorModel, num_components: int, budget_ms: float, pace: Pace) -> Choice:
    """The least expected error of the plans whose cost at this pace is within `budget_ms`.

    That is fixed_ms + steps * step_ms + finish_ms <= budget_ms; of ties (errors within `TIE`) the
    one with fewest evaluations. A larger budget at the same pace never has a larger error, up to
    `TIE`. Raises PlanError when the budget pays for no plan.
    """
    costs = pace.fixed_ms + _STEPS * np.array(pace.step_ms) + np.array(pace.finish_ms)
    table = model.table()
    affordable = np.where(costs <= budget_ms, table, np.inf)
    least_error = affordable.min()
    if not np.isfinite(least_error):
        least_ms = math.ceil(costs[np.isfinite(table)].min())
        raise PlanError(
            "budget_ms",
            f"{budget_ms:g} ms pay for no plan: the fastest would take {least_ms} ms now",
            f"at least {least_ms} ms now",
        )
    tied = affordable <= least_error + TIE
    # Of equal evaluations the first is taken: the one with fewest steps.
    index = np.where(tied, _EVALUATIONS, _EVALUATIONS[-1, -1] + 1).argmin()
    return _choice(model, num_components, int(index))


def plan_quality(model: ErrorModel, num_components: int, quality: Quality) -> Choice:
    """The cheapest plan that is as good as a quality asks; always on the frontier.

    Good enough is what exceeds the least error over the measured range of steps and members by no
    more than the quality's share: no quality chases an error that only extrapolation promises. The
    plan itself may have more members than were measured where these replace costlier steps.
    """
    return cheapest(frontier(model, num_components), model.least_error(), quality)


def _choice(model: ErrorModel, num_components: int, index: int) -> Choice:
    """The plan at a flat index of the table."""
    step, member = divmod(index, MAX_MEMBERS)
    evaluations = int(_EVALUATIONS[step, member]) * num_components
    return Choice(step + 1, member + 1, float(model.table()[step, member]), evaluations)
