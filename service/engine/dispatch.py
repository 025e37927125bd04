"""Keeps the workers busy, and finds another one for what a broken, hanging or lost one held.

Steps are stateless, so a call that fails has changed nothing: its rows take the same step
elsewhere, with the identical result.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from service.backends.base import BackendError, Worker, WorkerLost
from service.engine import batch as arrays
from service.engine.errors import EngineError, NoWorker
from service.engine.groups import Batch
from service.engine.health import LONGEST_PAUSE_S, call_worker
from service.engine.outages import Outages
from service.engine.pool import Member, Pool
from service.engine.request import PredictionRequest, Trajectory
from service.engine.retries import Failure, Retries
from service.engine.stragglers import Stragglers
from service.engine.work import Work

logger = logging.getLogger(__name__)

Inputs = Mapping[str, np.ndarray]


@dataclass(slots=True, eq=False)
class _Flight:
    """One call under way. Mutable."""

    member: Member
    batch: Batch[Trajectory]
    inputs: Inputs
    started: float
    overdue: asyncio.TimerHandle | None = None
    slow: asyncio.TimerHandle | None = None

    def failure(self, reason: str) -> Failure:
        """What there is to say when it comes to nothing."""
        return Failure(self.member, self.batch.group, self.batch.rows, self.inputs, reason)


class Dispatcher:
    """Runs in one event loop; `fill` whenever there may be new rows."""

    def __init__(
        self, pool: Pool, work: Work, *, clock: Callable[[], float], outage_s: float
    ) -> None:
        """Needs a running event loop. A model that no worker can run for `outage_s` is given up."""
        self._pool = pool
        self._work = work
        self._clock = clock
        self._outage_s = outage_s
        self._flights: dict[asyncio.Task[np.ndarray], _Flight] = {}
        self._retries = Retries(pool, work, again=self.fill, changed=self._changed)
        self._stragglers = Stragglers(pool)
        self._outages = Outages(pool, outage_s, self._give_up)
        self._running = True
        self.workers_changed()

    @property
    def num_flights(self) -> int:
        """Calls under way."""
        return len(self._flights)

    @property
    def is_out(self) -> bool:
        """Whether no worker has been usable for longer than an outage is waited for."""
        return self._outages.is_out

    async def stop(self) -> None:
        """Begin no further calls and let those under way return."""
        self._running = False
        self._outages.stop()
        await self._retries.stop()
        if self._flights:
            await asyncio.wait(list(self._flights))

    def add(self, worker: Worker) -> None:
        """Use one more worker; ValueError for a name that is taken."""
        self._changed(self._pool.add(worker))
        self.fill()

    def leave(self, name: str) -> None:
        """Use a worker no more; its calls under way may return."""
        member = self._pool.leave(name)
        if member is not None:
            self._changed(member)

    def suspend(self, name: str) -> None:
        """Give a worker no calls until it is resumed, or a probe of it has succeeded."""
        member = self._pool.find(name)
        if member is not None and member.condition == "up":
            member.condition = "down"
            self._changed(member)

    def resume(self, name: str) -> None:
        """Use a worker again, unless a probe is to find out whether it is well."""
        member = self._pool.find(name)
        if member is None or member.condition != "down" or self._retries.examines(member):
            return
        member.condition = "up"
        self._changed(member)
        self.fill()

    def workers_changed(self) -> None:
        """Workers came, went or have other models."""
        self._outages.mind(self._work.models)
        self._retries.hurry()
        self.fill()

    def admitted(self, request: PredictionRequest) -> None:
        """There is a new request."""
        self._outages.mind_one(request.model, request.networks)
        self.fill()

    def fill(self) -> None:
        """Begin calls while there are rows and workers for them."""
        while self._running and (self._repeat_one() or self._begin_one()):
            pass

    def _begin_one(self) -> bool:
        """Begin the next call, by the least busy worker that has the models for one."""
        unfit: list[str] = []
        while self._work.pipeline.num_ready:
            member = self._pool.next_free(unfit)
            if member is None:
                return False
            batch = self._work.next_batch(member, max(1, self._pool.num_idle))
            if batch is not None:
                self._launch(member, batch)
                return True
            unfit.append(member.name)
        return False

    def _repeat_one(self) -> bool:
        """Begin a call for rows that failed before, if there are such and a worker for them."""
        found = self._retries.next()
        if found is not None:
            self._launch(*found)
        return found is not None

    def _launch(self, member: Member, batch: Batch[Trajectory]) -> None:
        try:
            inputs = arrays.INPUTS[batch.group.stage](batch.rows)
        except Exception:  # such as no memory: the rows have left the queue and must not be lost
            logger.exception("a batch to %s could not be made", batch.group.stage)
            self._interrupt(batch)
            return
        flight = _Flight(member, batch, inputs, self._clock())
        task = self._loop().create_task(call_worker(member.worker, batch.group.model, inputs))
        seconds = self._work.watchdog_s(member, batch.group.network, len(batch.rows))
        flight.overdue = self._loop().call_later(seconds, self._give_up_call, task, seconds)
        self._mind_pace(task, flight)
        self._flights[task] = flight
        self._pool.took(member)
        task.add_done_callback(self._returned)

    def _returned(self, task: asyncio.Task[np.ndarray]) -> None:
        flight = self._flights.pop(task, None)
        if flight is None:  # it hung, and its rows are elsewhere by now
            return
        self._end(flight)
        try:
            self._take_in(flight, task)
        except Exception:  # a defect of ours: nobody may be left waiting for it
            logger.exception("a batch to %s was lost", flight.batch.group.stage)
            self._interrupt(flight.batch)
        self.fill()

    def _interrupt(self, batch: Batch[Trajectory]) -> None:
        for owner in {row.owner for row in batch.rows}:
            self._work.failed(owner, EngineError(f"{batch.group.stage} was interrupted"))

    def _take_in(self, flight: _Flight, task: asyncio.Task[np.ndarray]) -> None:
        batch, now = flight.batch, self._clock()
        # A second call to a worker waits there behind the first one.
        seconds = now - max(flight.started, flight.member.last_return)
        flight.member.last_return = now
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None and not arrays.fits_output(batch.group.stage, batch.rows, task.result()):
            error = BackendError(f"{batch.group.model} returned {task.result().shape}")
        if error is None:
            self._stragglers.returned(flight.member, flight.started)
            self._succeeded(flight, task.result(), seconds)
            return
        self._work.measured(flight.member, batch.group, len(batch.rows), None)
        failure = flight.failure(str(error) or type(error).__name__)
        if isinstance(error, WorkerLost):
            self._retries.lost(failure)
        else:
            self._retries.failed(failure)

    def _end(self, flight: _Flight) -> None:
        for timer in (flight.overdue, flight.slow):
            if timer is not None:
                timer.cancel()
        self._pool.returned(flight.member)

    def _succeeded(self, flight: _Flight, output: np.ndarray, seconds: float) -> None:
        group, rows, inputs = flight.batch.group, flight.batch.rows, flight.inputs
        self._work.measured(flight.member, group, len(rows), seconds)
        finite = arrays.finite_rows(output)
        if finite is not None:
            spoilt = tuple(row for row, fine in zip(rows, finite, strict=True) if not fine)
            failure = flight.failure(f"{group.model} gave a result that is not finite")
            self._retries.failed(replace(failure, rows=spoilt))
            rows = tuple(row for row, fine in zip(rows, finite, strict=True) if fine)
            inputs = {name: values[finite] for name, values in inputs.items()}
            output = output[finite]
        if rows:
            self._work.landed(group, rows, inputs, output)

    def _give_up_call(self, task: asyncio.Task[np.ndarray], seconds: float) -> None:
        """A call hangs: its rows go elsewhere."""
        flight = self._abandon(task)
        model = flight.batch.group.model
        self._retries.hung(flight.failure(f"{model} gave no result within {seconds:.0f} s"))
        self.fill()

    def _abandon(self, task: asyncio.Task[np.ndarray]) -> _Flight:
        flight = self._flights.pop(task)
        self._end(flight)
        task.cancel()
        self._work.measured(flight.member, flight.batch.group, len(flight.batch.rows), None)
        return flight

    def _mind_pace(self, task: asyncio.Task[np.ndarray], flight: _Flight) -> None:
        """Look after a while whether others are quicker than this call, again and again.

        What was slow before gets twice the time: it may be slow everywhere.
        """
        group, rows = flight.batch.group, flight.batch.rows
        seconds = self._work.haste_s(flight.member, group.network, len(rows))
        seconds *= 2 ** max(row.num_lost for row in rows)
        flight.slow = self._loop().call_later(seconds, self._look_at_pace, task)

    def _look_at_pace(self, task: asyncio.Task[np.ndarray]) -> None:
        flight = self._flights[task]
        network = flight.batch.group.model
        if not self._stragglers.is_overtaken(flight.member, network, flight.started):
            self._mind_pace(task, flight)
            return
        self._abandon(task)
        self._retries.lost(flight.failure(f"{network} takes long where others do not"))
        self.fill()

    def _changed(self, member: Member) -> None:
        self._work.changed(member)
        self._outages.mind(self._work.models)

    def _give_up(self, model: str | None) -> None:
        reason = f"no worker has been usable for {self._outage_s:.0f} s"
        for live in tuple(self._work.pipeline):
            if model in (None, live.run.request.model):
                self._work.failed(live.run.owner, NoWorker(reason, LONGEST_PAUSE_S))

    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()
