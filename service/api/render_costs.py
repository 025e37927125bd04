"""What reducing and rendering an answer will take, learnt from the answers that were rendered."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.optimize import nnls

from service.core.ensemble import Reduction
from service.core.tasks import TaskName

_NUM_SAMPLES = 64  # of each kind: enough to separate the terms, few enough to forget a busy hour
_DEVIATIONS = 2.0  # mean absolute ones above the mean: the 95th percentile of a Gaussian
_FIRST_GUESS_MS = (20.0, 10.0, 100.0)  # generous: an answer before its time harms nobody


@dataclass(frozen=True)
class RenderKind:
    """Answers whose costs follow one law."""

    task: TaskName
    output: str
    reduction: Reduction


@dataclass(frozen=True)
class RenderSize:
    """What the cost grows with: members reduced, and millions of pixels of every map written."""

    members: int
    megapixels: float

    def terms(self) -> tuple[float, float, float]:
        """Return what a law's coefficients are multiplied with."""
        return (1.0, float(self.members), self.megapixels)


class RenderCosts:
    """Costs in ms as a + b members + c megapixels with a, b, c >= 0, fitted for each kind.

    Plain and single-threaded. A kind not yet seen is taken to cost what the dearest known one of
    its task does.
    """

    def __init__(self) -> None:
        self._samples: dict[RenderKind, deque[tuple[RenderSize, float]]] = {}

    def learn(self, kind: RenderKind, size: RenderSize, duration_ms: float) -> None:
        """Take note of an answer that was rendered."""
        samples = self._samples.setdefault(kind, deque(maxlen=_NUM_SAMPLES))
        samples.append((size, duration_ms))

    def predict_ms(self, kind: RenderKind, sizes: Iterable[RenderSize]) -> tuple[float, ...]:
        """Return for each size what nearly all answers of that kind stay below."""
        terms = np.array([size.terms() for size in sizes])
        known = [kind] if kind in self._samples else self._others(kind.task)
        if not known:
            return tuple((terms @ np.array(_FIRST_GUESS_MS)).tolist())
        costs = [_predict(self._samples[other], terms, _DEVIATIONS) for other in known]
        return tuple(np.max(costs, axis=0).tolist())

    def typical_ms(self, kind: RenderKind, size: RenderSize) -> float:
        """Return what an answer of that kind takes on average, 0 for one not yet seen."""
        if kind not in self._samples:
            return 0.0
        (cost,) = _predict(self._samples[kind], np.array([size.terms()]), deviations=0.0)
        return float(cost)

    def _others(self, task: TaskName) -> list[RenderKind]:
        return [kind for kind in self._samples if kind.task == task]


def _predict(
    samples: Iterable[tuple[RenderSize, float]],
    terms: Float64[np.ndarray, "sizes 3"],
    deviations: float,
) -> Float64[np.ndarray, " sizes"]:
    """Fit one kind's law to its samples; return its costs, so many deviations above the mean.

    Above the sizes that were seen the cost grows as it may, below them it does not fall: equal
    samples do not tell a constant from what is proportional.
    """
    seen = np.array([size.terms() for size, _ in samples])
    durations = np.array([duration_ms for _, duration_ms in samples])
    scale = seen.mean(axis=0)  # the terms are of like size then, whatever their units
    law, _ = nnls(seen / scale, durations)
    spread = np.abs(durations - seen / scale @ law).mean()
    # The noise of an answer grows with its size as its cost does.
    growth = np.maximum(terms / scale, 1).max(axis=1)
    costs = np.maximum(terms, seen.min(axis=0)) / scale @ law + deviations * spread * growth
    return np.asarray(costs, dtype=np.float64)
