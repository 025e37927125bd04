"""The requests under way and who waits for them: what the dispatcher works on."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from service.engine.batch import Rows
from service.engine.costs import CostTable
from service.engine.errors import EngineError
from service.engine.forecast import Forecast
from service.engine.groups import STAGES, Batch, Group, Network, Networks, Stage
from service.engine.pipeline import Outcome, Pipeline
from service.engine.pool import Condition, Member, Pool
from service.engine.request import EngineResult, Follow, PredictionRequest, Trajectory

_HASTE = 0.1  # of the watchdog's seconds: after so many others may prove quicker


@runtime_checkable
class EngineObserver(Protocol):
    """Told of what happens as it happens; must be quick and not raise."""

    def model_call(self, worker: str, stage: Stage, rows: int, seconds: float) -> None:
        """`rows` rows spent `seconds` in a call of that stage on a worker."""

    def call_failed(self, worker: str, stage: Stage) -> None:
        """A call on a worker failed, hung or gave nonsense."""

    def worker_changed(self, name: str, condition: Condition) -> None:
        """A worker came up, went down or is leaving."""


@dataclass(frozen=True)
class EngineLimits:
    """What one engine takes on, and how patient it is.

    `batch_rows` bounds a denoiser call, `image_rows` an encoder or decoder call (these work at full
    resolution, so a row costs far more memory); below these the batch is what measured costs make
    it. `requests` and `evaluations` (rows of denoiser calls still to come) bound what is held. A
    call is given up after `watchdog_s` or far more than it should take (a tenth of it where another
    worker proves quicker), and every request after `outage_s` without a worker.
    """

    batch_rows: int = 64
    image_rows: int = 16
    requests: int = 256
    evaluations: int = 20_000
    watchdog_s: float = 10.0
    outage_s: float = 30.0


@dataclass(frozen=True)
class StageStats:
    """Totals of a stage: calls that returned, their rows, seconds inside them; failed calls."""

    batches: int = 0
    rows: int = 0
    seconds: float = 0.0
    failed_batches: int = 0


class Work:
    """The requests under way and who waits for them: what the dispatcher works on."""

    def __init__(
        self,
        pool: Pool,
        limits: EngineLimits,
        costs: CostTable,
        clock: Callable[[], float],
        observer: EngineObserver | None,
    ) -> None:
        self._limits = limits
        self.costs = costs
        self._clock = clock
        self._observer = observer
        self._answers: dict[int, asyncio.Future[EngineResult]] = {}
        self._waiters: list[tuple[str, asyncio.Future[None]]] = []
        self.stages = dict.fromkeys(STAGES, StageStats())
        self.forecast = Forecast(self.costs, pool)
        self.pipeline = Pipeline(self.forecast.row_cost)

    def admit(
        self, request: PredictionRequest, follow: Follow | None
    ) -> tuple[int, asyncio.Future[EngineResult]]:
        """Begin a request; its answer or its error will be in the future."""
        self.forecast.familiarise(request.networks)
        owner = self.pipeline.admit(request, self._clock(), follow)
        answer = self._answers[owner] = asyncio.get_running_loop().create_future()
        return owner, answer

    def forget(self, owner: int) -> None:
        """Nobody waits for a request any more."""
        self.pipeline.remove(owner)
        self._answers.pop(owner, None)
        self._tell_waiters()

    def __contains__(self, owner: int) -> bool:
        """Whether a request is still wanted."""
        return owner in self.pipeline

    @property
    def owners(self) -> Sequence[int]:
        """Every request under way."""
        return tuple(self._answers)

    def next_batch(self, member: Member, num_idle: int) -> Batch[Trajectory] | None:
        """Rows for a worker, `num_idle` of which are idle, or None when it can take none."""
        worker, device, limits = member.worker, member.worker.device, self._limits

        def max_rows(group: Group) -> int:
            if not worker.serves(group.model):
                return 0
            most = limits.batch_rows if group.stage == "denoise" else limits.image_rows
            return self.costs.max_rows(device, group.network, most)

        return self.pipeline.next_batch(max_rows, num_idle, self._clock())

    def watchdog_s(self, member: Member, network: Network, rows: int) -> float:
        """Seconds after which a call is taken to hang."""
        floor = self._limits.watchdog_s
        return self.forecast.watchdog(member.worker.device, network, rows, floor)

    def haste_s(self, member: Member, network: Network, rows: int) -> float:
        """Seconds after which a call is looked at, to see whether others are quicker."""
        found = self.forecast.haste(
            member.worker.device, network, rows, _HASTE * self._limits.watchdog_s
        )
        longest = self.watchdog_s(member, network, rows)
        return longest if found is None else min(found, longest)

    def landed(
        self, group: Group, rows: Rows, inputs: Mapping[str, np.ndarray], output: np.ndarray
    ) -> None:
        """Rows took their step; the output is finite and of the right shape."""
        for outcome in self.pipeline.absorb(group, rows, inputs, output, self._clock()):
            self._end(outcome)

    def measured(self, member: Member, group: Group, rows: int, seconds: float | None) -> None:
        """A call returned after `seconds`, or failed (None)."""
        totals = self.stages[group.stage]
        if seconds is None:
            self.stages[group.stage] = replace(totals, failed_batches=totals.failed_batches + 1)
            if self._observer is not None:
                self._observer.call_failed(member.name, group.stage)
            return
        self.stages[group.stage] = replace(
            totals,
            batches=totals.batches + 1,
            rows=totals.rows + rows,
            seconds=totals.seconds + seconds,
        )
        self.costs.observe(member.worker.device, group.network, rows, seconds)
        if self._observer is not None:
            self._observer.model_call(member.name, group.stage, rows, seconds)

    def failed(self, owner: int, error: EngineError) -> None:
        """A request cannot be answered."""
        self._end(Outcome(owner, error))

    def changed(self, member: Member) -> None:
        """A worker went down, came up or is leaving."""
        if self._observer is not None:
            self._observer.worker_changed(member.name, member.condition)

    @property
    def models(self) -> Mapping[str, Networks]:
        """The models of the requests under way, with what one of these calls."""
        return {live.run.request.model: live.run.request.networks for live in self.pipeline}

    def unused(self, model: str) -> asyncio.Future[None]:
        """Is done when no request of a model is under way."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((model, waiter))
        self._tell_waiters()
        return waiter

    def _tell_waiters(self) -> None:
        if self._waiters:
            models = self.models
            for model, waiter in self._waiters:
                if model not in models and not waiter.done():
                    waiter.set_result(None)
            self._waiters = [entry for entry in self._waiters if not entry[1].done()]

    def _end(self, outcome: Outcome) -> None:
        self.pipeline.remove(outcome.owner)
        self._tell_waiters()
        answer = self._answers.pop(outcome.owner, None)
        if answer is None or answer.done():  # cancelled in this very turn of the event loop
            return
        if isinstance(outcome.result, EngineError):
            answer.set_exception(outcome.result)
        else:
            answer.set_result(outcome.result)
