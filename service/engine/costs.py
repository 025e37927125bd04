"""What a model call costs on each device, learnt from every call, and the batch worth making there.

Devices are known by a name that workers of equal speed share. Nothing here is a constant of a
device: bigger batches are tried as long as they have made a row cheaper. Knows no clock.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from service.engine.groups import Network

_SMOOTHING = 0.2  # weight of the newest call
_WORTH = 0.9  # a larger batch must make a row at least this much cheaper than a smaller one
_LONGEST_CALL_S = 0.25  # that a batch is grown to: a newcomer waits for the call under way
_SURELY = 2.5  # mean absolute deviations: 95 of 100 calls of a Gaussian spread stay below 2.1
_SLOW_SMOOTHING = 0.05  # of what a row costs in full batches: a rate is for seconds to come
_DERIVE_EVERY = 32  # calls; what follows from the table is then worked out anew
_TRY_AGAIN_AFTER = 256  # calls: machines change, and a first measurement may have been disturbed


@dataclass(slots=True)
class _Measured:
    """Moving averages over calls of about the same size."""

    rows: float
    seconds: float
    seen: int  # number of the newest call, counted over the table
    guessed: bool = False
    deviation: float = 0.0  # mean absolute, of `seconds`

    def include(self, rows: int, seconds: float, seen: int) -> None:
        self.seen = seen
        self.deviation += _SMOOTHING * (abs(seconds - self.seconds) - self.deviation)
        self.rows += _SMOOTHING * (rows - self.rows)
        self.seconds += _SMOOTHING * (seconds - self.seconds)

    @property
    def per_row(self) -> float:
        return self.seconds / self.rows


class CostTable:
    """Seconds of a call by (device, network, rows); sizes are kept apart by powers of two.

    A network is known by its name and its input's shape.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, Network], dict[int, _Measured]] = {}
        self._num_observed = 0
        self._worth: dict[tuple[str, Network], tuple[int, int]] = {}
        self._full: dict[tuple[str, Network], tuple[int, float]] = {}  # size, seconds of a row

    def observe(self, device: str, network: Network, rows: int, seconds: float) -> None:
        """Learn from a call that returned."""
        sizes = self._known.setdefault((device, network), {})
        size = _size(rows)
        self._num_observed += 1
        new = size not in sizes or sizes[size].guessed
        if new:
            sizes[size] = _Measured(float(rows), seconds, self._num_observed)
        else:
            sizes[size].include(rows, seconds, self._num_observed)
        if new or self._num_observed % _DERIVE_EVERY == 0:
            self._worth.clear()
        self._follow(device, network, rows, seconds)

    def knows(self, device: str, network: Network) -> bool:
        """Whether a network was called, or guessed, on a device."""
        return (device, network) in self._known

    def networks(self, device: str) -> list[Network]:
        """What was called, or guessed, on a device."""
        return [network for name, network in self._known if name == device]

    def take_after(self, device: str, network: Network, other: Network, factor: float) -> None:
        """Guess a network's costs: `factor` times those of another, until it is called itself."""
        self._known[device, network] = {
            size: replace(known, seconds=factor * known.seconds, guessed=True)
            for size, known in self._known[device, other].items()
        }
        if (full := self._full.get((device, other))) is not None:
            self._full[device, network] = (full[0], factor * full[1])

    def _follow(self, device: str, network: Network, rows: int, seconds: float) -> None:
        """Learn what a row costs in full batches.

        The size that looks cheapest does so in part by chance; what such calls go on to take is
        the truth.
        """
        key, size = (device, network), self._worthwhile(device, network)[0]
        known_size, row_s = self._full.get(key, (0, 0.0))
        if known_size != size:
            found = self._known[key].get(size)
            row_s = seconds / rows if found is None else found.per_row
        elif rows >= size:
            row_s += _SLOW_SMOOTHING * (seconds / rows - row_s)
        self._full[key] = (size, row_s)

    def seconds(
        self, device: str, network: Network, rows: int, *, surely: bool = False
    ) -> float | None:
        """Predicted seconds of one call, or None when the network never ran there.

        Linear between the sizes that were measured, in proportion to the rows beyond them.
        `surely` gives what nearly every call stays below.
        """
        sizes = self._known.get((device, network))
        if not sizes:
            return None
        points = sorted(sizes.values(), key=lambda measured: measured.rows)
        seconds = _interpolate([(p.rows, p.seconds) for p in points], float(rows))
        if not surely:
            return seconds
        nearest = sizes.get(_size(rows), points[-1])
        return seconds * (1 + _SURELY * nearest.deviation / max(nearest.seconds, 1e-9))

    def max_rows(self, device: str, network: Network, most: int) -> int:
        """Rows that a batch is filled to: the fewest with the cheapest rows, and once twice that.

        What was not measured lately is tried, up to `most`: the profile grows as requests come.
        """
        return min(most, self._worthwhile(device, network)[1])

    def rate(self, device: str, network: Network) -> float | None:
        """Rows per second of one worker in full batches, or None where nothing is known."""
        _, row_s = self._full.get((device, network), (0, 0.0))
        return 1 / row_s if row_s else None

    def rows_per_second(self, devices: Sequence[str], network: Network) -> float | None:
        """Rows per second of workers on these devices together, None where nothing is known.

        Workers of devices where the network never ran are taken to be like the others.
        """
        rates = [rate for device in devices if (rate := self.rate(device, network))]
        return sum(rates) / len(rates) * len(devices) if rates else None

    def row_seconds(self, network: Network) -> float | None:
        """Seconds of a row in a good batch on the devices that ran it, or None if there is none."""
        devices = [device for device, name in self._known if name == network]
        rate = self.rows_per_second(devices, network)
        return len(devices) / rate if rate else None

    def _worthwhile(self, device: str, network: Network) -> tuple[int, int]:
        """The largest batch known to be worth it, and the one to fill: that or, untried, twice."""
        key = (device, network)
        if key not in self._worth:
            self._worth[key] = self._weigh(self._known.get(key, {}))
        return self._worth[key]

    def _weigh(self, sizes: Mapping[int, _Measured]) -> tuple[int, int]:
        quick = [rows for rows, found in sizes.items() if found.seconds <= _LONGEST_CALL_S]
        if not quick:
            return (1, 1) if sizes else (1, 2)
        least = min(sizes[rows].per_row for rows in quick)
        rows = min(rows for rows in quick if _WORTH * sizes[rows].per_row <= least)
        larger = sizes.get(2 * rows)
        due = larger is None or self._num_observed - larger.seen > _TRY_AGAIN_AFTER
        return (rows, 2 * rows if due else rows)


def _size(rows: int) -> int:
    """The power of two that is nearest in ratio."""
    return 1 << round(math.log2(rows))


def _interpolate(points: Sequence[tuple[float, float]], rows: float) -> float:
    """Piecewise linear through the points; proportional beyond the last, level below the first."""
    if rows <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if rows <= x1:
            return y0 + (y1 - y0) * (rows - x0) / max(x1 - x0, 1e-9)
    x, y = points[-1]
    return y * rows / x
