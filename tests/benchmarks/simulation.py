"""A fleet on a virtual clock: the engine's parts driven by discrete events, without an event loop.

Callers keep a backlog, so that nobody is served less for want of work: whenever a request of one
ends, he sends its like. What is measured on the virtual clock does not depend on this machine; what
a tick costs does.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from service.backends.repository import ServedModel
from service.engine.costs import CostTable
from service.engine.forecast import Forecast
from service.engine.groups import Batch, Group
from service.engine.pipeline import Pipeline
from service.engine.pool import Member, Pool
from service.engine.request import Trajectory
from tests.benchmarks.fleet_costs import Device
from tests.benchmarks.ticks import InstantWorker, depth_request

PLANS = ((1, 4), (4, 2), (10, 5), (50, 10))  # steps, members: each caller asks for one of these
_BACKLOG = 1.5  # rows that are kept waiting or in calls, over what all workers can hold at once
_WARM_UP = 0.25  # of the calls: in it the costs are learnt and the callers spread out


class SimulatedWorker(InstantWorker):
    """A worker of a fleet; nobody awaits it."""

    def __init__(self, model: ServedModel, device: Device, number: int) -> None:
        super().__init__(model)
        self.name, self.device = f"w{number}", device.name


@dataclass(frozen=True)
class Simulated:
    """What a simulation showed.

    `utilisation` is the workers' busy time over all their time. `service_s` is worker time by
    caller, every row of a call having an equal part; `charged_s` is what the scheduler charges for
    it, a row's cost in a good batch. `tick_s` is this process's time for a call: choosing,
    absorbing, learning, admitting.
    """

    utilisation: float
    service_s: tuple[float, ...]
    charged_s: tuple[float, ...]
    num_ticks: int
    rows: float
    tick_s: float


@dataclass
class _Totals:
    """What was counted since the warm-up."""

    begun: float = 0.0
    busy_s: float = 0.0
    rows: int = 0
    ticks: int = 0
    service_s: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    charged_s: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))


class Fleet:
    """`num_workers` equal devices and `num_callers` callers."""

    def __init__(
        self, model: ServedModel, device: Device, num_workers: int, num_callers: int, max_rows: int
    ) -> None:
        self._model, self._device, self._max_rows = model, device, max_rows
        self._worker = InstantWorker(model)
        workers = [SimulatedWorker(model, device, number) for number in range(num_workers)]
        self._pool = Pool(workers)
        self._costs = CostTable()
        self._row_cost = Forecast(self._costs, self._pool).row_cost
        self._pipeline = Pipeline(self._row_cost)
        self._now = 0.0
        self._events: list[tuple[float, int, Member, Batch[Trajectory], float]] = []
        self._order = count()
        self._callers: dict[int, int] = {}
        self._totals = _Totals()
        self._num_workers, self._num_callers = num_workers, num_callers
        each = _BACKLOG * num_workers * max_rows / num_callers
        for caller in range(num_callers):
            members = PLANS[caller % len(PLANS)][1]
            for _ in range(max(2, round(each / members))):
                self._admit(caller)

    def run(self, num_calls: int) -> Simulated:
        """Let so many calls return; what is told comes from those after the warm-up."""
        self._fill()
        warm_up = int(_WARM_UP * num_calls)
        begun = 0.0
        for number in range(num_calls):
            if number == warm_up:
                self._totals = _Totals(begun=self._now)
                begun = time.process_time()
            self._land()
            self._fill()
        spent_s, totals = time.process_time() - begun, self._totals
        # a call that is under way at either end counts with the part that lies between
        for finish, _, _, _, seconds in self._events:
            totals.busy_s += min(seconds, self._now - (finish - seconds))
        lasted_s = self._now - totals.begun
        return Simulated(
            totals.busy_s / (lasted_s * self._num_workers),
            tuple(totals.service_s[caller] for caller in range(self._num_callers)),
            tuple(totals.charged_s[caller] for caller in range(self._num_callers)),
            totals.ticks,
            totals.rows / totals.ticks,
            spent_s / totals.ticks,
        )

    def _admit(self, caller: int) -> None:
        steps, members = PLANS[caller % len(PLANS)]
        request = depth_request(self._model, steps, members, caller=f"c{caller}")
        self._callers[self._pipeline.admit(request, self._now)] = caller

    def _fill(self) -> None:
        while (member := self._pool.next_free()) is not None:
            idle = max(1, self._pool.num_idle)
            batch = self._pipeline.next_batch(self._rows_of, idle, self._now)
            if batch is None:
                return
            seconds = self._device.line(batch.group.model, self._model).seconds(len(batch.rows))
            event = (self._now + seconds, next(self._order), member, batch, seconds)
            heappush(self._events, event)
            self._pool.took(member)

    def _rows_of(self, group: Group) -> int:
        return self._costs.max_rows(self._device.name, group.network, self._max_rows)

    def _land(self) -> None:
        self._now, _, member, batch, seconds = heappop(self._events)
        self._pool.returned(member)
        group, rows, totals = batch.group, batch.rows, self._totals
        self._costs.observe(self._device.name, group.network, len(rows), seconds)
        totals.ticks += 1
        totals.rows += len(rows)
        totals.busy_s += min(seconds, self._now - totals.begun)
        cost = self._row_cost(group)
        for row in rows:
            caller = self._callers[row.owner]
            totals.service_s[caller] += seconds / len(rows)
            totals.charged_s[caller] += cost
        output = self._worker.output(group.model, len(rows))
        inputs = {"noisy": self._worker.output(self._model.artifact.denoiser, len(rows))}
        for outcome in self._pipeline.absorb(group, rows, inputs, output, self._now):
            self._admit(self._callers.pop(outcome.owner))
