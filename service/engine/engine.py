"""Runs requests: admits them, keeps every worker busy, hands back the answers.

Each request is encoded once, denoised row by row in batches shared with whatever else is running,
and decoded. The pipeline knows what a request needs next, the scheduler whose turn it is, the
dispatcher which worker does it; this file knows who waits for what, and until when.

A request's answer depends on its batch mates only through the rounding of the backend's float32
kernels: encoded fields differ by at most 1e-4 from those of the same request alone.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from service.backends.base import Worker, WorkerSource
from service.core.tensors import Signature
from service.engine.costs import CostTable
from service.engine.dispatch import Dispatcher
from service.engine.errors import (
    DeadlineImpossible,
    DeadlineMissed,
    EngineBusy,
    EngineStopped,
    NoWorker,
)
from service.engine.groups import Networks, Stage
from service.engine.planner import Pace
from service.engine.pool import Pool
from service.engine.profile import profile
from service.engine.request import EngineResult, Follow, PredictionRequest, Terms
from service.engine.work import EngineLimits, EngineObserver, StageStats, Work


@dataclass(frozen=True)
class EngineStats:
    """The engine at one moment.

    `requests` are admitted and unanswered, `evaluations` the rows of denoiser calls that these
    still need, `batches_in_flight` the calls under way, `stages` the totals since the start, and
    `workers` whether each is up.
    """

    requests: int
    evaluations: int
    batches_in_flight: int
    stages: Mapping[Stage, StageStats]
    workers: Mapping[str, bool]


class Engine:
    """One per process and event loop. The backend is the caller's, to be closed after `stop`.

    `costs` is what is known of calls before the first one; `clock` is in seconds, and what
    deadlines are on.
    """

    def __init__(
        self,
        backend: WorkerSource,
        limits: EngineLimits | None = None,
        *,
        costs: CostTable | None = None,
        clock: Callable[[], float] = time.monotonic,
        observer: EngineObserver | None = None,
    ) -> None:
        self._limits = limits or EngineLimits()
        self._clock = clock
        self._pool = Pool(backend.workers)
        self._work = Work(self._pool, self._limits, costs or CostTable(), clock, observer)
        self._dispatcher: Dispatcher | None = None

    async def start(self, networks: Mapping[str, Signature] | None = None) -> None:
        """Begin to accept requests, when the cost of calling these networks has been measured."""
        for member in self._pool:
            self._work.changed(member)
        await self.learn(networks or {})
        self._dispatcher = Dispatcher(
            self._pool, self._work, clock=self._clock, outage_s=self._limits.outage_s
        )

    async def learn(self, networks: Mapping[str, Signature]) -> None:
        """Measure what calls of these networks cost where they have not been called yet."""
        await profile(self._pool, networks, self._work.costs, self._clock, self._limits.watchdog_s)

    async def stop(self) -> None:
        """Refuse new requests, fail waiting ones with EngineStopped, let calls in flight return."""
        dispatcher, self._dispatcher = self._dispatcher, None
        for owner in self._work.owners:
            self._work.failed(owner, EngineStopped("the engine stopped"))
        if dispatcher is not None:
            await dispatcher.stop()

    async def predict(
        self, request: PredictionRequest, follow: Follow | None = None
    ) -> EngineResult:
        """Answer one request, whose progress may be followed; its members then come in rounds.

        When the awaiting task is cancelled, waiting rows are freed at once and those in a call are
        dropped when it returns. Raises EngineBusy, DeadlineImpossible and NoWorker at once;
        DeadlineMissed, EngineStopped, and EngineError when a model fails on this request.
        """
        dispatcher = self._running()
        self._check_room(request, dispatcher)
        self._check_deadline(request)
        owner, answer = self._work.admit(request, follow)
        timer = self._time_out(owner, request.terms.deadline)
        try:
            dispatcher.admitted(request)
            return await answer
        finally:
            if timer is not None:
                timer.cancel()
            self._work.forget(owner)

    def pace(self, networks: Networks, num_components: int, terms: Terms) -> Pace:
        """What steps and members would cost now, with costs that nearly every call stays below."""
        others = self._work.pipeline
        return self._work.forecast.pace(networks, num_components, terms, others, surely=True)

    @property
    def is_out(self) -> bool:
        """Whether no worker has been usable for longer than is waited for one."""
        return self._dispatcher is not None and self._dispatcher.is_out

    @property
    def has_worker(self) -> bool:
        """Whether calls can be made now."""
        return self._dispatcher is not None and bool(self._pool.up)

    def drain_s(self) -> float:
        """Seconds until what is under way now will be done."""
        pipeline = self._work.pipeline
        return self._work.forecast.drain(pipeline.pending, pipeline)

    def stats(self) -> EngineStats:
        """Return the counters; costs one pass over the workers."""
        dispatcher = self._dispatcher
        return EngineStats(
            requests=len(self._work.pipeline),
            evaluations=self._work.pipeline.num_evaluations,
            batches_in_flight=0 if dispatcher is None else dispatcher.num_flights,
            stages=dict(self._work.stages),
            workers={member.name: member.condition == "up" for member in self._pool},
        )

    def add_worker(self, worker: Worker) -> None:
        """Use one more worker; ValueError for a name that is taken."""
        self._running().add(worker)

    def retire_worker(self, name: str) -> None:
        """Give a worker no more calls; those under way may return."""
        self._running().leave(name)

    def suspend_worker(self, name: str) -> None:
        """Give a worker no calls until it is resumed."""
        self._running().suspend(name)

    def resume_worker(self, name: str) -> None:
        """Use a suspended worker again."""
        self._running().resume(name)

    def workers_changed(self) -> None:
        """What workers serve is another than before."""
        self._running().workers_changed()

    async def unused(self, model: str) -> None:
        """Return when no request of a model is under way."""
        await self._work.unused(model)

    def _running(self) -> Dispatcher:
        if self._dispatcher is None:
            raise EngineStopped("the engine is not running")
        return self._dispatcher

    def _check_room(self, request: PredictionRequest, dispatcher: Dispatcher) -> None:
        pipeline, limits = self._work.pipeline, self._limits
        if dispatcher.is_out:
            raise NoWorker("no worker is usable", retry_after_s=limits.watchdog_s)
        if any(self._pool) and not self._pool.anybody_for(request.networks.denoiser.model):
            raise NoWorker(f"no worker has {request.model}", retry_after_s=limits.watchdog_s)
        if len(pipeline) >= limits.requests:
            raise EngineBusy(f"{limits.requests} requests are under way", self.drain_s())
        # A lone request is always let in: what it may ask for is another limit's business.
        wanted = pipeline.num_evaluations + request.evaluations
        if len(pipeline) and wanted > limits.evaluations and not self._is_owed(request, wanted):
            held = f"{pipeline.num_evaluations} of {limits.evaluations} evaluations are queued"
            raise EngineBusy(held, self.drain_s())

    def _is_owed(self, request: PredictionRequest, wanted: int) -> bool:
        """Whether a queue that others have filled takes a request yet, up to twice its bound.

        So it does for a caller who with it would hold no more than his even part of the bound.
        """
        callers, own = {request.terms.caller}, request.evaluations
        for live in self._work.pipeline:
            caller = live.run.request.terms.caller
            callers.add(caller)
            own += live.left["denoise"] if caller == request.terms.caller else 0
        most = self._limits.evaluations
        return own <= most / len(callers) and wanted <= 2 * most

    def _check_deadline(self, request: PredictionRequest) -> None:
        deadline = request.terms.deadline
        if deadline is None:
            return
        left = deadline - self._clock()
        finish = self._work.forecast.finish(request, self._work.pipeline)
        if finish <= left:
            return
        alone = self._work.forecast.finish(request, ())
        if alone > left:
            raise DeadlineImpossible(f"the answer takes about {1e3 * alone:.0f} ms", math.inf)
        queued = f"with what is queued the answer takes about {1e3 * finish:.0f} ms"
        raise DeadlineImpossible(queued, finish - left)

    def _time_out(self, owner: int, deadline: float | None) -> asyncio.TimerHandle | None:
        if deadline is None:
            return None
        missed = partial(self._work.failed, owner, DeadlineMissed("the deadline has passed"))
        return asyncio.get_running_loop().call_later(deadline - self._clock(), missed)
