"""What compute buys: the error that a task's calibration predicts for steps and members, and which
of several choices is good enough.

Shared by the planner, which spends a caller's budget, and by the export, which sets a model's
defaults. Knows measured errors only: nothing about time, devices or requests.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float64

from service.core.artifact import MAX_MEMBERS, MAX_STEPS, CalibrationPoint

Quality = Literal["draft", "standard", "best"]
# By how much of the least error a quality may exceed it.
QUALITIES: Mapping[Quality, float] = {"draft": 0.15, "standard": 0.02, "best": 0.0}
TIE = 1e-9  # errors that are this close are equal: below it is the rounding of the fit


class PlanError(Exception):
    """No plan can be made: the field of the call at fault ("" for any budget), and its limit."""

    def __init__(self, field: str, message: str, limit: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.limit = limit


@dataclass(frozen=True)
class Choice:
    """A plan and its price: `evaluations` of the denoiser over all members and components.

    `expected_error` is in the task's `error_metric`.
    """

    steps: int
    members: int
    expected_error: float
    evaluations: int


def cheapest(choices: Iterable[Choice], least_error: float, quality: Quality) -> Choice:
    """The cheapest choice whose error exceeds `least_error` by no more than the quality's share.

    Of equally cheap ones the one with fewest steps, since members run side by side and steps do
    not. Raises ValueError when no choice is good enough.
    """
    limit = (1 + QUALITIES[quality]) * least_error + TIE
    good = (choice for choice in choices if choice.expected_error <= limit)
    return min(good, key=lambda choice: (choice.evaluations, choice.steps))


@dataclass(frozen=True)
class ErrorModel:
    """Error against steps and members, fitted to measurements; in the task's `error_metric`.

    At each measured step count the error of m members is a + b / m with a, b >= 0: averaging
    leaves a bias and divides a variance by m. Between step counts a and b are linear in log(steps).
    `steps` ascends; `most_members` is the largest member count measured, and the law holds for
    more. Step counts outside the measured range are not covered, since no law is known for them.
    """

    steps: tuple[int, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]
    most_members: int

    def covers(self, steps: int) -> bool:
        """Whether a step count lies in the measured range."""
        return self.steps[0] <= steps <= self.steps[-1]

    def error(self, steps: int, members: int) -> float:
        """Expected error of a plan; ValueError for steps not covered, or members not 1..20."""
        if not self.covers(steps):
            raise ValueError(f"steps must be in {self.steps[0]}..{self.steps[-1]}, not {steps}")
        if not 1 <= members <= MAX_MEMBERS:
            raise ValueError(f"members must be in 1..{MAX_MEMBERS}, not {members}")
        return float(self.table()[steps - 1, members - 1])

    def table(self) -> Float64[np.ndarray, "steps members"]:
        """Expected error of `table()[steps - 1, members - 1]`, infinite where not covered.

        (200, 20), computed once per model and read-only.
        """
        return _table(self)

    def least_error(self) -> float:
        """The least expected error over the measured range of steps and members."""
        return float(self.table()[:, self.most_members - 1].min())  # it never grows with members


def fit_errors(points: Sequence[CalibrationPoint]) -> ErrorModel:
    """Fit a task's calibration by least squares, step count by step count.

    A step count that was measured with one member count only gets b = 0: nothing says that members
    help there. Computed once per calibration. Raises PlanError when there is no point.
    """
    return _fit(tuple(points))


@lru_cache(maxsize=256)
def _fit(points: tuple[CalibrationPoint, ...]) -> ErrorModel:
    if not points:
        raise PlanError(
            "",
            "no errors were measured for this task of this model, so no plan can be chosen by them",
            "steps and ensemble",
        )
    steps = tuple(sorted({point.steps for point in points}))
    laws = [_fit_law([point for point in points if point.steps == count]) for count in steps]
    return ErrorModel(
        steps,
        tuple(a for a, _ in laws),
        tuple(b for _, b in laws),
        max(point.members for point in points),
    )


def _fit_law(points: Sequence[CalibrationPoint]) -> tuple[float, float]:
    """The non-negative a and b of least squared a + b / m - error."""
    errors = np.array([point.error for point in points])
    x = 1 / np.array([point.members for point in points])
    mean_error, centred = float(errors.mean()), x - x.mean()
    spread = float(centred @ centred)
    if len({point.members for point in points}) == 1:
        return mean_error, 0.0
    b = float(centred @ (errors - mean_error)) / spread
    a = mean_error - b * float(x.mean())
    if b < 0:
        return mean_error, 0.0
    if a < 0:
        return 0.0, float(x @ errors) / float(x @ x)
    return a, b


@lru_cache(maxsize=256)
def _table(model: ErrorModel) -> Float64[np.ndarray, "steps members"]:
    logs = np.log(np.arange(1, MAX_STEPS + 1))
    measured = logs[np.array(model.steps) - 1]
    a = np.interp(logs, measured, model.a, left=np.inf, right=np.inf)
    b = np.interp(logs, measured, model.b, left=0.0, right=0.0)
    table = a[:, None] + b[:, None] / np.arange(1, MAX_MEMBERS + 1)
    table.setflags(write=False)
    return table
