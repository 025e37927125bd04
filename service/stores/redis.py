"""Jobs in Redis, shared by any number of servers; the only place that knows the client library.

Every change is one atomic script, `jobs.lua`, on Redis' own clock. What Redis has answered survives
its death when it runs with `appendonly yes` (and a power cut with `appendfsync always`).
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.stores.base import (
    GIVEN_UP,
    Claim,
    JobEvent,
    JobRecord,
    JobResult,
    Lease,
    NewJob,
    Problem,
    Progress,
    StoreLimits,
    StoreStats,
    Submission,
    check_job_id,
)
from service.stores.bell import Bell, Heard
from service.stores.errors import (
    IdempotencyConflict,
    NoSuchJob,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from service.stores.folder import SharedFolder
from service.stores.replies import (
    Reply,
    dump_labels,
    dump_problem,
    read_events,
    read_record,
    read_result,
    read_stats,
)
from service.stores.wakeups import wait_rung

T = TypeVar("T")

JOB_OVERHEAD_BYTES = 1024  # as in jobs.lua
_QUEUE = "queue"
_PUBLISHED = 1
_BLOCK_MS = 2000  # how long the bell waits in one call
_LOOK_AGAIN_S = 5.0  # the bell may have rung more often than it remembers
_SWEEP_BATCH = 500
_CONSUMER_IDLE_MS = 24 * 3600 * 1000
_UNAVAILABLE = (exceptions.RedisError, TimeoutError, OSError)


@dataclass(frozen=True)
class RedisPlace:
    """Where the jobs are: `prefix` tells services in one Redis apart.

    Inputs and results are in `folder` where there is one, a path that all servers share, or else in
    Redis. A call that takes longer than `timeout_s` is StoreUnavailable.
    """

    url: str
    prefix: str = "percept"
    folder: Path | None = None
    timeout_s: float = 5.0
    max_connections: int = 32


class RedisStore:
    """A Store in Redis; connects when first used, and again whenever it has to."""

    def __init__(self, place: RedisPlace, limits: StoreLimits | None = None) -> None:
        self._place = place
        self._limits = limits or StoreLimits()
        self._folder = None if place.folder is None else SharedFolder(place.folder)
        self._redis = _connect(place, place.max_connections)
        self._listener = _connect(place, 1)
        self._script = self._redis.register_script(
            files("service.stores").joinpath("jobs.lua").read_text()
        )
        self._tag = "{" + place.prefix + "}"
        self._bell = Bell(self._hear)

    async def submit(self, job: NewJob) -> Submission:
        """Keep a job; raises IdempotencyConflict, JobTooLarge, StoreFull."""
        limits = self._limits
        limits.check("input", job.input)
        job_id = secrets.token_hex(16)
        if self._folder is not None:
            await self._in_thread(partial(self._folder.write, f"{job_id}.input", job.input))
        outcome, *said = await self._call(
            "submit",
            job_id,
            _hashed(job.idempotency_key),
            job.fingerprint,
            dump_labels(job.labels),
            job.evaluations,
            len(job.input) + JOB_OVERHEAD_BYTES,
            job.input if self._folder is None else b"",
            limits.max_unfinished,
            limits.max_bytes,
            limits.max_events,
            _ms(limits.keep_s),
            int(self._folder is None),
        )
        record = read_record(said[0]) if outcome == b"job" else None
        is_new = record is not None and record.id == job_id
        if not is_new:
            await self._delete(f"{job_id}.input")
        if record is not None:
            return Submission(record, is_new)
        if outcome == b"conflict":
            raise IdempotencyConflict(said[0].decode())
        raise StoreFull(f"As many {said[0].decode()} of jobs are kept as may be")

    async def claim(self, worker: str, lease_s: float) -> Claim:
        """Wait for a job that nobody holds and take it; `worker` is no other process' name."""
        with self._bell.listen(_QUEUE) as rung:
            while True:
                taken = await self._take(worker, lease_s)
                if isinstance(taken, Claim):
                    return taken
                await wait_rung(rung, taken)

    async def renew(self, lease: Lease) -> bool:
        """Hold a job for another `lease_s` from now."""
        return bool(await self._call("renew", lease.job_id, lease.token, _ms(lease.lease_s)))

    async def progress(self, lease: Lease, progress: Progress) -> bool:
        """Tell watchers how far the job is, and renew; raises JobTooLarge for its preview."""
        self._limits.check("preview", progress.preview)
        told = await self._call(
            "progress",
            lease.job_id,
            lease.token,
            _ms(lease.lease_s),
            progress.done,
            progress.total,
            progress.preview,
        )
        return bool(told)

    async def publish(self, lease: Lease, result: JobResult) -> bool:
        """End a job with its answer. Repeating it is harmless. Raises JobTooLarge."""
        self._limits.check("result", result.data)
        name = ""
        if self._folder is not None:
            name = f"{lease.job_id}.{secrets.token_hex(8)}.result"
            await self._in_thread(partial(self._folder.write, name, result.data))
        published = await self._call(
            "publish",
            lease.job_id,
            lease.token,
            dump_labels(result.labels),
            len(result.data) + JOB_OVERHEAD_BYTES,
            result.data if self._folder is None else b"",
            name,
        )
        await self._delete(f"{lease.job_id}.input" if published == _PUBLISHED else name)
        return bool(published)

    async def fail(self, lease: Lease, problem: Problem) -> bool:
        """End a job without an answer."""
        failed = await self._call("fail", lease.job_id, lease.token, dump_problem(problem))
        if failed:
            await self._delete(f"{lease.job_id}.input")
        return bool(failed)

    async def release(self, lease: Lease) -> bool:
        """Hand a job back unfinished; it is queued where it was, and this was no attempt."""
        return bool(await self._call("release", lease.job_id, lease.token))

    async def cancel(self, job_id: str) -> JobRecord:
        """End a job unless it has ended; its holder learns at its next call."""
        record = _known(job_id, await self._call("cancel", check_job_id(job_id)))
        await self._delete(f"{job_id}.input")
        return record

    async def get(self, job_id: str) -> JobRecord:
        """What is known of a job."""
        return _known(job_id, await self._call("get", check_job_id(job_id)))

    async def result(self, job_id: str) -> JobResult | None:
        """Return the answer of a job; None unless it succeeded."""
        state, labels, file, data = await self._call("result", check_job_id(job_id))
        if state is None:
            raise NoSuchJob(job_id)
        if state != b"succeeded":
            return None
        if file and self._folder is not None:
            data = await self._in_thread(partial(self._folder.read, file.decode()))
        if data is None:
            raise StoreUnavailable(f"The result of job {job_id} is not where this server looks")
        return read_result(labels, data)

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        """Yield what happened to a job after the event `after`, and happens, until it has ended."""
        with self._bell.listen(check_job_id(job_id)) as rung:
            while True:
                batch = read_events(await self._call("events", job_id, after))
                if batch is None:
                    raise NoSuchJob(job_id)
                for event in batch.events:
                    yield event
                    after = event.id
                if batch.is_finished and after >= batch.num_events:
                    return
                await wait_rung(rung, _LOOK_AGAIN_S)

    async def stats(self) -> StoreStats:
        """Count what is kept."""
        return read_stats(await self._call("stats"))

    async def sweep(self) -> None:
        """Let go of what has expired, also of files whose job is no more."""
        await self._call("sweep", _CONSUMER_IDLE_MS)
        if self._folder is None:
            return
        old = await self._in_thread(partial(self._folder.older_than, self._limits.keep_s))
        ids = list(old)
        for start in range(0, len(ids), _SWEEP_BATCH):
            group = ids[start : start + _SWEEP_BATCH]
            exist = await self._call("existing", *group)
            for job_id, exists in zip(group, exist, strict=True):
                for name in () if exists else old[job_id]:
                    await self._delete(name)

    async def close(self) -> None:
        """Let go of connections; jobs stay."""
        await self._bell.close()
        for client in (self._redis, self._listener):
            with suppress(*_UNAVAILABLE):
                await client.aclose()

    async def _take(self, worker: str, lease_s: float) -> Claim | float:
        """Take a job, or say in how many seconds to look again if the bell does not ring."""
        token = secrets.token_hex(8)
        limits = (self._limits.max_attempts, dump_problem(GIVEN_UP))
        call = asyncio.create_task(self._call("claim", worker, token, _ms(lease_s), *limits))
        try:
            outcome, said, *inputs = await asyncio.shield(call)
            if outcome == b"none":
                return _LOOK_AGAIN_S if said < 0 else min(_LOOK_AGAIN_S, (said + 1) / 1000)
            record = _known("", said)
            lease = Lease(record.id, record.fence, token, lease_s)
            return Claim(lease, record, await self._find_input(record.id, inputs[0]))
        except asyncio.CancelledError:
            with suppress(StoreError):
                outcome, said, *_ = await call
                if outcome == b"job":
                    await self.release(Lease(_known("", said).id, 0, token, lease_s))
            raise

    async def _find_input(self, job_id: str, data: bytes | None) -> bytes:
        """Return what the job was submitted with; without it the lease is left to expire."""
        if self._folder is not None:
            return await self._in_thread(partial(self._folder.read, f"{job_id}.input"))
        if data is None:
            raise StoreUnavailable(f"The input of job {job_id} is not where this server looks")
        return data

    async def _call(self, operation: str, *arguments: str | float | bytes) -> Reply:
        async with _reachable(self._place.timeout_s):
            return await self._script(keys=[self._tag], args=[operation, *arguments])

    async def _hear(self, position: bytes | None) -> Heard:
        """Read the bell's stream after a position; None gives where it ends."""
        bell = f"{self._tag}:bell"
        async with _reachable(self._place.timeout_s + _BLOCK_MS / 1000):
            if position is None:
                last: Reply = await self._listener.xrevrange(bell, count=1)
                return Heard(frozenset(), last[0][0] if last else b"0-0")
            heard: Reply = await self._listener.xread({bell: position}, block=_BLOCK_MS)
        entries = heard[0][1] if heard else []
        topics = frozenset(fields[b"topic"].decode() for _, fields in entries)
        return Heard(topics, entries[-1][0] if entries else position)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Use the folder; one that hangs is as good as none."""
        async with _reachable(self._place.timeout_s):
            return await asyncio.to_thread(work)

    async def _delete(self, name: str) -> None:
        """Let go of a file where there are files; if it cannot be now, it is swept later."""
        if self._folder is not None and name:
            with suppress(StoreUnavailable):
                await self._in_thread(partial(self._folder.delete, name))


def _connect(place: RedisPlace, max_connections: int) -> Redis:
    """Return a client; a call that a lost connection broke is made once more.

    Calls have their time-outs from `_reachable`: the client's own is an `asyncio.wait_for`, which
    before Python 3.12 may lose the cancellation of a task.
    """
    pool = BlockingConnectionPool.from_url(
        place.url,
        max_connections=max_connections,
        timeout=place.timeout_s,
        socket_timeout=None,
        socket_connect_timeout=place.timeout_s,
        retry=Retry(NoBackoff(), 1),
        protocol=2,
    )
    return Redis.from_pool(pool)


@asynccontextmanager
async def _reachable(timeout_s: float) -> AsyncIterator[None]:
    """Turn the ways in which Redis is not there, or late, into errors of a store."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except exceptions.OutOfMemoryError as error:
        raise StoreFull("Redis has no memory left") from error
    except _UNAVAILABLE as error:
        raise StoreUnavailable(
            f"Redis cannot be used: {str(error) or type(error).__name__}"
        ) from error


def _known(job_id: str, reply: Reply) -> JobRecord:
    record = read_record(reply)
    if record is None:
        raise NoSuchJob(job_id)
    return record


def _hashed(key: str | None) -> str:
    """Hash an idempotency key, which a caller chose, to be part of a name; none is empty."""
    return "" if key is None else hashlib.sha256(key.encode()).hexdigest()


def _ms(seconds: float) -> int:
    return max(1, round(1000 * seconds))
