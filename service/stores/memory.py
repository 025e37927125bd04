"""Jobs in the memory of one process: they end with it."""

import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from service.stores.base import (
    GIVEN_UP,
    Claim,
    JobEvent,
    JobRecord,
    JobResult,
    JobState,
    Lease,
    NewJob,
    Problem,
    Progress,
    StoreLimits,
    StoreStats,
    Submission,
    check_job_id,
)
from service.stores.errors import IdempotencyConflict, NoSuchJob, StoreFull
from service.stores.wakeups import Wakeups, wait_rung

JOB_OVERHEAD_BYTES = 1024  # what a job is taken to hold besides its input or result
_QUEUE = "queue"
_NO_LEASE = 0.0  # before any time there is: whoever looks next may take the job


@dataclass
class _Kept:
    """A job; `order` is its place in the queue, `lease_until` is there while it is not queued."""

    order: int
    record: JobRecord
    new: NewJob
    events: deque[JobEvent]
    token: str = ""
    lease_until: float | None = None
    result: JobResult | None = None
    preview: tuple[int, bytes] = (0, b"")  # the event that it belongs to
    num_events: int = 0
    num_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_bytes = len(self.new.input) + JOB_OVERHEAD_BYTES


class MemoryStore:
    """A Store of one process and one event loop; `now` gives seconds since 1970."""

    def __init__(
        self, limits: StoreLimits | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._limits = limits or StoreLimits()
        self._now = now
        self._jobs: dict[str, _Kept] = {}
        self._waiting: dict[str, _Kept] = {}  # in order, never leased since they were submitted
        self._leased: dict[str, _Kept] = {}  # running, or handed back
        self._finished: deque[_Kept] = deque()  # in order of their ends
        self._by_key: dict[str, str] = {}
        self._num_bytes = 0
        self._num_submitted = 0
        self._wakeups = Wakeups()

    async def submit(self, job: NewJob) -> Submission:
        """Keep a job; raises IdempotencyConflict, JobTooLarge, StoreFull."""
        self._limits.check("input", job.input)
        self._forget_expired()
        if job.idempotency_key is not None and job.idempotency_key in self._by_key:
            kept = self._jobs[self._by_key[job.idempotency_key]]
            if kept.new.fingerprint != job.fingerprint:
                raise IdempotencyConflict(kept.record.id)
            return Submission(self._describe(kept), is_new=False)
        self._check_room(len(job.input) + JOB_OVERHEAD_BYTES)
        self._num_submitted += 1
        record = JobRecord(
            secrets.token_hex(16), "queued", dict(job.labels), self._now(), total=job.evaluations
        )
        kept = _Kept(self._num_submitted, record, job, deque(maxlen=self._limits.max_events))
        self._jobs[record.id] = self._waiting[record.id] = kept
        self._num_bytes += kept.num_bytes
        if job.idempotency_key is not None:
            self._by_key[job.idempotency_key] = record.id
        self._emit(kept)
        self._wakeups.ring(_QUEUE)
        return Submission(self._describe(kept), is_new=True)

    async def claim(self, worker: str, lease_s: float) -> Claim:
        """Wait for a job that nobody holds and take it; the name of the worker is not kept."""
        del worker
        with self._wakeups.listen(_QUEUE) as rung:
            while (kept := self._next_free()) is None:
                ends = [other.lease_until or 0.0 for other in self._leased.values()]
                await wait_rung(rung, max(0.0, min(ends) - self._now()) if ends else None)
        self._waiting.pop(kept.record.id, None)
        self._leased[kept.record.id] = kept
        kept.token = secrets.token_hex(8)
        kept.lease_until = self._now() + lease_s
        kept.record = replace(
            kept.record,
            state="running",
            started_s=self._now(),
            attempt=kept.record.attempt + 1,
            fence=kept.record.fence + 1,
            done=0,
        )
        self._emit(kept)
        lease = Lease(kept.record.id, kept.record.fence, kept.token, lease_s)
        return Claim(lease, self._describe(kept), kept.new.input)

    async def renew(self, lease: Lease) -> bool:
        """Hold a job for another `lease_s` from now."""
        kept = self._held(lease)
        if kept is not None:
            kept.lease_until = self._now() + lease.lease_s
        return kept is not None

    async def progress(self, lease: Lease, progress: Progress) -> bool:
        """Tell watchers how far the job is, and renew; raises JobTooLarge for its preview."""
        self._limits.check("preview", progress.preview)
        kept = self._held(lease)
        if kept is not None:
            kept.lease_until = self._now() + lease.lease_s
            kept.record = replace(kept.record, done=progress.done, total=progress.total)
            self._emit(kept, progress.preview)
        return kept is not None

    async def publish(self, lease: Lease, result: JobResult) -> bool:
        """End a job with its answer. Repeating it is harmless. Raises JobTooLarge."""
        self._limits.check("result", result.data)
        kept = self._held(lease)
        if kept is None:
            return self._ended_by(lease, "succeeded")
        kept.result = result
        kept.record = replace(
            kept.record, done=kept.record.total, result_labels=dict(result.labels)
        )
        self._finish(kept, "succeeded")
        return True

    async def fail(self, lease: Lease, problem: Problem) -> bool:
        """End a job without an answer."""
        kept = self._held(lease)
        if kept is None:
            return self._ended_by(lease, "failed")
        self._fail(kept, problem)
        return True

    async def release(self, lease: Lease) -> bool:
        """Hand a job back unfinished; it is queued where it was, and this was no attempt."""
        kept = self._held(lease)
        if kept is None:
            return False
        kept.lease_until = _NO_LEASE
        attempt = kept.record.attempt - 1
        kept.record = replace(kept.record, state="queued", started_s=None, attempt=attempt, done=0)
        self._emit(kept)
        self._wakeups.ring(_QUEUE)
        return True

    async def cancel(self, job_id: str) -> JobRecord:
        """End a job unless it has ended; its holder learns at its next call."""
        kept = self._find(job_id)
        if not kept.record.is_finished:
            self._finish(kept, "cancelled")
        return kept.record

    async def get(self, job_id: str) -> JobRecord:
        """What is known of a job."""
        return self._describe(self._find(job_id))

    async def result(self, job_id: str) -> JobResult | None:
        """Return the answer of a job; None unless it succeeded."""
        return self._find(job_id).result

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        """Yield what happened to a job after the event `after`, and happens, until it has ended."""
        with self._wakeups.listen(job_id) as rung:
            while True:
                kept = self._find(job_id)
                if after > kept.num_events:
                    after = 0  # no id that was ever given: better twice than not at all
                for event in [event for event in kept.events if event.id > after]:
                    number, preview = kept.preview
                    yield replace(event, preview=preview) if number == event.id else event
                    after = event.id
                if kept.record.is_finished and after >= kept.num_events:
                    return
                await wait_rung(rung, None)

    async def stats(self) -> StoreStats:
        """Count what is kept."""
        self._forget_expired()
        states: dict[JobState, int] = dict.fromkeys(
            ("queued", "running", "succeeded", "failed", "cancelled"), 0
        )
        for kept in self._jobs.values():
            states[kept.record.state] += 1
        return StoreStats(states, self._num_bytes)

    async def sweep(self) -> None:
        """Let go of whatever has expired; to be called now and then."""
        self._forget_expired()

    async def close(self) -> None:
        """Nothing to let go of."""

    def _check_room(self, num_bytes: int) -> None:
        if len(self._waiting) + len(self._leased) >= self._limits.max_unfinished:
            raise StoreFull(f"{self._limits.max_unfinished} jobs are waiting or in work")
        if self._num_bytes + num_bytes > self._limits.max_bytes:
            raise StoreFull(f"The jobs kept have {self._num_bytes} bytes already")

    def _forget_expired(self) -> None:
        oldest = self._now() - self._limits.keep_s
        while self._finished and (self._finished[0].record.finished_s or 0.0) <= oldest:
            kept = self._finished.popleft()
            self._num_bytes -= kept.num_bytes
            del self._jobs[kept.record.id]
            if kept.new.idempotency_key is not None:
                del self._by_key[kept.new.idempotency_key]

    def _find(self, job_id: str) -> _Kept:
        self._forget_expired()
        kept = self._jobs.get(check_job_id(job_id))
        if kept is None:
            raise NoSuchJob(job_id)
        return kept

    def _held(self, lease: Lease) -> _Kept | None:
        kept = self._jobs.get(lease.job_id)
        running = kept is not None and kept.record.state == "running"
        return kept if running and kept is not None and kept.token == lease.token else None

    def _ended_by(self, lease: Lease, state: JobState) -> bool:
        """Whether this very lease brought the job there, and tells so again."""
        kept = self._jobs.get(lease.job_id)
        return kept is not None and kept.record.state == state and kept.token == lease.token

    def _next_free(self) -> _Kept | None:
        """Return the job to be taken next; jobs that had all their attempts fail on the way."""
        now = self._now()
        free = [kept for kept in self._leased.values() if (kept.lease_until or 0.0) <= now]
        for kept in sorted(free, key=lambda kept: (kept.lease_until, kept.order)):
            if kept.record.attempt < self._limits.max_attempts:
                return kept
            self._fail(kept, GIVEN_UP)
        return next(iter(self._waiting.values()), None)

    def _fail(self, kept: _Kept, problem: Problem) -> None:
        kept.record = replace(kept.record, problem=problem)
        self._finish(kept, "failed")

    def _finish(self, kept: _Kept, state: JobState) -> None:
        self._waiting.pop(kept.record.id, None)
        self._leased.pop(kept.record.id, None)
        self._num_bytes -= kept.num_bytes
        kept.new = replace(kept.new, input=b"")
        kept.num_bytes = JOB_OVERHEAD_BYTES + (len(kept.result.data) if kept.result else 0)
        self._num_bytes += kept.num_bytes
        kept.lease_until, kept.preview = None, (0, b"")
        kept.record = replace(kept.record, state=state, finished_s=self._now())
        self._finished.append(kept)
        self._emit(kept)

    def _emit(self, kept: _Kept, preview: bytes = b"") -> None:
        record = kept.record
        kept.num_events += 1
        event = JobEvent(
            kept.num_events, self._now(), record.state, record.attempt, record.done, record.total
        )
        kept.events.append(event)
        if preview:
            kept.preview = (event.id, preview)
        self._wakeups.ring(record.id)

    def _describe(self, kept: _Kept) -> JobRecord:
        if kept.record.state != "queued":
            return kept.record
        others = (*self._waiting.values(), *self._leased.values())
        queued = (other for other in others if other.record.state == "queued")
        return replace(kept.record, ahead=sum(other.order < kept.order for other in queued))
