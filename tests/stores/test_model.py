"""Whatever is done to it, Redis answers as the store in memory does."""

import asyncio
import time
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from service.stores.base import (
    Claim,
    JobEvent,
    JobRecord,
    JobResult,
    NewJob,
    Problem,
    Progress,
    Store,
    StoreLimits,
)
from service.stores.errors import StoreError
from service.stores.memory import MemoryStore
from service.stores.redis import RedisPlace, RedisStore
from tests.support.redis_server import RedisServer

LIMITS = StoreLimits(
    max_unfinished=6, max_bytes=20_000, max_result_bytes=20, max_events=4, max_attempts=2
)
MOMENT_S = 0.002
LONG_S = 600.0
BYTES = st.binary(max_size=24)


class Pair:
    """The same job in both stores."""

    def __init__(self, ids: tuple[str, str]) -> None:
        self.ids = ids


def compare(outcomes: list[object], pairs: list[Pair]) -> None:
    """Equal but for ids, tokens and times."""
    names = {job_id: str(i) for i, pair in enumerate(pairs) for job_id in pair.ids}
    first, second = (_plain(outcome, names) for outcome in outcomes)
    assert first == second


def _plain(outcome: object, names: dict[str, str]) -> object:
    match outcome:
        case JobRecord():
            times = (outcome.started_s is not None, outcome.finished_s is not None)
            bare = replace(outcome, id="", created_s=0.0, started_s=None, finished_s=None)
            return names[outcome.id], bare, times
        case Claim():
            return outcome.lease.fence, outcome.input, _plain(outcome.job, names)
        case JobEvent():
            return replace(outcome, at_s=0.0)
        case StoreError():
            return type(outcome)
        case list():
            return [_plain(one, names) for one in outcome]
    return outcome


class TwoStores(RuleBasedStateMachine):
    """Does the same to both; leases are over at once, or not in the time of the test."""

    url = ""
    jobs: Bundle[Pair] = Bundle("jobs")
    claims: Bundle[tuple[Claim, Claim]] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.pairs: list[Pair] = []
        self.stores: list[Store] = []

    @initialize()
    def begin(self) -> None:
        place = RedisPlace(self.url, timeout_s=30.0)
        self.stores = [MemoryStore(LIMITS), RedisStore(place, LIMITS)]

    def both(self, method: str, *arguments: tuple[object, ...]) -> list[object]:
        """Call a method of each store, with its own arguments; errors of a store are answers."""
        return [
            self.loop.run_until_complete(self._call(store, method, own))
            for store, own in zip(self.stores, zip(*arguments, strict=True), strict=True)
        ]

    async def _call(self, store: Store, method: str, arguments: tuple[object, ...]) -> object:
        try:
            async with asyncio.timeout(60.0):
                return await getattr(store, method)(*arguments)
        except StoreError as error:
            return error

    @rule(target=jobs, data=BYTES, key=st.sampled_from([None, "a", "b"]), total=st.integers(0, 9))
    def submit(self, data: bytes, key: str | None, total: int):
        job = NewJob(data, {"n": str(total)}, total, key, fingerprint=data.hex())
        outcomes = self.both("submit", (job, job))
        if isinstance(outcomes[0], StoreError):
            compare(outcomes, self.pairs)
            return multiple()
        made, other = outcomes
        assert made.is_new == other.is_new  # type: ignore[attr-defined]
        if not made.is_new:  # type: ignore[attr-defined]
            compare([made.job, other.job], self.pairs)  # type: ignore[attr-defined]
            return multiple()
        pair = Pair((made.job.id, other.job.id))  # type: ignore[attr-defined]
        self.pairs.append(pair)
        compare([made.job, other.job], self.pairs)  # type: ignore[attr-defined]
        return pair

    @rule(target=claims, expires=st.booleans())
    def claim(self, expires: bool):
        lease_s = MOMENT_S if expires else LONG_S
        if not self.loop.run_until_complete(self.stores[0].stats()).jobs["queued"]:
            return multiple()  # it might wait
        outcomes = self.both("claim", ("w", "w"), (lease_s, lease_s))
        if expires:
            time.sleep(3 * MOMENT_S)
        compare(outcomes, self.pairs)
        return tuple(outcomes)

    @rule(
        claims=claims,
        done=st.integers(0, 9),
        preview=st.sampled_from([b"", b"picture"]),
        data=BYTES,
        how=st.sampled_from(["renew", "progress", "publish", "fail", "release"]),
    )
    def use(self, claims: tuple[Claim, Claim], done: int, preview: bytes, data: bytes, how: str):
        """Also with leases that are over, and by holders whose job another has."""
        leases = tuple(replace(claim.lease, lease_s=LONG_S) for claim in claims)
        arguments: dict[str, object] = {
            "progress": Progress(done, 9, preview),
            "publish": JobResult(data, {"n": str(done)}),
            "fail": Problem(422, "No", str(done)),
        }
        more = ((arguments[how],) * 2,) if how in arguments else ()
        compare(self.both(how, leases, *more), self.pairs)

    @rule(pair=jobs)
    def cancel(self, pair: Pair):
        compare(self.both("cancel", pair.ids), self.pairs)

    @rule(pair=jobs, after=st.integers(0, 12))
    def look(self, pair: Pair, after: int):
        records = self.both("get", pair.ids)
        compare(records, self.pairs)
        compare(self.both("result", pair.ids), self.pairs)
        if isinstance(records[0], JobRecord) and records[0].is_finished:
            seen = [
                self.loop.run_until_complete(self._watch(store, job_id, after))
                for store, job_id in zip(self.stores, pair.ids, strict=True)
            ]
            compare(list(seen), self.pairs)

    async def _watch(self, store: Store, job_id: str, after: int) -> list[JobEvent]:
        async with asyncio.timeout(60.0):
            return [event async for event in store.events(job_id, after)]

    @invariant()
    def counts_agree(self) -> None:
        if self.stores:
            stats = [self.loop.run_until_complete(store.stats()) for store in self.stores]
            compare(list(stats), self.pairs)

    def teardown(self) -> None:
        for store in self.stores:
            self.loop.run_until_complete(store.close())
        self.loop.close()


def test_redis_does_as_memory_does(shared_redis: RedisServer):
    class Machine(TwoStores):
        url = shared_redis.url

        def __init__(self) -> None:
            shared_redis.flush()
            super().__init__()

    checked = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    run_state_machine_as_test(Machine, settings=checked)
