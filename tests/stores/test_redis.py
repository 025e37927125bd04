"""What only Redis can do to us: die, hang, fill up, forget; and files beside it."""

import asyncio
import os
import signal
import time
from dataclasses import replace

import pytest

from service.stores.base import JobResult, NewJob, Progress, StoreLimits
from service.stores.errors import NoSuchJob, StoreFull, StoreUnavailable
from service.stores.redis import RedisPlace, RedisStore
from tests.support.redis_server import RedisServer

LONG_S = 600.0
PATIENCE_S = 60.0


@pytest.fixture
async def place(own_redis: RedisServer):
    return RedisPlace(own_redis.url, timeout_s=30.0)


@pytest.fixture
async def store(place):
    store = RedisStore(place, StoreLimits(keep_s=LONG_S))
    yield store
    await store.close()


async def take(store):
    async with asyncio.timeout(PATIENCE_S):
        return await store.claim("w", LONG_S)


async def test_everything_resumes_after_a_kill(own_redis, store):
    """Redis is killed with a job in every state, a watcher and a claimer at work."""
    done, failing, running = [(await store.submit(NewJob(b"%d" % i))).job.id for i in range(3)]
    await store.publish((await take(store)).lease, JobResult(b"out", {"a": "b"}))
    cancelled = await take(store)
    await store.cancel(failing)
    claim = await take(store)
    await store.progress(claim.lease, Progress(1, 3, b"picture"))
    idle_claim = asyncio.create_task(store.claim("w", LONG_S))
    before = [await store.get(job_id) for job_id in (done, failing, running)]

    own_redis.stop()
    with pytest.raises(StoreUnavailable):
        await idle_claim
    calls = (
        store.submit(NewJob(b"x")),
        store.claim("w", LONG_S),
        store.renew(claim.lease),
        store.get(done),
        store.result(done),
        anext(store.events(done)),
        store.stats(),
        store.sweep(),
    )
    for call in calls:
        with pytest.raises(StoreUnavailable):
            await call

    own_redis.start()
    assert [await store.get(job_id) for job_id in (done, failing, running)] == before
    assert await store.result(done) == JobResult(b"out", {"a": "b"})
    assert not await store.renew(cancelled.lease)
    assert await store.renew(claim.lease)
    watching = store.events(running, after=2)
    assert (await anext(watching)).preview == b"picture"
    await store.publish(claim.lease, JobResult(b"after"))
    async with asyncio.timeout(PATIENCE_S):
        assert [event.state async for event in watching] == ["succeeded"]
    again = asyncio.create_task(take(store))
    added = await store.submit(NewJob(b"after"))
    assert (await again).job.id == added.job.id


async def test_a_redis_that_hangs_is_unavailable(own_redis, place):
    store = RedisStore(replace(place, timeout_s=0.3))
    job_id = (await store.submit(NewJob(b"in"))).job.id
    own_redis.signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match="Redis cannot be used"):
        await store.get(job_id)
    own_redis.signal(signal.SIGCONT)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                assert (await store.get(job_id)).state == "queued"
                break
            except StoreUnavailable:
                continue
    await store.close()


async def test_a_redis_without_memory_is_full(own_redis, store):
    own_redis.send(b"CONFIG SET maxmemory 1")
    with pytest.raises(StoreFull):
        await store.submit(NewJob(b"in"))
    own_redis.send(b"CONFIG SET maxmemory 0")
    assert (await store.submit(NewJob(b"in"))).is_new


async def test_a_redis_that_forgot_everything_is_used_on(own_redis, store):
    job_id = (await store.submit(NewJob(b"in"))).job.id
    lost = await take(store)
    claiming = asyncio.create_task(take(store))
    own_redis.flush()
    with pytest.raises(NoSuchJob):
        await store.get(job_id)
    assert not await store.publish(lost.lease, JobResult(b"out"))
    added = await store.submit(NewJob(b"new"))
    assert (await claiming).job.id == added.job.id


async def test_services_with_other_prefixes_do_not_meet(place, store):
    other = RedisStore(replace(place, prefix="other"))
    mine = (await store.submit(NewJob(b"mine", idempotency_key="k"))).job.id
    theirs = (await other.submit(NewJob(b"theirs", idempotency_key="k"))).job.id
    assert (await take(other)).job.id == theirs
    with pytest.raises(NoSuchJob):
        await other.get(mine)
    await other.close()


async def test_nothing_of_expired_jobs_is_left(own_redis, place, tmp_path):
    store = RedisStore(replace(place, folder=tmp_path), StoreLimits(keep_s=0.05))
    for number in range(10):
        await store.submit(NewJob(b"in", idempotency_key=str(number)))
        claim = await take(store)
        await store.progress(claim.lease, Progress(1, 2, b"picture"))
        await store.publish(claim.lease, JobResult(b"out"))
    assert own_redis.send(b"XLEN {percept}:queue") == b":0\r\n"
    async with asyncio.timeout(PATIENCE_S):
        while await store_holds_anything(store, tmp_path):
            await store.sweep()
            await asyncio.sleep(0.01)
    keys = own_redis.send(b"KEYS *").split()
    left = {key.decode() for key in keys if key.startswith(b"{")}
    assert left == {f"{{percept}}:{name}" for name in ("queue", "order", "bell", "bytes")}
    await store.close()


async def store_holds_anything(store, folder) -> bool:
    stats = await store.stats()
    return bool(stats.num_bytes or any(stats.jobs.values()) or os.listdir(folder))


async def test_a_sweep_deletes_only_what_has_no_job(place, tmp_path):
    store = RedisStore(replace(place, folder=tmp_path), StoreLimits(keep_s=100.0))
    job_id = (await store.submit(NewJob(b"in"))).job.id
    (tmp_path / f"{'0' * 32}.input").write_bytes(b"orphan")
    (tmp_path / f"{'1' * 32}.input.abc.partial").write_bytes(b"orp")
    (tmp_path / f"{'2' * 32}.input").write_bytes(b"of this moment")
    long_ago = time.time() - 1000
    for name in (f"{job_id}.input", f"{'0' * 32}.input", f"{'1' * 32}.input.abc.partial"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    await store.sweep()
    assert sorted(os.listdir(tmp_path)) == sorted([f"{job_id}.input", f"{'2' * 32}.input"])
    assert (await take(store)).input == b"in"
    await store.close()


async def test_files_that_lose_are_deleted(place, tmp_path):
    store = RedisStore(replace(place, folder=tmp_path))
    job = NewJob(b"in", idempotency_key="k")
    job_id = (await store.submit(job)).job.id
    await store.submit(job)
    assert os.listdir(tmp_path) == [f"{job_id}.input"]
    claim = await take(store)
    assert not await store.publish(replace(claim.lease, token="x"), JobResult(b"forged"))
    assert os.listdir(tmp_path) == [f"{job_id}.input"]
    assert await store.publish(claim.lease, JobResult(b"out"))
    (name,) = os.listdir(tmp_path)
    assert name.endswith(".result")
    cancelled = (await store.submit(NewJob(b"in"))).job.id
    await store.cancel(cancelled)
    assert os.listdir(tmp_path) == [name]
    await store.close()


async def test_a_folder_that_does_not_work(place, tmp_path):
    store = RedisStore(replace(place, folder=tmp_path / "missing"))
    with pytest.raises(StoreUnavailable, match="folder of jobs"):
        await store.submit(NewJob(b"in"))
    assert (await store.stats()).jobs["queued"] == 0
    await store.close()


async def test_many_watchers_share_one_connection(own_redis, store):
    job_id = (await store.submit(NewJob(b"in"))).job.id
    claim = await take(store)

    async def watch() -> int:
        return len([event async for event in store.events(job_id)])

    watchers = [asyncio.create_task(watch()) for _ in range(200)]
    await store.progress(claim.lease, Progress(1, 2))
    await store.publish(claim.lease, JobResult(b"out"))
    async with asyncio.timeout(PATIENCE_S):
        assert await asyncio.gather(*watchers) == [4] * 200
    clients = own_redis.send(b"CLIENT LIST").count(b"id=")
    assert clients <= 32 + 1 + 1
