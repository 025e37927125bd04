"""Which rows take their next model call together: plain, synchronous, and fair.

Rows are grouped by what must be equal to share a call (stage, model, shape) and by nothing else:
requests, tasks, step counts and timesteps mix freely. Knows no clock, no event loop and no arrays.

The order is start-time fair queueing (Goyal, Vin and Cheng, 1996) on three levels. Classes share
the workers by weight, callers of a class evenly, a caller's requests evenly. Everyone's tag grows
by the cost of what he was given, over his share; the lowest tag is next. Who was away starts at
the present lowest tag: no credit is saved up, and a newcomer is never behind those already served.
Callers with deadlines stand together, with the shares of all of them, the earliest deadline first.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heapreplace
from typing import Generic

from service.engine.fairness import Class, Flow, Lane, Ring
from service.engine.groups import Batch, Group, R
from service.engine.request import Priority, Terms

SHARES: dict[Priority, float] = {"high": 16.0, "normal": 4.0, "low": 1.0}
"""Of the workers, for each class that has work; it is divided evenly among the class's callers."""


class StepScheduler(Generic[R]):
    """Requests enter by `admit`, wait for a stage by `add`, and leave by `remove`.

    While two requests of a caller both have ready rows of a group, neither gets more than two rows'
    cost ahead of the other; so do callers of a class, by all their requests together, and classes
    by share. So a 200-step, 20-member request never starves a 1-step one. The order is a function
    of the calls.
    """

    def __init__(self, row_cost: Callable[[Group], float] = lambda _: 1.0) -> None:
        """`row_cost` says what a row of a group costs, above 0, in any unit."""
        self._row_cost = row_cost
        self._classes: dict[Priority, Class] = {}
        self._flows: dict[tuple[Priority, str | None], Flow] = {}
        self._lanes: dict[int, tuple[Terms, Lane[R]]] = {}
        self._rings: dict[Group, Ring[R]] = {}
        self._start = 0.0  # tag of the flow that was served last
        self._num_turns = 0

    @property
    def num_ready(self) -> int:
        """Rows that wait for a call."""
        return sum(ring.num_rows for ring in self._rings.values())

    def ready_in(self, group: Group) -> int:
        """Rows of a group that wait for a call."""
        ring = self._rings.get(group)
        return 0 if ring is None else ring.num_rows

    def admit(self, owner: int, terms: Terms) -> None:
        """Let a request in, under its number and on its terms."""
        flow = self._flows.get(_flow_of(terms))
        if flow is None:
            peers = self._classes.setdefault(terms.priority, Class(SHARES[terms.priority]))
            flow = self._flows[_flow_of(terms)] = Flow(peers, tag=self._start)
        flow.enter(terms.caller)
        self._lanes[owner] = (terms, Lane(owner, flow, terms.deadline, flow.start, deque()))

    def add(self, group: Group, rows: Sequence[R]) -> None:
        """Queue the rows of one admitted request for a stage; it leaves the stage before.

        ValueError if rows belong to several requests, or rows of the former stage still wait.
        """
        owners = {row.owner for row in rows}
        if len(owners) != 1:
            raise ValueError("rows must belong to one request")
        (owner,) = owners
        lane = self._lanes[owner][1]
        if lane.ready:
            raise ValueError(f"request {owner} still has rows waiting")
        lane.group = group
        self.put_back(rows)

    def put_back(self, rows: Iterable[R]) -> None:
        """Make rows ready for their next call; rows of removed requests are dropped."""
        for row in rows:
            known = self._lanes.get(row.owner)
            if known is None:
                continue
            lane = known[1]
            if lane.group is None:
                raise ValueError(f"request {row.owner} waits for no stage")
            ring = self._rings.get(lane.group)
            if ring is None:
                ring = self._rings[lane.group] = Ring()
            if not lane.ready:
                self._catch_up(lane)
                self._num_turns += 1
                ring.add(lane, self._num_turns)
            lane.ready.append(row)
            ring.num_rows += 1

    def _catch_up(self, lane: Lane[R]) -> None:
        """Let a lane, and a flow, that had nothing to wait for start with those that are served."""
        flow = lane.flow
        lane.move_to(max(lane.tag, flow.start))
        if not flow.num_ready:
            flow.tag = max(flow.tag, self._start)
        flow.num_ready += 1

    def next_batch(
        self, max_rows: Callable[[Group], int], num_free_workers: int = 1
    ) -> Batch[R] | None:
        """The rows of the next call, or None when none is ready.

        Whoever is next leads, and the call is filled in order with rows that may share it, up to
        `max_rows` of the group; a group of which that is 0 is passed over. Rows spread evenly over
        the free workers while these suffice.
        """
        most = {group: max_rows(group) for group in self._rings}
        possible = [item for item in self._rings.items() if most[item[0]]]
        if not possible:
            return None
        group, ring = min(possible, key=_first_of_ring)
        share = -(-ring.num_rows // num_free_workers)
        cost = self._row_cost(group)
        rows: list[R] = []
        for _ in range(min(most[group], share)):
            rows.append(self._take(ring, cost))
        ring.num_rows -= len(rows)
        if not ring.num_rows:
            del self._rings[group]
        return Batch(group, tuple(rows))

    def _take(self, ring: Ring[R], cost: float) -> R:
        turn = ring.first()
        flow, lane = turn.flow, turn.lanes[0]
        if flow.tag > self._start:
            self._start = flow.tag
        if lane.tag > flow.start:
            flow.start = lane.tag
        flow.charge(cost)
        lane.move_to(lane.tag + cost)
        row = lane.ready.popleft()
        if not lane.ready:
            flow.num_ready -= 1
            heappop(turn.lanes)
            if not turn.lanes:
                ring.drop_first()
        elif len(turn.lanes) > 1:
            heapreplace(turn.lanes, lane)
        return row

    def remove(self, owner: int) -> None:
        """Forget a request: its waiting rows are freed now, those in a call when they come back.

        Nothing happens for an unknown owner.
        """
        known = self._lanes.pop(owner, None)
        if known is None:
            return
        terms, lane = known
        if lane.ready and lane.group is not None:
            ring = self._rings[lane.group]
            ring.discard(lane)
            lane.flow.num_ready -= 1
            ring.num_rows -= len(lane.ready)
            if not ring.num_rows:
                del self._rings[lane.group]
        lane.flow.leave(terms.caller)
        if not lane.flow.callers:
            del self._flows[_flow_of(terms)]


def _flow_of(terms: Terms) -> tuple[Priority, str | None]:
    """Whom a request stands with: its caller, or everybody of its class who has a deadline."""
    return (terms.priority, terms.caller if terms.deadline is None else None)


def _first_of_ring(item: tuple[Group, Ring[R]]) -> tuple[float, tuple[float, int]]:
    turn = item[1].first()
    return (turn.tag, turn.lanes[0].rank)
