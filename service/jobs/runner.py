"""Runs the jobs of a store: claims them while there is room, and keeps their leases.

Whatever ends a run early, the job is not lost: it is handed back, or its lease expires.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from service.errors import NotReady, PerceptError, TooBusy, Unavailable
from service.jobs.reports import Reports
from service.stores.base import Claim, JobRecord, JobResult, Lease, Problem, Progress, Store
from service.stores.errors import JobTooLarge, NoSuchJob, StoreError, StoreFull, StoreUnavailable

T = TypeVar("T")

_HERE_AND_NOW = (TooBusy, NotReady, Unavailable)  # another server, or this one later, may do it
_RENEWALS_PER_LEASE = 3
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_log = logging.getLogger("percept.jobs")


# Answers a job. What it raises from the error table ends the job, unless it is of the moment. The
# second argument takes reports, on the event loop, as often as there is news.
Answer = Callable[[Claim, Callable[[Progress], None]], Awaitable[JobResult]]


@dataclass(frozen=True)
class RunnerTerms:
    """How one server runs jobs: `max_running` at a time.

    A job whose server has died is taken by another `lease_s` after it was last heard of.
    """

    max_running: int = 4
    lease_s: float = 30.0
    progress_every_s: float = 0.2
    sweep_every_s: float = 60.0


class JobRunner:
    """Runs jobs between `start` and `stop`; `finished` is called with each that ended here."""

    def __init__(
        self,
        store: Store,
        answer: Answer,
        terms: RunnerTerms | None = None,
        finished: Callable[[JobRecord], None] | None = None,
    ) -> None:
        self._store = store
        self._answer = answer
        self._terms = terms or RunnerTerms()
        self._finished = finished
        self._name = f"runner-{secrets.token_hex(8)}"
        self._room = asyncio.Semaphore(self._terms.max_running)
        self._resume_at = 0.0
        self._waiting: asyncio.Future[Claim] | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._runs: set[asyncio.Task[None]] = set()

    @property
    def num_running(self) -> int:
        """Jobs in work here."""
        return len(self._runs)

    def start(self) -> None:
        """Begin to claim jobs."""
        self._loops = [
            asyncio.create_task(self._claim_forever(), name="jobs"),
            asyncio.create_task(self._sweep_forever(), name="jobs-sweep"),
        ]
        for loop in self._loops:
            loop.add_done_callback(_tell_of_its_end)

    async def stop(self, grace_s: float) -> None:
        """Claim no more; jobs in work have `grace_s` to end, then they are handed back."""
        await _cancel(*self._loops)
        if self._runs:
            await asyncio.wait(self._runs, timeout=grace_s)
        await _cancel(*self._runs)

    async def _claim_forever(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await self._room.acquire()
            try:
                claim = None
                while claim is None:
                    await asyncio.sleep(max(0.0, self._resume_at - clock()))
                    claim = await self._claim()
            except BaseException:
                self._room.release()
                raise
            run = asyncio.create_task(self._run(claim), name=f"job-{claim.job.id}")
            self._runs.add(run)
            run.add_done_callback(self._ended)

    async def _claim(self) -> Claim | None:
        """Wait for a job; None where `_hand_back` has broken the wait off."""
        self._waiting = asyncio.ensure_future(
            self._insist(lambda: self._store.claim(self._name, self._terms.lease_s))
        )
        try:
            await asyncio.wait((self._waiting,))
        except asyncio.CancelledError:
            await _cancel(self._waiting)
            if not self._waiting.cancelled():  # it came in the very moment of stopping
                with suppress(StoreError):
                    await self._store.release(self._waiting.result().lease)
            raise
        return None if self._waiting.cancelled() else self._waiting.result()

    def _ended(self, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        self._room.release()
        if not run.cancelled() and (error := run.exception()) is not None:
            _log.error("%s ended with an error; its lease will expire", run, exc_info=error)

    async def _sweep_forever(self) -> None:
        while True:
            with suppress(StoreError):  # the next one may do better
                await self._store.sweep()
            await asyncio.sleep(self._terms.sweep_every_s * random.uniform(0.5, 1.5))  # noqa: S311

    async def _run(self, claim: Claim) -> None:
        """Answer one job; cancelled, hand it back."""
        reports = Reports()
        work = asyncio.ensure_future(self._answer(claim, reports.put))
        keeper = asyncio.create_task(self._keep(claim.lease, reports))
        try:
            await asyncio.wait((work, keeper), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                keeper.result()
                _log.info("job %s was cancelled or taken by another", claim.job.id)
                return
            settled = await self._settle(claim.lease, work)
        except asyncio.CancelledError:
            with suppress(StoreError):
                await self._store.release(claim.lease)
            raise
        finally:
            await _cancel(work, keeper)
        if settled and self._finished is not None:
            with suppress(NoSuchJob):
                self._finished(await self._insist(lambda: self._store.get(claim.job.id)))

    async def _settle(self, lease: Lease, work: asyncio.Future[JobResult]) -> bool:
        """Put the outcome of a run into the store; say whether that ended the job."""
        if work.cancelled():
            return await self._hand_back(lease, _FIRST_PAUSE_S)
        error = work.exception()
        if isinstance(error, _HERE_AND_NOW):
            return await self._hand_back(lease, error.retry_after_s or 1.0)
        if error is not None:
            problem = _problem(lease, error)
            return await self._insist(lambda: self._store.fail(lease, problem))
        result = work.result()
        try:
            return await self._insist(lambda: self._store.publish(lease, result))
        except JobTooLarge as too_large:
            limit = f"{too_large.limit} bytes"
            problem = Problem(413, "Too large", str(too_large), limit=limit)
            return await self._insist(lambda: self._store.fail(lease, problem))

    async def _hand_back(self, lease: Lease, pause_s: float) -> bool:
        """Leave a job to others, and claim none for a while: it would be the same one."""
        self._resume_at = asyncio.get_running_loop().time() + pause_s
        if self._waiting is not None:
            self._waiting.cancel()
        await self._insist(lambda: self._store.release(lease))
        return False

    async def _keep(self, lease: Lease, reports: Reports) -> None:
        """Renew a lease and pass reports on; returns when the lease holds no longer."""
        renewal_s = lease.lease_s / _RENEWALS_PER_LEASE
        pause_s = min(self._terms.progress_every_s, renewal_s)
        while True:
            report = await reports.take(renewal_s)
            try:
                holds = await self._tell(lease, report)
            except (StoreUnavailable, StoreFull):
                # Nobody can take the job where the store is gone; when it is back, it is ours yet.
                holds = True
                reports.put_back(report)
            if not holds:
                return
            await asyncio.sleep(pause_s)

    async def _tell(self, lease: Lease, report: Progress | None) -> bool:
        if report is None:
            return await self._store.renew(lease)
        try:
            return await self._store.progress(lease, report)
        except JobTooLarge:
            return await self._store.progress(lease, Progress(report.done, report.total))

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call of the store, again and again while the store is gone."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except (StoreUnavailable, StoreFull) as error:
                _log.warning("%s; trying again in %.1f s", error, pause_s)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _tell_of_its_end(loop: asyncio.Task[None]) -> None:
    if not loop.cancelled():
        _log.critical("%s has ended: no jobs are run here", loop, exc_info=loop.exception())


def _problem(lease: Lease, error: BaseException) -> Problem:
    if isinstance(error, PerceptError):
        return Problem(error.status, error.title, error.detail, error.field, error.limit)
    _log.error("job %s failed", lease.job_id, exc_info=error)
    return Problem(500, "Internal error", "The server could not answer this job")


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait for their ends, whatever these are."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
