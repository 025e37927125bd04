"""Processes that run jobs are killed or stopped at random: no job is lost, none answered twice."""

import asyncio
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

from service.stores.base import NewJob
from service.stores.redis import RedisPlace, RedisStore
from tests.support.job_process import LIMITS, expected_answer, start_process

PATIENCE_S = 120.0
NUM_KILLS = 20
LEASE_S = 0.5


class Fleet:
    """Processes that run jobs, and the log of the jobs they say they ended."""

    def __init__(self, url: str, log: Path, size: int) -> None:
        self._url, self._log = url, log
        self._processes = [self._start() for _ in range(size)]

    def _start(self) -> subprocess.Popen[bytes]:
        return start_process(self._url, self._log, LEASE_S)

    def kill(self, number: int) -> None:
        self._processes[number].kill()
        self._processes[number].wait()

    def restart(self, number: int) -> None:
        self.kill(number)
        self._processes[number] = self._start()

    def signal(self, number: int, what: signal.Signals) -> None:
        self._processes[number].send_signal(what)

    def close(self) -> None:
        for number in range(len(self._processes)):
            self.kill(number)

    def ended(self) -> Counter[str]:
        return Counter(self._log.read_text().split())


async def wait_for_event(store, job_id: str, number: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        async for event in store.events(job_id):
            if event.id >= number or event.is_last:
                return


async def check(store, fleet: Fleet, jobs: dict[str, bytes]) -> int:
    """Every job has its answer and one end; return how many attempts died."""
    num_died = 0
    for job_id, data in jobs.items():
        async with asyncio.timeout(PATIENCE_S):
            events = [event async for event in store.events(job_id)]
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        assert [event.state for event in events if event.is_last] == ["succeeded"]
        result = await store.result(job_id)
        assert result is not None
        assert result.data == expected_answer(data)
        num_died += events[-1].attempt - 1
    assert (await store.stats()).jobs["succeeded"] == len(jobs)
    assert set(fleet.ended()) <= set(jobs)
    assert max(fleet.ended().values()) == 1
    return num_died


async def test_random_kills_lose_no_job(own_redis, tmp_path):
    rng = random.Random(7)
    store = RedisStore(RedisPlace(own_redis.url, timeout_s=30.0), LIMITS)
    fleet = Fleet(own_redis.url, tmp_path / "log", size=3)
    jobs: dict[str, bytes] = {}
    try:
        for kill in range(NUM_KILLS):
            batch = [b"%d of %d" % (i, kill) for i in range(6)]
            ids = [(await store.submit(NewJob(data))).job.id for data in batch]
            jobs.update(zip(ids, batch, strict=True))
            await wait_for_event(store, rng.choice(ids), rng.randint(1, 10))
            fleet.restart(rng.randrange(3))
        num_died = await check(store, fleet, jobs)
    finally:
        fleet.close()
        await store.close()
    assert num_died > 0, "no process was killed at work"


async def test_a_process_that_wakes_up_late_publishes_nothing(own_redis, tmp_path):
    """Stopped in its work, it goes on when another has long ended the job."""
    store = RedisStore(RedisPlace(own_redis.url, timeout_s=30.0), LIMITS)
    fleet = Fleet(own_redis.url, tmp_path / "log", size=1)
    try:
        first = (await store.submit(NewJob(b"first"))).job.id
        await wait_for_event(store, first, 4)
        fleet.signal(0, signal.SIGSTOP)
        heirs = Fleet(own_redis.url, tmp_path / "log", size=1)
        try:
            events = [event async for event in store.events(first)]
            result = await store.result(first)
            assert events[-1].attempt == 2
        finally:
            heirs.close()
        fleet.signal(0, signal.SIGCONT)
        second = (await store.submit(NewJob(b"second"))).job.id
        await check(store, fleet, {first: b"first", second: b"second"})
        assert await store.result(first) == result
    finally:
        fleet.close()
        await store.close()
