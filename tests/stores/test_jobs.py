"""Jobs are run, once as far as anybody sees, whatever happens to those that run them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from service.errors import InvalidField, TooBusy
from service.jobs.runner import Answer, JobRunner, RunnerTerms
from service.stores.base import (
    Claim,
    JobEvent,
    JobRecord,
    JobResult,
    NewJob,
    Problem,
    Progress,
    StoreLimits,
)
from service.stores.redis import RedisPlace, RedisStore

PATIENCE_S = 60.0
SOON = RunnerTerms(lease_s=0.6, progress_every_s=0.0)


@asynccontextmanager
async def running(store, answer: Answer, terms=None, finished=None) -> AsyncIterator[JobRunner]:
    runner = JobRunner(store, answer, terms or RunnerTerms(progress_every_s=0.0), finished)
    runner.start()
    try:
        yield runner
    finally:
        await runner.stop(grace_s=0.0)


async def watch(store, job_id: str) -> list[JobEvent]:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in store.events(job_id)]


async def add(store, data: bytes = b"in") -> str:
    return (await store.submit(NewJob(data, evaluations=3))).job.id


class Gated:
    """An answer that says when it began and waits to be let through."""

    def __init__(self) -> None:
        self.claims: asyncio.Queue[Claim] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.stopped = asyncio.Event()
        self.num_running = self.most_running = 0

    async def __call__(self, claim: Claim, report: Callable[[Progress], None]) -> JobResult:
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        self.claims.put_nowait(claim)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        finally:
            self.num_running -= 1
        return JobResult(claim.input.upper())

    async def begun(self) -> Claim:
        async with asyncio.timeout(PATIENCE_S):
            return await self.claims.get()


async def test_a_job_is_answered_and_tells_how_far_it_is(servers):
    store = servers.open()
    seen = asyncio.Event()

    async def answer(claim: Claim, report: Callable[[Progress], None]) -> JobResult:
        report(Progress(1, 3, b"picture"))
        report(Progress(2, 3))
        await seen.wait()
        return JobResult(claim.input.upper(), {"type": "text/plain"})

    ended: list[JobRecord] = []
    async with running(store, answer, finished=ended.append):
        job_id = await add(store)
        async with asyncio.timeout(PATIENCE_S):
            async for event in servers.open().events(job_id):
                if event.done == 2:
                    assert event.preview == b"picture"
                    seen.set()
    assert event.state == "succeeded"
    assert await store.result(job_id) == JobResult(b"IN", {"type": "text/plain"})
    assert [job.id for job in ended] in ([], [job_id])  # stopped in the moment of its end


async def test_no_more_run_than_there_is_room_for(servers):
    store = servers.open()
    answer = Gated()
    async with running(store, answer, RunnerTerms(max_running=2)) as runner:
        ids = [await add(store) for _ in range(7)]
        await answer.begun()
        await answer.begun()
        assert runner.num_running == 2
        assert (await store.stats()).jobs["queued"] == 5
        answer.gate.set()
        for job_id in ids:
            assert (await watch(store, job_id))[-1].state == "succeeded"
    assert answer.most_running == 2


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (
            InvalidField("No such model", field="model", limit="tiny"),
            Problem(422, "Invalid field", "No such model", "model", "tiny"),
        ),
        (
            RuntimeError("a secret path"),
            Problem(500, "Internal error", "The server could not answer this job"),
        ),
    ],
)
async def test_a_job_that_cannot_be_answered_fails(servers, error, problem):
    async def answer(claim: Claim, report: Callable[[Progress], None]) -> JobResult:
        raise error

    store = servers.open()
    async with running(store, answer):
        job_id = await add(store)
        await watch(store, job_id)
    assert (await store.get(job_id)).problem == problem


async def test_a_result_or_preview_that_is_too_large(servers):
    async def answer(claim: Claim, report: Callable[[Progress], None]) -> JobResult:
        report(Progress(1, 2, bytes(100)))
        await asyncio.sleep(0.01)
        return JobResult(bytes(100))

    store = servers.open(StoreLimits(max_preview_bytes=10, max_result_bytes=50))
    async with running(store, answer):
        job_id = await add(store)
        events = await watch(store, job_id)
    assert {event.preview for event in events} == {b""}
    failed = await store.get(job_id)
    assert failed.problem is not None
    assert (failed.problem.status, failed.problem.limit) == (413, "50 bytes")


async def test_a_busy_server_hands_back_and_rests(servers):
    calls = 0

    async def answer(claim: Claim, report: Callable[[Progress], None]) -> JobResult:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise TooBusy("The queue is full", retry_after_s=1)
        return JobResult(b"out")

    store = servers.open()
    async with running(store, answer):
        job_id = await add(store)
        events = await watch(store, job_id)
    assert [event.state for event in events if event.done == 0][:4] == [
        "queued",
        "running",
        "queued",
        "running",
    ]
    assert calls == 2
    assert (await store.get(job_id)).attempt == 1
    assert events[3].at_s - events[2].at_s > 0.5


async def test_a_cancelled_job_stops_running(servers):
    answer, store = Gated(), servers.open()
    async with running(store, answer, SOON):
        job_id = await add(store)
        await answer.begun()
        await servers.open().cancel(job_id)
        async with asyncio.timeout(PATIENCE_S):
            await answer.stopped.wait()
        answer.gate.set()
        other = await add(store)
        await watch(store, other)
    assert (await store.get(job_id)).state == "cancelled"


async def test_a_lease_is_kept_as_long_as_the_work_takes(servers):
    """Another server waits for the lease to end all the while."""
    store, other = servers.open(), servers.open()
    answer, idle = Gated(), Gated()
    terms = RunnerTerms(lease_s=3.0)
    async with running(store, answer, terms):
        job_id = await add(store)
        await answer.begun()
        async with running(other, idle, terms):
            await asyncio.sleep(4.0)
            answer.gate.set()
            assert (await watch(store, job_id))[-1].attempt == 1
    assert idle.claims.empty()


async def test_stopping_hands_back_what_is_not_done(servers):
    store, other = servers.open(), servers.open()
    answer, heir = Gated(), Gated()
    async with running(store, answer) as runner:
        job_id = await add(store)
        await answer.begun()
        await runner.stop(grace_s=0.0)
        assert answer.stopped.is_set()
        assert runner.num_running == 0
    back = await other.get(job_id)
    assert (back.state, back.attempt) == ("queued", 0)
    heir.gate.set()
    async with running(other, heir):
        assert (await watch(other, job_id))[-1].state == "succeeded"


async def test_stopping_lets_work_end_within_its_grace(servers):
    store, answer = servers.open(), Gated()
    async with running(store, answer) as runner:
        jobs = [await add(store) for _ in range(2)]
        for _ in jobs:
            await answer.begun()
        stopping = asyncio.create_task(runner.stop(PATIENCE_S))
        await asyncio.sleep(0)
        assert not stopping.done()
        answer.gate.set()
        await stopping
        assert [(await store.get(job)).state for job in jobs] == ["succeeded", "succeeded"]
        assert not answer.stopped.is_set()


async def test_an_outage_of_redis_loses_nothing(own_redis):
    """It is down when the work ends, and when the next jobs would be claimed."""
    store = RedisStore(RedisPlace(own_redis.url))
    answer = Gated()
    async with running(store, answer, SOON):
        first = await add(store)
        second = await add(store)
        await answer.begun()
        await answer.begun()
        own_redis.stop()
        answer.gate.set()
        await asyncio.sleep(1.0)  # longer than the lease
        own_redis.start()
        for job_id in (first, second):
            assert (await watch(store, job_id))[-1].state == "succeeded"
            assert await store.result(job_id) == JobResult(b"IN")
        third = await add(store)
        assert (await watch(store, third))[-1].state == "succeeded"
    await store.close()
