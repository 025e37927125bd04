"""How much the service takes on at once, and when those it turns away should come back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.api.failures import whole_seconds
from service.errors import TooBusy
from service.metrics import Metrics


@dataclass(frozen=True)
class AdmissionLimits:
    """Predictions in work or waiting, and bytes of their uploads and answers."""

    max_concurrent_requests: int
    max_buffered_bytes: int


@dataclass
class Place:
    """What one prediction takes up, from its upload until its answer is sent. Mutable."""

    num_bytes: int


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
        self._num_requests = 0
        self._num_bytes = 0

    @contextmanager
    def enter(self, num_bytes: int) -> Iterator[Place]:
        """Hold a place for one prediction whose upload has at most `num_bytes`; raises TooBusy."""
        wanted = self._num_requests + 1
        self._check(wanted, self._limits.max_concurrent_requests, "predictions")
        self._check_bytes(num_bytes, self._num_requests)
        place = Place(num_bytes)
        self._count(1, num_bytes)
        try:
            yield place
        finally:
            self._count(-1, -place.num_bytes)

    def resize(self, place: Place, num_bytes: int) -> None:
        """Let a place hold an answer of `num_bytes` in its upload's stead; raises TooBusy."""
        more = num_bytes - place.num_bytes
        if more > 0:
            self._check_bytes(more, self._num_requests - 1)
        place.num_bytes = num_bytes
        self._count(0, more)

    def _check_bytes(self, more: int, num_others: int) -> None:
        # A lone prediction is always let in: what it may hold is another limit's business.
        if num_others:
            wanted = self._num_bytes + more
            self._check(wanted, self._limits.max_buffered_bytes, "bytes of uploads and answers")

    def _check(self, wanted: int, limit: int, of_what: str) -> None:
        if wanted > limit:
            raise TooBusy(
                f"The queue is full: no more {of_what} can be taken on now",
                limit=f"{limit} {of_what}",
                retry_after_s=whole_seconds(self._drain_s()),
            )

    def _count(self, num_requests: int, num_bytes: int) -> None:
        self._num_requests += num_requests
        self._num_bytes += num_bytes
        self._metrics.in_flight.set(self._num_requests)
        self._metrics.buffered_bytes.set(self._num_bytes)
