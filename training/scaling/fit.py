"""Power laws y = a C^b, their confidence, and when the data do not support one.

A straight line in log-log coordinates can be drawn through any points, so a law is only claimed
where five checks hold: enough different C, an exponent whose confidence interval leaves out zero, a
better forecast of every left-out point than a constant gives, most of the variance explained, and a
change of y that is worth a word.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import t as student

Array = NDArray[np.float64]
Predict = Callable[[Array, Array, Array], Array]

MIN_POINTS = 4  # different x: with three, one residual degree of freedom says nothing
MIN_R2 = 0.8
MIN_SPAN = 2.0  # largest over smallest x: an exponent over less is an extrapolation
OFFSET_GAIN = 0.8  # an offset must cut the left-out error to this fraction to be believed
MIN_CHANGE = 0.02  # of y over all x: less may be significant and still says nothing
CONFIDENCE = 0.95


@dataclass(frozen=True)
class PowerLaw:
    """y = offset + a x^b over `num_points` different x.

    `low` and `high` bound b at 95 % confidence, `r2` is of log y. `supported` says whether the data
    bear the law and `verdict` why (not). `curved` marks points that bend in log-log coordinates: b
    then only describes the measured range.
    """

    a: float
    b: float
    offset: float
    low: float
    high: float
    r2: float
    num_points: int
    supported: bool
    curved: bool
    verdict: str

    def __call__(self, x: Array) -> Array:
        """The law's y at `x`."""
        return self.offset + self.a * x**self.b


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fits errors `y` over positive `x`; repeated x (seeds) count once, by their geometric mean.

    Least squares in log space, with Student's t for the interval. An offset is added where it
    forecasts left-out points clearly better. Raises ValueError for other numbers.
    """
    given_x, given_y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if given_x.shape != given_y.shape or given_x.ndim != 1:
        raise ValueError(
            f"x and y must be lists of one length, got {given_x.shape}, {given_y.shape}"
        )
    if not (np.isfinite(given_x).all() and np.isfinite(given_y).all()):
        raise ValueError("x and y must be finite")
    if (given_x <= 0).any() or (given_y < 0).any():
        raise ValueError("a power law needs x above 0 and no y below it")
    if (given_y == 0).any():
        return _nothing("an error of 0 has no logarithm", len(given_x))
    log_x, log_y = _merge(np.log(given_x), np.log(given_y))
    if len(log_x) < MIN_POINTS:
        return _too_few(log_x, log_y)
    if log_x[-1] - log_x[0] < math.log(MIN_SPAN):
        return _too_few(log_x, log_y, f"x spans a factor of {math.exp(np.ptp(log_x)):.2f} only")
    return _judge(log_x, log_y)


def _merge(log_x: Array, log_y: Array) -> tuple[Array, Array]:
    """One point per different x (to 0.1 %), sorted, with the mean of its log y."""
    order = np.argsort(log_x)
    log_x, log_y = log_x[order], log_y[order]
    group = np.concatenate([[0], np.cumsum(np.diff(log_x) > 1e-3)])
    count = np.bincount(group)
    return np.bincount(group, log_x) / count, np.bincount(group, log_y) / count


def _nothing(reason: str, count: int) -> PowerLaw:
    nan = math.nan
    return PowerLaw(nan, nan, 0.0, nan, nan, nan, count, False, False, f"no law: {reason}")


def _too_few(log_x: Array, log_y: Array, reason: str | None = None) -> PowerLaw:
    count = len(log_x)
    reason = reason or f"{count} different x, {MIN_POINTS} are needed"
    a, b = math.exp(float(log_y.mean())), 0.0
    if count >= 2:
        slope, intercept = np.polyfit(log_x, log_y, 1)
        a, b = math.exp(float(intercept)), float(slope)
    nothing = math.nan
    verdict = f"no law: {reason}"
    return PowerLaw(a, b, 0.0, nothing, nothing, nothing, count, False, False, verdict)


def _judge(log_x: Array, log_y: Array) -> PowerLaw:
    b, intercept = (float(value) for value in np.polyfit(log_x, log_y, 1))
    low, high = _interval(log_x, log_y, b, intercept)
    r2 = _r2(log_y, intercept + b * log_x)
    line = _left_out_error(log_x, log_y, _line)
    constant = _left_out_error(log_x, log_y, _constant)
    change = abs(math.expm1(b * float(np.ptp(log_x))))
    failures = [
        reason
        for failed, reason in (
            (low <= 0 <= high, f"the exponent's interval [{low:.3f}, {high:.3f}] includes 0"),
            (line >= constant, "a constant forecasts left-out points as well"),
            (r2 < MIN_R2, f"R2 is {r2:.2f}"),
            (change < MIN_CHANGE, f"y changes by {change:.1%} over the whole range"),
        )
        if failed
    ]
    curved = _bends(log_x, log_y)
    offset = None if failures else _offset_law(log_x, log_y, line, curved)
    if offset is not None:
        return offset
    law = f"y = {math.exp(intercept):.4g} C^{b:.4f} [{low:.4f}, {high:.4f}], R2 {r2:.3f}"
    bend = ", but bent in log-log: only for this range" if curved else ""
    growth = " of growing error" if b > 0 else ""
    verdict = f"no law: {'; '.join(failures)}" if failures else f"law{growth}: {law}{bend}"
    supported = not failures
    count = len(log_x)
    return PowerLaw(math.exp(intercept), b, 0.0, low, high, r2, count, supported, curved, verdict)


def _interval(log_x: Array, log_y: Array, b: float, intercept: float) -> tuple[float, float]:
    """Confidence interval of the slope of a straight line by least squares."""
    freedom = len(log_x) - 2
    residual = log_y - intercept - b * log_x
    spread = float(np.square(log_x - log_x.mean()).sum())
    error = math.sqrt(float(np.square(residual).sum()) / freedom / spread)
    reach = float(student.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return b - reach, b + reach


def _r2(log_y: Array, predicted: Array) -> float:
    total = float(np.square(log_y - log_y.mean()).sum())
    return 1 - float(np.square(log_y - predicted).sum()) / total if total > 0 else 0.0


def _left_out_error(log_x: Array, log_y: Array, predict: Predict) -> float:
    """Root mean square of the error in log y of each point, forecast from all others."""
    errors = []
    for index in range(len(log_x)):
        kept = np.arange(len(log_x)) != index
        forecast = predict(log_x[kept], log_y[kept], log_x[index : index + 1])
        errors.append(float(forecast[0] - log_y[index]))
    return float(np.sqrt(np.mean(np.square(errors))))


def _line(log_x: Array, log_y: Array, at: Array) -> Array:
    slope, level = np.polyfit(log_x, log_y, 1)
    return np.asarray(level + slope * at, dtype=np.float64)


def _constant(log_x: Array, log_y: Array, at: Array) -> Array:
    del log_x  # that is what makes it a constant
    return np.full_like(at, log_y.mean())


def _bends(log_x: Array, log_y: Array) -> bool:
    """Whether a quadratic term in log-log coordinates is significant; False below five points."""
    freedom = len(log_x) - 3
    if freedom < 2:
        return False
    centred = log_x - log_x.mean()
    design = np.stack([np.ones_like(centred), centred, centred**2], axis=1)
    solution, _, _, _ = np.linalg.lstsq(design, log_y, rcond=None)
    squares = float(np.square(log_y - design @ solution).sum())
    variance = float(np.linalg.inv(design.T @ design)[2, 2]) * squares / freedom
    if variance <= 0:
        return False
    ratio = abs(float(solution[2])) / math.sqrt(variance)
    return ratio > float(student.ppf(0.5 + CONFIDENCE / 2, freedom))


def _offset_model(log_x: Array, log_a: float, b: float, offset: float) -> Array:
    return np.log(offset + np.exp(np.clip(log_a + b * log_x, -60, 60)))


def _fit_offset(log_x: Array, log_y: Array) -> tuple[Array, Array]:
    """(log a, b, offset) around the mean of log x, and their covariance; raises RuntimeError."""
    slope, level = np.polyfit(log_x, log_y, 1)
    smallest = float(np.exp(log_y.min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        found, covariance = curve_fit(
            _offset_model,
            log_x,
            log_y,
            p0=(float(level), 2 * float(slope), 0.5 * smallest),
            bounds=([-60, -8, 0], [60, 8, 0.999 * smallest]),
            max_nfev=4000,
        )
    return found, covariance


def _offset_line(log_x: Array, log_y: Array, at: Array) -> Array:
    try:
        found, _ = _fit_offset(log_x, log_y)
    except RuntimeError:
        return np.full_like(at, np.inf)
    return _offset_model(at, *found)


def _offset_law(log_x: Array, log_y: Array, line: float, curved: bool) -> PowerLaw | None:
    """y = c + a x^b where the points bend, it forecasts clearly better and c is not 0."""
    freedom = len(log_x) - 3
    if not curved or freedom < 2:
        return None
    middle = float(log_x.mean())
    centred = log_x - middle
    if not _left_out_error(centred, log_y, _offset_line) < OFFSET_GAIN * line:
        return None
    (log_a, b, offset), covariance = _fit_offset(centred, log_y)
    reach = float(student.ppf(0.5 + CONFIDENCE / 2, freedom)) * np.sqrt(np.diag(covariance))
    if not (np.isfinite(reach).all() and offset > reach[2] and abs(b) > reach[1]):
        return None
    a = math.exp(log_a - b * middle)
    low, high = b - reach[1], b + reach[1]
    r2 = _r2(log_y, _offset_model(centred, log_a, b, offset))
    growth = " of growing error" if b > 0 else ""
    verdict = (
        f"law{growth}: y = {offset:.4g} + {a:.4g} C^{b:.4f} [{low:.4f}, {high:.4f}], "
        f"R2 {r2:.3f} (an offset forecasts left-out points clearly better)"
    )
    return PowerLaw(a, b, float(offset), low, high, r2, len(log_x), True, True, verdict)
