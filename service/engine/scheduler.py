"""Which rows take their next model call together: plain, synchronous, and fair.

Rows are grouped by what must be equal to share a call (stage, model, shape) and by nothing else:
requests, tasks, step counts and timesteps mix freely. Knows no clock, no event loop and no arrays.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

Stage = Literal["encode", "denoise", "decode"]
STAGES: tuple[Stage, ...] = ("encode", "denoise", "decode")


@runtime_checkable
class Row(Protocol):
    """Anything that can be scheduled: `owner` is the number of its request."""

    owner: int


R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of equal groups may share a call.

    `served` is the served model ("name:version"), `model` the repository's name of the network to
    call, `shape` that of one row's input.
    """

    stage: Stage
    served: str
    model: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch(Generic[R]):
    """Rows for one call, in the order they were chosen. Never empty."""

    group: Group
    rows: tuple[R, ...]


@dataclass(slots=True, eq=False)
class _Lane(Generic[R]):
    """One request's rows; `ready` holds those that no call has in hand."""

    owner: int
    group: Group
    ready: deque[R]


@dataclass(slots=True, eq=False)
class _Ring(Generic[R]):
    """The lanes of a group that have ready rows, in the order of their turns."""

    lanes: deque[_Lane[R]] = field(default_factory=deque)
    num_rows: int = 0


class StepScheduler(Generic[R]):
    """Round robin twice: groups take turns by batch, and inside a group requests by row.

    From the moment a request has a ready row until one is chosen, every other request of its group
    gets at most one row; a group with ready rows waits for at most one batch of every other group.
    So a 200-step, 20-member request never starves a 1-step one. The order is a function of the
    calls alone.
    """

    def __init__(self, max_rows: Mapping[Stage, int]) -> None:
        """`max_rows` is the largest batch of each stage, at least 1."""
        if min(max_rows.values()) < 1:
            raise ValueError("max_rows must be at least 1 for every stage")
        self._max_rows = dict(max_rows)
        self._lanes: dict[int, _Lane[R]] = {}
        self._rings: dict[Group, _Ring[R]] = {}
        self._turns: deque[Group] = deque()

    @property
    def num_ready(self) -> int:
        """Rows that wait for a call."""
        return sum(ring.num_rows for ring in self._rings.values())

    def add(self, group: Group, rows: Sequence[R]) -> None:
        """Queue the rows of one request for a stage; it leaves the stage it was in before.

        ValueError if rows belong to several requests, or rows of the former stage still wait.
        """
        owners = {row.owner for row in rows}
        if len(owners) != 1:
            raise ValueError("rows must belong to one request")
        (owner,) = owners
        former = self._lanes.get(owner)
        if former is not None and former.ready:
            raise ValueError(f"request {owner} still has rows waiting to {former.group.stage}")
        self._lanes[owner] = _Lane(owner, group, deque())
        self.put_back(rows)

    def put_back(self, rows: Iterable[R]) -> None:
        """Make rows ready for their next call; rows of removed requests are dropped."""
        for row in rows:
            lane = self._lanes.get(row.owner)
            if lane is None:
                continue
            ring = self._rings.get(lane.group)
            if ring is None:
                ring = self._rings[lane.group] = _Ring()
                self._turns.append(lane.group)
            if not lane.ready:
                ring.lanes.append(lane)
            lane.ready.append(row)
            ring.num_rows += 1

    def next_batch(self, num_free_workers: int = 1) -> Batch[R] | None:
        """The rows of the next call, or None when none is ready.

        Rows spread evenly over the free workers while these suffice, and fill whole batches when
        they do not.
        """
        if not self._turns:
            return None
        group = self._turns.popleft()
        ring = self._rings[group]
        share = -(-ring.num_rows // num_free_workers)
        rows: list[R] = []
        for _ in range(min(self._max_rows[group.stage], share)):
            lane = ring.lanes.popleft()
            rows.append(lane.ready.popleft())
            if lane.ready:
                ring.lanes.append(lane)
        ring.num_rows -= len(rows)
        if ring.num_rows:
            self._turns.append(group)
        else:
            del self._rings[group]
        return Batch(group, tuple(rows))

    def remove(self, owner: int) -> None:
        """Forget a request: its waiting rows are freed now, those in a call when they come back.

        Nothing happens for an unknown owner.
        """
        lane = self._lanes.pop(owner, None)
        if lane is None or not lane.ready:
            return
        ring = self._rings[lane.group]
        ring.lanes.remove(lane)
        ring.num_rows -= len(lane.ready)
        if not ring.num_rows:
            del self._rings[lane.group]
            self._turns.remove(lane.group)
