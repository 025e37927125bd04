"""A fleet in real time: the engine's own dispatch, on workers that wait for a timer and answer.

A worker is busy for the time its calls are modelled to take, one after another, and idle until the
next begins, so whatever this one process does too slowly shows as idle workers.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np

from service.backends.repository import ServedModel
from service.engine.engine import Engine
from service.engine.work import EngineLimits
from tests.benchmarks.fleet_costs import Device
from tests.benchmarks.ticks import InstantWorker, Workers, depth_request
from tests.support.costs import WideCosts

PLANS = ((4, 2), (10, 5), (25, 5), (50, 10))
_BACKLOG = 4.0  # rows under way, over what all workers can hold at once


class TimerWorker(InstantWorker):
    """Answers with zeros when the modelled time of the call is over; calls wait for each other.

    Two may be in flight, as with every worker beyond a network.
    """

    max_calls = 2

    def __init__(self, model: ServedModel, device: Device, number: int) -> None:
        super().__init__(model)
        self._model, self._device = model, device
        self.name, self.device = f"w{number}", device.name
        self.modelled_s = 0.0
        self._free_at = 0.0

    async def run(self, model: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """See Worker.run."""
        loop = asyncio.get_running_loop()
        rows = len(next(iter(inputs.values())))
        seconds = self._device.line(model, self._model).seconds(rows)
        over: asyncio.Future[None] = loop.create_future()
        self._free_at = max(loop.time(), self._free_at) + seconds
        loop.call_at(self._free_at, over.set_result, None)
        await over
        self.modelled_s += seconds
        return self.output(model, rows)


@dataclass(frozen=True)
class Dispatched:
    """`utilisation` is modelled time over real time, `tick_s` processor time of a call."""

    utilisation: float
    num_ticks: int
    rows: float
    tick_s: float
    process_share: float


async def dispatch(
    model: ServedModel, device: Device, num_workers: int, max_rows: int, seconds: float
) -> Dispatched:
    """Keep a fleet supplied for a while; the first quarter of it does not count."""
    workers = [TimerWorker(model, device, number) for number in range(num_workers)]
    limits = EngineLimits(batch_rows=max_rows, requests=10**6, evaluations=10**9)
    engine = Engine(Workers(workers), limits, costs=WideCosts())
    await engine.start()
    over = asyncio.Event()
    numbers = count()

    async def caller(number: int) -> None:
        while not over.is_set():
            steps, members = PLANS[number % len(PLANS)]
            request = depth_request(model, steps, members, next(numbers), f"c{number % 8}")
            await engine.predict(request)

    mean = sum(members for _, members in PLANS) / len(PLANS)
    num_callers = round(_BACKLOG * num_workers * max_rows / mean)
    callers = [asyncio.create_task(caller(number)) for number in range(num_callers)]
    await asyncio.sleep(seconds / 4)
    before, wall, cpu = _totals(engine, workers), time.perf_counter(), time.process_time()
    await asyncio.sleep(3 * seconds / 4)
    after = _totals(engine, workers)
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    over.set()
    for task in callers:
        task.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await engine.stop()
    ticks, rows, modelled_s = (now - then for now, then in zip(after, before, strict=True))
    return Dispatched(
        modelled_s / (wall_s * num_workers),
        round(ticks),
        rows / max(ticks, 1),
        cpu_s / max(ticks, 1),
        cpu_s / wall_s,
    )


def _totals(engine: Engine, workers: list[TimerWorker]) -> tuple[float, float, float]:
    """Calls, their rows, and modelled seconds, of those that have returned."""
    stages = engine.stats().stages.values()
    return (
        sum(stage.batches for stage in stages),
        sum(stage.rows for stage in stages),
        sum(worker.modelled_s for worker in workers),
    )
