"""Who waits, in which order: the queues inside the scheduler, three levels deep.

A class holds flows (its callers), a flow holds lanes (its requests), a lane holds rows. What waits
for calls of one group is a ring: a heap of flows, each with a heap of lanes.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic

from service.engine.groups import Group, R


@dataclass(slots=True, eq=False)
class Class:
    """Callers that divide a share among them, `num_callers` over all its flows."""

    share: float
    num_callers: int = 0


@dataclass(slots=True, eq=False)
class Flow:
    """A caller in a class, or all that have deadlines there, who count as so many callers.

    `callers` are their requests by name; `num_ready` requests have rows that wait; `start` is the
    tag of who was served last.
    """

    owner_class: Class
    tag: float = 0.0
    start: float = 0.0
    callers: Counter[str] = field(default_factory=Counter)
    num_ready: int = 0

    def charge(self, cost: float) -> None:
        """Let its turn come later for what it was given."""
        peers = self.owner_class
        self.tag += cost * peers.num_callers / (peers.share * len(self.callers))

    def enter(self, caller: str) -> None:
        """Count one more request of a caller."""
        self.owner_class.num_callers += caller not in self.callers
        self.callers[caller] += 1

    def leave(self, caller: str) -> None:
        """Count one request of a caller less."""
        self.callers[caller] -= 1
        if not self.callers[caller]:
            del self.callers[caller]
            self.owner_class.num_callers -= 1


@dataclass(slots=True, eq=False)
class Lane(Generic[R]):
    """One request's rows; `ready` holds those that no call has in hand.

    `rank` is the place among the lanes of its flow, which all have a deadline or all have none.
    """

    owner: int
    flow: Flow
    deadline: float | None
    tag: float
    ready: deque[R]
    group: Group | None = None
    rank: tuple[float, int] = (0.0, 0)

    def __post_init__(self) -> None:
        self.move_to(self.tag)

    def move_to(self, tag: float) -> None:
        """Set the tag, and the rank that follows from it: kept, since heaps compare it often."""
        self.tag = tag
        self.rank = (tag if self.deadline is None else self.deadline, self.owner)

    def __lt__(self, other: "Lane[R]") -> bool:
        return self.rank < other.rank


@dataclass(slots=True, eq=False)
class Turn(Generic[R]):
    """A flow's lanes with ready rows in one group, a heap; `tag` is the flow's when it was put."""

    tag: float
    number: int
    flow: Flow
    lanes: list[Lane[R]]

    def __lt__(self, other: "Turn[R]") -> bool:
        return (self.tag, self.number) < (other.tag, other.number)


class Ring(Generic[R]):
    """What is ready in a group: a heap of turns, each a heap of lanes."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.turns: list[Turn[R]] = []
        self._by_flow: dict[Flow, Turn[R]] = {}

    def add(self, lane: Lane[R], number: int) -> None:
        """Let a lane wait that has ready rows; `number` grows from call to call."""
        turn = self._by_flow.get(lane.flow)
        if turn is None:
            turn = self._by_flow[lane.flow] = Turn(lane.flow.tag, number, lane.flow, [])
            heappush(self.turns, turn)
        heappush(turn.lanes, lane)

    def first(self) -> Turn[R]:
        """The turn of the lowest flow; flows were charged elsewhere since they were put here."""
        while self.turns[0].tag != self.turns[0].flow.tag:
            turn = self.turns[0]
            turn.tag = turn.flow.tag
            heapreplace(self.turns, turn)
        return self.turns[0]

    def drop_first(self) -> None:
        """Forget the first turn, whose lanes have no row left."""
        del self._by_flow[heappop(self.turns).flow]

    def discard(self, lane: Lane[R]) -> None:
        """Let a lane wait no longer."""
        turn = self._by_flow[lane.flow]
        turn.lanes.remove(lane)
        heapify(turn.lanes)
        if not turn.lanes:
            del self._by_flow[lane.flow]
            self.turns.remove(turn)
            heapify(self.turns)
