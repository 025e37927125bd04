"""What every store promises."""

import asyncio
from dataclasses import replace

import pytest

from service.stores.base import (
    GIVEN_UP,
    JobEvent,
    JobResult,
    NewJob,
    Problem,
    Progress,
    Store,
    StoreLimits,
)
from service.stores.errors import IdempotencyConflict, JobTooLarge, NoSuchJob, StoreFull

LONG_S = 600.0
MOMENT_S = 0.005
PATIENCE_S = 60.0
BYTES = bytes(range(256)) * 9
PROBLEM = Problem(422, "Invalid field", "No such model", field="model", limit="tiny")


async def add(store: Store, data: bytes = b"in", **more) -> str:
    return (await store.submit(NewJob(data, **more))).job.id


async def take(store: Store, lease_s: float = LONG_S):
    async with asyncio.timeout(PATIENCE_S):
        return await store.claim("w", lease_s)


async def watch(store: Store, job_id: str, after: int = 0) -> list[JobEvent]:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in store.events(job_id, after)]


async def test_the_life_of_a_job(store):
    labels = {"task": "depth", "owner": "ünï"}
    made = await store.submit(NewJob(BYTES, labels, evaluations=40))
    assert made.is_new
    job = made.job
    assert (job.state, job.labels, job.total, job.ahead) == ("queued", labels, 40, 0)
    assert await store.get(job.id) == job
    assert await store.result(job.id) is None

    claim = await take(store)
    assert claim.input == BYTES
    assert claim.job == await store.get(job.id)
    assert (claim.job.state, claim.job.attempt, claim.job.fence) == ("running", 1, 1)
    assert claim.job.started_s is not None
    assert claim.job.started_s >= job.created_s
    assert claim.job.ahead is None
    assert await store.renew(claim.lease)
    assert await store.progress(claim.lease, Progress(10, 40))
    assert (await store.get(job.id)).done == 10
    assert await store.result(job.id) is None

    assert await store.publish(claim.lease, JobResult(BYTES[::-1], {"type": "image/png"}))
    ended = await store.get(job.id)
    assert (ended.state, ended.done, ended.result_labels) == (
        "succeeded",
        40,
        {"type": "image/png"},
    )
    assert ended.is_finished
    assert ended.finished_s is not None
    assert await store.result(job.id) == JobResult(BYTES[::-1], {"type": "image/png"})


async def test_a_job_that_fails_says_why(store):
    job_id = await add(store)
    claim = await take(store)
    assert await store.fail(claim.lease, PROBLEM)
    assert await store.fail(claim.lease, PROBLEM)
    assert not await store.publish(claim.lease, JobResult(b"late"))
    failed = await store.get(job_id)
    assert (failed.state, failed.problem) == ("failed", PROBLEM)
    assert await store.result(job_id) is None


@pytest.mark.parametrize("job_id", ["0" * 32, "", "../x", "\ud800", "0" * 31, "G" * 32, "0" * 33])
async def test_an_id_that_is_none(store, job_id):
    for look in (store.get, store.cancel, store.result):
        with pytest.raises(NoSuchJob):
            await look(job_id)
    with pytest.raises(NoSuchJob):
        await watch(store, job_id)


async def test_empty_inputs_and_results(store):
    job_id = await add(store, b"")
    claim = await take(store)
    assert claim.input == b""
    assert await store.publish(claim.lease, JobResult(b""))
    assert await store.result(job_id) == JobResult(b"")


async def test_jobs_are_taken_in_order_and_know_their_place(store):
    ids = [await add(store, b"%d" % i) for i in range(5)]
    assert [(await store.get(job_id)).ahead for job_id in ids] == [0, 1, 2, 3, 4]
    assert [(await take(store)).job.id for _ in range(3)] == ids[:3]
    assert [(await store.get(job_id)).ahead for job_id in ids[3:]] == [0, 1]


async def test_a_claim_waits_for_a_job_of_another_server(servers):
    claiming = asyncio.create_task(take(servers.open()))
    other = servers.open()
    await other.stats()
    assert not claiming.done()
    job_id = await add(other)
    assert (await claiming).job.id == job_id


async def test_no_two_claimers_get_one_job(servers):
    stores = [servers.open() for _ in range(4)]
    claiming = [asyncio.create_task(take(stores[i % 4])) for i in range(20)]
    ids = [await add(stores[0]) for _ in range(20)]
    claims = await asyncio.gather(*claiming)
    assert sorted(claim.job.id for claim in claims) == sorted(ids)
    assert all(claim.job.attempt == 1 for claim in claims)


async def test_a_zombie_changes_nothing(servers):
    dead, alive = servers.open(), servers.open()
    job_id = await add(dead)
    zombie = await take(dead, MOMENT_S)
    heir = await take(alive)
    assert (heir.job.id, heir.job.attempt, heir.job.fence) == (job_id, 2, 2)
    assert heir.input == zombie.input
    before = await alive.get(job_id)

    async def rise() -> list[bool]:
        return [
            await dead.renew(zombie.lease),
            await dead.progress(zombie.lease, Progress(1, 2)),
            await dead.publish(zombie.lease, JobResult(b"of the dead")),
            await dead.fail(zombie.lease, PROBLEM),
            await dead.release(zombie.lease),
        ]

    assert await rise() == [False] * 5
    assert await alive.get(job_id) == before
    assert await alive.publish(heir.lease, JobResult(b"of the living"))
    assert await rise() == [False] * 5
    assert await dead.result(job_id) == JobResult(b"of the living")


async def test_two_holders_publish_at_once(servers):
    """Whoever holds the job wins, however often and from wherever the others try."""
    stores = [servers.open() for _ in range(3)]
    job_id = await add(stores[0])
    claims = [await take(store, MOMENT_S) for store in stores[:2]]
    claims.append(await take(stores[2]))
    tries = [
        store.publish(claim.lease, JobResult(b"%d" % claim.job.fence))
        for store, claim in zip(stores, claims, strict=True)
        for _ in range(5)
    ]
    assert await asyncio.gather(*tries) == [False] * 10 + [True] * 5
    assert await stores[0].result(job_id) == JobResult(b"3")


async def test_a_late_holder_keeps_what_nobody_took(store):
    await add(store)
    claim = await take(store, MOMENT_S)
    await asyncio.sleep(2 * MOMENT_S)
    assert await store.renew(claim.lease)
    await asyncio.sleep(2 * MOMENT_S)
    assert await store.publish(claim.lease, JobResult(b"late but mine"))


@pytest.mark.parametrize("how", ["renew", "progress"])
async def test_a_renewed_job_is_not_taken(store, how):
    await add(store)
    held = await take(store, MOMENT_S)
    longer = replace(held.lease, lease_s=LONG_S)
    if how == "renew":
        assert await store.renew(longer)
    else:
        assert await store.progress(longer, Progress(1, 2))
    await asyncio.sleep(2 * MOMENT_S)
    other = await add(store)
    assert (await take(store)).job.id == other  # an expired one would have come first
    assert await store.renew(held.lease)


async def test_publishing_again_is_harmless(store):
    job_id = await add(store)
    claim = await take(store)
    assert await store.publish(claim.lease, JobResult(b"first"))
    assert await store.publish(claim.lease, JobResult(b"second"))
    assert await store.result(job_id) == JobResult(b"first")
    assert len(await watch(store, job_id)) == 3


async def test_a_cancelled_job_is_never_run(store):
    cancelled, other = await add(store), await add(store)
    assert (await store.cancel(cancelled)).state == "cancelled"
    assert (await store.get(other)).ahead == 0
    assert (await take(store)).job.id == other
    assert (await store.cancel(cancelled)).state == "cancelled"


async def test_the_holder_of_a_cancelled_job_learns_it(servers):
    holder, canceller = servers.open(), servers.open()
    job_id = await add(holder)
    claim = await take(holder)
    await canceller.cancel(job_id)
    assert not await holder.renew(claim.lease)
    assert not await holder.progress(claim.lease, Progress(1, 2))
    assert not await holder.publish(claim.lease, JobResult(b"late"))
    assert not await holder.release(claim.lease)
    assert await holder.result(job_id) is None


async def test_a_finished_job_cannot_be_cancelled(store):
    job_id = await add(store)
    claim = await take(store)
    assert await store.publish(claim.lease, JobResult(b"done"))
    assert (await store.cancel(job_id)).state == "succeeded"
    assert await store.result(job_id) == JobResult(b"done")


async def test_cancel_against_publish(servers):
    """One of the two wins, and all that can be seen agrees on which."""
    holder, canceller = servers.open(), servers.open()
    for round_ in range(30):
        job_id = await add(holder)
        claim = await take(holder)
        calls = [holder.publish(claim.lease, JobResult(b"done")), canceller.cancel(job_id)]
        if round_ % 2:
            calls.reverse()
        await asyncio.gather(*calls)
        published = await holder.publish(claim.lease, JobResult(b"again"))
        state = (await canceller.get(job_id)).state
        result = await canceller.result(job_id)
        expected = ("succeeded", JobResult(b"done")) if published else ("cancelled", None)
        assert (state, result) == expected
        assert (await watch(holder, job_id))[-1].state == state
        assert sum(event.is_last for event in await watch(holder, job_id)) == 1


async def test_a_job_handed_back_keeps_its_place(store):
    first, second, third = [await add(store) for _ in range(3)]
    claims = [await take(store), await take(store)]
    assert await store.release(claims[1].lease)
    assert await store.release(claims[0].lease)
    assert not await store.release(claims[0].lease)
    assert not await store.publish(claims[0].lease, JobResult(b"late"))
    back = await store.get(first)
    assert (back.state, back.attempt, back.started_s, back.ahead) == ("queued", 0, None, 0)
    assert (await store.get(third)).ahead == 2
    assert [(await take(store)).job.id for _ in range(3)] == [first, second, third]
    assert ((await store.get(first)).attempt, (await store.get(first)).fence) == (1, 2)


async def test_a_job_handed_back_can_be_cancelled(store):
    first, second = await add(store), await add(store)
    claim = await take(store)
    await store.release(claim.lease)
    await store.cancel(first)
    assert (await take(store)).job.id == second


async def test_a_job_that_kills_its_servers_is_given_up(servers):
    store = servers.open(StoreLimits(max_attempts=2))
    job_id = await add(store)
    for attempt in (1, 2):
        assert (await take(store, MOMENT_S)).job.attempt == attempt
    claiming = asyncio.create_task(take(store))
    assert (await watch(store, job_id))[-1].state == "failed"
    assert (await store.get(job_id)).problem == GIVEN_UP
    other = await add(store)
    assert (await claiming).job.id == other


async def test_a_cancelled_claim_takes_nothing_along(servers):
    """The lease would last longer than the test's patience."""
    store, other = servers.open(), servers.open()
    for turns in range(40):
        claiming = asyncio.create_task(store.claim("w", LONG_S))
        job_id = await add(other)
        for _ in range(turns % 20):
            await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.wait((claiming,))
        claim = await take(other) if claiming.cancelled() else claiming.result()
        assert claim.job.id == job_id
        assert claim.job.attempt == 1
        assert await other.publish(claim.lease, JobResult(b""))


async def test_the_same_key_is_the_same_job(servers):
    stores = [servers.open() for _ in range(4)]
    job = NewJob(b"in", idempotency_key="a key", fingerprint="f")
    made = await asyncio.gather(*(stores[i % 4].submit(job) for i in range(20)))
    assert len({submission.job.id for submission in made}) == 1
    assert sum(submission.is_new for submission in made) == 1
    assert (await stores[0].stats()).jobs["queued"] == 1

    with pytest.raises(IdempotencyConflict) as conflict:
        await stores[1].submit(replace(job, fingerprint="g"))
    assert conflict.value.job_id == made[0].job.id
    other = await stores[1].submit(replace(job, idempotency_key="another"))
    assert other.is_new

    claim = await take(stores[2])
    await stores[2].publish(claim.lease, JobResult(b"out"))
    again = await stores[3].submit(job)
    assert (again.job.id, again.job.state, again.is_new) == (made[0].job.id, "succeeded", False)
    assert (await take(stores[0])).input == b"in"


async def test_events_tell_the_life_of_a_job(store):
    job_id = await add(store, evaluations=4)
    claim = await take(store)
    for done in (1, 2, 3):
        await store.progress(claim.lease, Progress(done, 4))
    await store.publish(claim.lease, JobResult(b"out"))
    events = await watch(store, job_id)
    assert [event.id for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event.state for event in events] == ["queued", *["running"] * 4, "succeeded"]
    assert [event.done for event in events] == [0, 0, 1, 2, 3, 4]
    assert [event.attempt for event in events] == [0, 1, 1, 1, 1, 1]
    assert {event.total for event in events} == {4}
    for after in range(6):
        assert await watch(store, job_id, after) == events[after:]
    assert await watch(store, job_id, 6) == []
    assert await watch(store, job_id, 10**9) == events


async def test_events_are_told_as_they_happen_and_resume_elsewhere(servers):
    running, first, second = servers.open(), servers.open(), servers.open()
    job_id = await add(running)
    claim = await take(running)
    watching = first.events(job_id)
    seen = [await anext(watching), await anext(watching)]
    for done in range(1, 4):
        await running.progress(claim.lease, Progress(done, 9))
        async with asyncio.timeout(PATIENCE_S):
            seen.append(await anext(watching))
    await watching.aclose()
    resumed = asyncio.create_task(watch(second, job_id, seen[-1].id))
    others = [asyncio.create_task(watch(first, job_id)) for _ in range(5)]
    await running.progress(claim.lease, Progress(4, 9))
    await running.publish(claim.lease, JobResult(b"out"))
    seen += await resumed
    assert [event.done for event in seen] == [0, 0, 1, 2, 3, 4, 9]
    assert [event.id for event in seen] == list(range(1, 8))
    assert await asyncio.gather(*others) == [seen] * 5


async def test_the_history_is_bounded(servers):
    store = servers.open(StoreLimits(max_events=5))
    job_id = await add(store)
    claim = await take(store)
    for done in range(20):
        await store.progress(claim.lease, Progress(done, 20))
    await store.fail(claim.lease, PROBLEM)
    events = await watch(store, job_id)
    assert [event.id for event in events] == [19, 20, 21, 22, 23]
    assert events[-1].state == "failed"


async def test_the_latest_preview_is_kept(store):
    job_id = await add(store)
    claim = await take(store)
    watching = store.events(job_id, after=2)
    await store.progress(claim.lease, Progress(1, 4, BYTES))
    assert (await anext(watching)).preview == BYTES
    await store.progress(claim.lease, Progress(2, 4))
    await watching.aclose()
    watching = store.events(job_id, after=2)
    assert [(await anext(watching)).preview for _ in range(2)] == [BYTES, b""]
    await store.progress(claim.lease, Progress(3, 4, b"newer"))
    await watching.aclose()
    watching = store.events(job_id, after=2)
    assert [(await anext(watching)).preview for _ in range(3)] == [b"", b"", b"newer"]
    await store.publish(claim.lease, JobResult(b"out"))
    assert (await anext(watching)).is_last
    await watching.aclose()
    assert {event.preview for event in await watch(store, job_id)} == {b""}


async def test_nothing_larger_than_allowed_is_kept(servers):
    limits = StoreLimits(max_input_bytes=10, max_result_bytes=20, max_preview_bytes=5)
    store = servers.open(limits)
    with pytest.raises(JobTooLarge, match=r"input has 11 bytes, 10 are allowed"):
        await add(store, bytes(11))
    job_id = await add(store, bytes(10))
    claim = await take(store)
    with pytest.raises(JobTooLarge, match="preview"):
        await store.progress(claim.lease, Progress(1, 2, bytes(6)))
    with pytest.raises(JobTooLarge) as error:
        await store.publish(claim.lease, JobResult(bytes(21)))
    assert error.value.limit == 20
    assert (await store.get(job_id)).state == "running"
    assert await store.publish(claim.lease, JobResult(bytes(20)))


async def test_a_full_queue(servers):
    store = servers.open(StoreLimits(max_unfinished=3))
    ids = [await add(store, idempotency_key=str(i)) for i in range(3)]
    claim = await take(store)
    with pytest.raises(StoreFull):
        await add(store)
    assert not (await store.submit(NewJob(b"in", idempotency_key="1"))).is_new
    await store.release(claim.lease)
    with pytest.raises(StoreFull):
        await add(store)
    await store.cancel(ids[1])
    await add(store)
    with pytest.raises(StoreFull):
        await add(store)


async def test_bytes_are_bounded_and_given_back(servers):
    store = servers.open(StoreLimits(max_bytes=25_000, keep_s=0.2))
    job_id = await add(store, bytes(10_000))
    await add(store, bytes(10_000))
    with pytest.raises(StoreFull):
        await add(store, bytes(10_000))
    claim = await take(store)
    assert claim.job.id == job_id
    await store.publish(claim.lease, JobResult(bytes(9_000)))
    assert (await store.stats()).num_bytes == 10_000 + 9_000 + 2 * 1024
    await expired(store, job_id)
    await add(store, bytes(10_000))
    assert (await store.stats()).num_bytes == 20_000 + 2 * 1024


async def expired(store: Store, job_id: str) -> None:
    """Wait until a job is no more."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await store.get(job_id)
            except NoSuchJob:
                return
            await asyncio.sleep(0.01)


async def test_finished_jobs_expire_and_others_do_not(servers):
    store = servers.open(StoreLimits(keep_s=0.1))
    job = NewJob(b"in", idempotency_key="k", fingerprint="f")
    job_id = (await store.submit(job)).job.id
    claim = await take(store)
    await asyncio.sleep(0.2)  # longer than a finished one is kept
    assert await store.renew(claim.lease)
    assert not (await store.submit(job)).is_new
    await store.publish(claim.lease, JobResult(b"out"))
    await expired(store, job_id)
    for look in (store.cancel, store.result):
        with pytest.raises(NoSuchJob):
            await look(job_id)
    again = await store.submit(replace(job, fingerprint="other"))
    assert again.is_new
    assert (await store.stats()).jobs["succeeded"] == 0


async def test_jobs_are_counted_by_state(store):
    for _ in range(6):
        await add(store)
    claims = [await take(store) for _ in range(4)]
    await store.publish(claims[0].lease, JobResult(b""))
    await store.fail(claims[1].lease, PROBLEM)
    await store.cancel(claims[2].job.id)
    await store.release(claims[3].lease)
    await take(store)
    counts = (await store.stats()).jobs
    assert counts == {"queued": 2, "running": 1, "succeeded": 1, "failed": 1, "cancelled": 1}
