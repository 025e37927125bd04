"""Whether something grows: a line through it, and how well its slope is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

S_PER_H = 3600.0


@dataclass(frozen=True)
class Line:
    """A line through a quantity: its mean, its slope an hour, and the standard error of that."""

    mean: float
    slope: float
    error: float

    @classmethod
    def through(cls, at_s: Sequence[float], values: Sequence[float]) -> Line:
        """Fit by least squares.

        Memory now is much like memory a moment ago, so the error counts fewer samples than there
        are: n (1 - r) / (1 + r) with r the correlation of neighbouring residuals (AR(1)).
        """
        hours, held = np.array(at_s) / S_PER_H, np.array(values)
        hours = hours - hours.mean()
        slope = float(hours @ held / (hours @ hours))
        rest = held - held.mean() - slope * hours
        squares = float(rest @ rest)
        r = max(0.0, float(rest[1:] @ rest[:-1]) / squares) if squares else 0.0
        count = max(3.0, len(held) * (1 - r) / (1 + r))
        variance = squares / len(held) * count / (count - 2)
        spread = float(hours @ hours) / len(held)
        return cls(float(held.mean()), slope, (variance / spread / count) ** 0.5)

    def __str__(self) -> str:
        percent = 100 / self.mean
        return (
            f"{self.mean:.1f}, {self.slope:+.2f} +- {self.error:.2f} /h, "
            f"{self.slope * percent:+.2f} +- {self.error * percent:.2f} %/h"
        )
