"""What asynchronous calls ask of whatever keeps their jobs.

A job is delivered at least once and its result becomes visible exactly once. Whoever runs a job
holds a lease; when that expires another may take the job, and from then on the earlier holder can
change nothing: its token is no longer the job's. Times are seconds since 1970 on the store's clock.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from service.stores.errors import JobTooLarge, NoSuchJob

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
UNFINISHED: tuple[JobState, ...] = ("queued", "running")
FINISHED: tuple[JobState, ...] = ("succeeded", "failed", "cancelled")

_JOB_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Problem:
    """Why a job failed, as an RFC 9457 problem has it."""

    status: int
    title: str
    detail: str
    field: str | None = None
    limit: str | None = None


GIVEN_UP = Problem(500, "Job given up", "Every attempt at this job ended with its server")


@dataclass(frozen=True)
class Progress:
    """Denoiser evaluations done and in all; `preview` is a picture file of the running answer."""

    done: int
    total: int
    preview: bytes = b""


@dataclass(frozen=True)
class JobResult:
    """The answer of a job: its bytes, and what to say with them (media type, headers)."""

    data: bytes
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NewJob:
    """A job to be kept. `labels` are kept beside it, such as its task and owner.

    Submitting again with the same `idempotency_key` gives the first job, if `fingerprint` is equal.
    """

    input: bytes
    labels: Mapping[str, str] = field(default_factory=dict)
    evaluations: int = 0
    idempotency_key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class JobRecord:
    """What is known of a job.

    `started_s` is when the present attempt began. `attempt` counts those begun and not handed back,
    `fence` all leases. `ahead` is how many jobs are queued before this one, None unless queued.
    """

    id: str
    state: JobState
    labels: Mapping[str, str]
    created_s: float
    started_s: float | None = None
    finished_s: float | None = None
    attempt: int = 0
    fence: int = 0
    done: int = 0
    total: int = 0
    problem: Problem | None = None
    result_labels: Mapping[str, str] | None = None
    ahead: int | None = None

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True)
class Submission:
    """A job, and whether this call made it."""

    job: JobRecord
    is_new: bool


@dataclass(frozen=True)
class Lease:
    """The right to change a running job; `token` is drawn anew for every lease."""

    job_id: str
    fence: int
    token: str
    lease_s: float


@dataclass(frozen=True)
class Claim:
    """A job to be run, with what it was submitted with."""

    lease: Lease
    job: JobRecord
    input: bytes


@dataclass(frozen=True)
class JobEvent:
    """A job at one moment. Ids count from 1 without gaps, but old events are forgotten.

    `preview` is a picture file, and is there only until the next one or the end of the job.
    """

    id: int
    at_s: float
    state: JobState
    attempt: int
    done: int
    total: int
    preview: bytes = b""

    @property
    def is_last(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True)
class StoreStats:
    """Jobs by state, and bytes of inputs and results kept."""

    jobs: Mapping[JobState, int]
    num_bytes: int


@dataclass(frozen=True)
class StoreLimits:
    """What one store may hold.

    A finished job is kept for `keep_s`; one whose attempts all died fails after `max_attempts`.
    """

    max_unfinished: int = 10_000
    max_bytes: int = 2 * 2**30
    max_input_bytes: int = 64 * 2**20
    max_result_bytes: int = 256 * 2**20
    max_preview_bytes: int = 512 * 2**10
    max_events: int = 100
    max_attempts: int = 5
    keep_s: float = 3600.0

    def check(self, what: Literal["input", "result", "preview"], data: bytes) -> None:
        """Raise JobTooLarge if one job may not have these bytes as its `what`."""
        limit = {
            "input": self.max_input_bytes,
            "result": self.max_result_bytes,
            "preview": self.max_preview_bytes,
        }[what]
        if len(data) > limit:
            raise JobTooLarge(what, len(data), limit)


@runtime_checkable
class Store(Protocol):
    """Keeps jobs. Every method may raise StoreUnavailable, and those with an id NoSuchJob.

    The methods that take a lease return whether it still held: False once the job was cancelled,
    finished, or taken by another. A lease past its time holds until another takes the job.
    """

    async def submit(self, job: NewJob) -> Submission:
        """Keep a job; raises IdempotencyConflict, JobTooLarge, StoreFull."""

    async def claim(self, worker: str, lease_s: float) -> Claim:
        """Wait for a job that nobody holds and take it: one handed back, expired, or the oldest.

        May be cancelled at any point: a job taken meanwhile is handed back.
        """

    async def renew(self, lease: Lease) -> bool:
        """Hold a job for another `lease_s` from now."""

    async def progress(self, lease: Lease, progress: Progress) -> bool:
        """Tell watchers how far the job is, and renew; raises JobTooLarge for its preview."""

    async def publish(self, lease: Lease, result: JobResult) -> bool:
        """End a job with its answer. Repeating it is harmless. Raises JobTooLarge."""

    async def fail(self, lease: Lease, problem: Problem) -> bool:
        """End a job without an answer."""

    async def release(self, lease: Lease) -> bool:
        """Hand a job back unfinished; it is queued where it was, and this was no attempt."""

    async def cancel(self, job_id: str) -> JobRecord:
        """End a job unless it has ended; its holder learns at its next call."""

    async def get(self, job_id: str) -> JobRecord:
        """What is known of a job."""

    async def result(self, job_id: str) -> JobResult | None:
        """Return the answer of a job; None unless it succeeded."""

    def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        """Yield what happened to a job after the event `after`, and happens, until it has ended."""

    async def stats(self) -> StoreStats:
        """Count what is kept."""

    async def sweep(self) -> None:
        """Let go of whatever has expired; to be called now and then."""

    async def close(self) -> None:
        """Let go of connections; jobs stay where they outlive the process."""


def check_job_id(job_id: str) -> str:
    """Return an id that may be one; anything else that a caller sends is NoSuchJob."""
    if not _JOB_ID.fullmatch(job_id):
        raise NoSuchJob(job_id)
    return job_id
