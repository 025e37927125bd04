"""How much the service takes on at once, and when those it turns away should come back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.api.failures import whole_seconds
from service.errors import TooBusy
from service.metrics import Metrics

MOST_BEYOND = 2  # times a bound, for all that are owed their even part together


@dataclass(frozen=True)
class AdmissionLimits:
    """Predictions in work or waiting, and bytes of their uploads and answers.

    Each is the bound of what one caller, or several, may fill. A caller with less than an even part
    is let in beyond it, up to twice the bound.
    """

    max_concurrent_requests: int
    max_buffered_bytes: int


@dataclass
class Place:
    """What one prediction takes up, from its upload until its answer is sent. Mutable."""

    num_bytes: int
    caller: str = ""


@dataclass
class _Held:
    """What predictions take up together. Mutable."""

    num_requests: int = 0
    num_bytes: int = 0

    def add(self, num_requests: int, num_bytes: int) -> None:
        self.num_requests += num_requests
        self.num_bytes += num_bytes


@dataclass(frozen=True)
class _Want:
    """What would be held by all, and by one caller, if he were let in."""

    total: int
    own: int
    caller: str


class Admission:
    """Bounded requests and bytes: what guards the memory. The engine bounds the work itself.

    `drain_s` predicts the seconds until the present work is done: when those that are turned away
    should come back. Plain and single-threaded.
    """

    def __init__(
        self, limits: AdmissionLimits, metrics: Metrics, drain_s: Callable[[], float]
    ) -> None:
        self._limits = limits
        self._metrics = metrics
        self._drain_s = drain_s
        self._all = _Held()
        self._by_caller: dict[str, _Held] = {}

    @contextmanager
    def enter(self, num_bytes: int, caller: str = "") -> Iterator[Place]:
        """Hold a place for one prediction whose upload has at most `num_bytes`; raises TooBusy."""
        own = self._by_caller.get(caller, _Held())
        self._check(
            _Want(self._all.num_requests + 1, own.num_requests + 1, caller),
            self._limits.max_concurrent_requests,
            "predictions",
        )
        self._check_bytes(num_bytes, self._all.num_requests, caller)
        place = Place(num_bytes, caller)
        self._count(place, 1, num_bytes)
        try:
            yield place
        finally:
            self._count(place, -1, -place.num_bytes)

    def resize(self, place: Place, num_bytes: int) -> None:
        """Let a place hold an answer of `num_bytes` in its upload's stead; raises TooBusy."""
        more = num_bytes - place.num_bytes
        if more > 0:
            self._check_bytes(more, self._all.num_requests - 1, place.caller)
        place.num_bytes = num_bytes
        self._count(place, 0, more)

    def _check_bytes(self, more: int, num_others: int, caller: str) -> None:
        # A lone prediction is always let in: what it may hold is another limit's business.
        if num_others:
            own = self._by_caller.get(caller, _Held())
            want = _Want(self._all.num_bytes + more, own.num_bytes + more, caller)
            self._check(want, self._limits.max_buffered_bytes, "bytes of uploads and answers")

    def _check(self, want: _Want, limit: int, of_what: str) -> None:
        if want.total <= limit:
            return
        num_callers = len(self._by_caller.keys() | {want.caller})
        if want.own * num_callers <= limit and want.total <= MOST_BEYOND * limit:
            return  # others have filled the queue
        raise TooBusy(
            f"The queue is full: no more {of_what} can be taken on now",
            limit=f"{limit} {of_what}",
            retry_after_s=whole_seconds(self._drain_s()),
        )

    def _count(self, place: Place, num_requests: int, num_bytes: int) -> None:
        own = self._by_caller.setdefault(place.caller, _Held())
        for held in (self._all, own):
            held.add(num_requests, num_bytes)
        if not own.num_requests:
            del self._by_caller[place.caller]
        self._metrics.in_flight.set(self._all.num_requests)
        self._metrics.buffered_bytes.set(self._all.num_bytes)
