"""Runs requests: admits them, keeps every worker of the backend busy, hands back the answers.

Each request is encoded once, denoised row by row in batches shared with whatever else is running,
and decoded. The pipeline knows what a request needs next; this file knows the clock, the event loop
and failing calls, and nothing of what a picture means.

A request's answer depends on its batch mates only through the rounding of the backend's float32
kernels: encoded fields differ by at most 1e-4 from those of the same request alone.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Protocol, runtime_checkable

from service.backends.base import Backend, BackendError
from service.engine import batch as arrays
from service.engine.batch import Rows
from service.engine.pipeline import Outcome, Pipeline
from service.engine.request import EngineError, EngineResult, PredictionRequest, Trajectory
from service.engine.scheduler import STAGES, Batch, Group, Stage

logger = logging.getLogger(__name__)


class EngineBusy(EngineError):
    """The engine already holds as many requests as it may; nothing was started."""


class EngineStopped(EngineError):
    """The engine is not running, or stopped before the answer was there."""


@runtime_checkable
class EngineObserver(Protocol):
    """Told of every model call as it returns; must be quick and not raise."""

    def model_call(self, stage: Stage, rows: int, seconds: float) -> None:
        """`rows` rows spent `seconds` in a call of that stage."""


@dataclass(frozen=True)
class StageStats:
    """Totals of a stage: calls that returned, their rows, seconds inside them; failed calls."""

    batches: int = 0
    rows: int = 0
    seconds: float = 0.0
    failed_batches: int = 0


@dataclass(frozen=True)
class EngineStats:
    """The engine at one moment.

    `requests` are admitted and unanswered, `evaluations` the rows of denoiser calls that these
    still need, `batches_in_flight` the calls under way, `stages` the totals since the start.
    """

    requests: int
    evaluations: int
    batches_in_flight: int
    stages: Mapping[Stage, StageStats]


class Engine:
    """One per process and event loop. The backend is the caller's, to be closed after `stop`.

    `max_batch_rows` bounds a denoiser call, `max_image_rows` an encoder or decoder call (these work
    at full resolution, so a row costs far more memory), `max_requests` what is held in total.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        max_batch_rows: int = 16,
        max_image_rows: int = 4,
        max_requests: int = 64,
        clock: Callable[[], float] = time.perf_counter,
        observer: EngineObserver | None = None,
    ) -> None:
        self._backend = backend
        self._pipeline = Pipeline(max_batch_rows, max_image_rows)
        self._max_requests = max_requests
        self._clock = clock
        self._observer = observer
        self._answers: dict[int, asyncio.Future[EngineResult]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._stages = dict.fromkeys(STAGES, StageStats())
        self._running = False

    async def start(self) -> None:
        """Begin to accept requests."""
        self._running = True

    async def stop(self) -> None:
        """Refuse new requests, fail waiting ones with EngineStopped, let calls in flight return."""
        self._running = False
        for owner in list(self._answers):
            self._end(Outcome(owner, EngineStopped("the engine stopped")))
        if self._calls:
            await asyncio.wait(self._calls)

    async def predict(self, request: PredictionRequest) -> EngineResult:
        """Answer one request.

        When the awaiting task is cancelled, waiting rows are freed at once and those in a call are
        dropped when it returns. Raises EngineBusy, EngineStopped, or EngineError when a model fails
        on this request.
        """
        if not self._running:
            raise EngineStopped("the engine is not running")
        if len(self._pipeline) >= self._max_requests:
            raise EngineBusy(f"{self._max_requests} requests are already being answered")
        owner = self._pipeline.admit(request, self._clock())
        answer: asyncio.Future[EngineResult] = asyncio.get_running_loop().create_future()
        self._answers[owner] = answer
        self._fill_workers()
        try:
            return await answer
        finally:
            self._pipeline.remove(owner)
            self._answers.pop(owner, None)

    def stats(self) -> EngineStats:
        """Return the counters; costs one pass over the requests."""
        return EngineStats(
            requests=len(self._pipeline),
            evaluations=self._pipeline.num_evaluations,
            batches_in_flight=len(self._calls),
            stages=dict(self._stages),
        )

    def _end(self, outcome: Outcome) -> None:
        self._pipeline.remove(outcome.owner)
        answer = self._answers.pop(outcome.owner, None)
        if answer is None or answer.done():  # cancelled in this very turn of the event loop
            return
        if isinstance(outcome.result, EngineError):
            answer.set_exception(outcome.result)
        else:
            answer.set_result(outcome.result)

    def _fill_workers(self) -> None:
        while self._running and (free := self._backend.num_workers - len(self._calls)) > 0:
            batch = self._pipeline.next_batch(free, self._clock())
            if batch is None:
                return
            call = asyncio.get_running_loop().create_task(self._perform(batch))
            self._calls.add(call)
            call.add_done_callback(partial(self._landed, batch))

    def _landed(self, batch: Batch[Trajectory], call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        error = asyncio.CancelledError() if call.cancelled() else call.exception()
        if error is not None:  # a defect rather than a failed call: nobody may be left waiting
            logger.error("a batch to %s was lost", batch.group.stage, exc_info=error)
            for row in batch.rows:
                self._end(Outcome(row.owner, EngineError(f"{batch.group.stage} was interrupted")))
        self._fill_workers()

    async def _perform(self, batch: Batch[Trajectory]) -> None:
        try:
            await self._call(batch.group, batch.rows)
        except BackendError as error:
            logger.warning("%s failed on %d rows: %s", batch.group.model, len(batch.rows), error)
            await self._retry_alone(batch)

    async def _retry_alone(self, batch: Batch[Trajectory]) -> None:
        """Repeat a failed batch request by request, so that a bad one fails by itself."""
        owner_of = attrgetter("owner")
        for owner, rows in groupby(sorted(batch.rows, key=owner_of), key=owner_of):
            if owner not in self._pipeline:
                continue
            try:
                await self._call(batch.group, tuple(rows))
            except BackendError as error:
                self._end(Outcome(owner, EngineError(f"could not {batch.group.stage}: {error}")))

    async def _call(self, group: Group, rows: Rows) -> None:
        """One model call and what follows from it. BackendError leaves every row as it was."""
        inputs = arrays.INPUTS[group.stage](rows)
        started = self._clock()
        try:
            output = await self._backend.run(group.model, inputs)
            if not arrays.fits_output(group.stage, rows, output):
                raise BackendError(f"{group.model} returned {output.dtype} {output.shape}")
        except BackendError:
            totals = self._stages[group.stage]
            self._stages[group.stage] = replace(totals, failed_batches=totals.failed_batches + 1)
            raise
        ended = self._clock()
        self._count(group.stage, len(rows), ended - started)
        for outcome in self._pipeline.absorb(group, rows, inputs, output, ended):
            self._end(outcome)

    def _count(self, stage: Stage, rows: int, seconds: float) -> None:
        totals = self._stages[stage]
        self._stages[stage] = replace(
            totals,
            batches=totals.batches + 1,
            rows=totals.rows + rows,
            seconds=totals.seconds + seconds,
        )
        if self._observer is not None:
            self._observer.model_call(stage, rows, seconds)
