"""Quotas of keys: in this process or in Redis together, exact, given back, honest on the wait."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse

from service.api.keys import ApiKey
from service.api.quotas import Quotas, redis_store, wait_s
from service.engine.errors import DeadlineMissed, EngineBusy
from service.errors import InvalidField, QuotaExceeded
from tests.support.redis_server import RedisServer, require_redis

KEYS = {
    key.caller: key
    for key in (
        ApiKey("bob", b"", parse("3/day"), parse("100/day")),
        ApiKey("ann", b"", parse("3/day"), parse("100/day")),
        ApiKey("free", b""),
    )
}

PATIENCE_S = 60.0  # of a busy machine's tests; a Redis that was killed refuses at once


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    require_redis()
    with TemporaryDirectory() as folder:  # a path short enough for a socket
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(params=["memory", "redis"])
async def quotas(request):
    store = None
    if request.param == "redis":
        store = redis_store(request.getfixturevalue("redis").url, PATIENCE_S)
    made = Quotas(KEYS, store, Clock())
    yield made
    await made.close()


async def test_calls_are_counted_by_key(quotas):
    for _ in range(3):
        await quotas.count_call("key:bob")
    with pytest.raises(QuotaExceeded, match="bob has used its calls") as caught:
        await quotas.count_call("key:bob")
    assert caught.value.limit == "3 calls per day for the key bob"
    assert caught.value.retry_after_s is not None
    assert 1 <= caught.value.retry_after_s <= 2 * 86_400
    await quotas.count_call("key:ann")
    for _ in range(10):
        await quotas.count_call("key:free")
        await quotas.count_call("192.0.2.1")


async def test_evaluations_are_taken_all_or_none(quotas):
    await quotas.charge("key:bob", 60)
    with pytest.raises(QuotaExceeded, match="evaluations"):
        await quotas.charge("key:bob", 41)
    await quotas.charge("key:bob", 40)
    with pytest.raises(QuotaExceeded):
        await quotas.charge("key:bob", 1)
    await quotas.charge("key:ann", 100)
    await quotas.charge("", 10**6)


async def test_more_than_a_key_ever_has_is_no_matter_of_waiting(quotas):
    with pytest.raises(InvalidField) as caught:
        await quotas.charge("key:bob", 101)
    assert caught.value.limit == "100 evaluations per day for the key bob"


async def test_what_was_not_done_is_given_back(quotas):
    async with quotas.charged("key:bob", 100) as charge:
        charge.used = 30
    with pytest.raises(QuotaExceeded):
        await quotas.charge("key:bob", 71)
    async with quotas.charged("key:bob", 70) as charge:
        charge.used = 70
    with pytest.raises(QuotaExceeded):
        await quotas.charge("key:bob", 1)


@pytest.mark.parametrize(("error", "left"), [(EngineBusy("full", 1.0), 100), (DeadlineMissed(), 0)])
async def test_a_refusal_costs_nothing_but_vain_work_does(quotas, error, left):
    with pytest.raises(type(error)):
        async with quotas.charged("key:bob", 100):
            raise error
    if left:
        await quotas.charge("key:bob", left)
    with pytest.raises(QuotaExceeded):
        await quotas.charge("key:bob", 1)


async def test_gateways_count_together_and_alone_when_redis_is_gone(redis, caplog):
    clock = Clock()
    first, second = (Quotas(KEYS, redis_store(redis.url, PATIENCE_S), clock) for _ in range(2))
    await first.count_call("key:bob")
    await second.count_call("key:bob")
    await first.count_call("key:bob")
    for gateway in (first, second):
        with pytest.raises(QuotaExceeded):
            await gateway.count_call("key:bob")
    redis.stop()
    await asyncio.gather(*(first.count_call("key:bob") for _ in range(2)))
    await first.count_call("key:bob")
    with pytest.raises(QuotaExceeded):
        await first.count_call("key:bob")
    assert len([r for r in caplog.records if "Redis" in r.message]) == 1
    clock.now += 60
    with pytest.raises(QuotaExceeded):
        await first.count_call("key:bob")
    assert len([r for r in caplog.records if "Redis" in r.message]) == 2
    redis.start()
    clock.now += 60
    with pytest.raises(QuotaExceeded):  # it has kept what was counted together
        await second.count_call("key:bob")
    for gateway in (first, second):
        await gateway.close()


async def test_many_callers_at_once_are_counted_exactly(quotas):
    taken = await asyncio.gather(
        *(quotas.charge("key:bob", 1) for _ in range(150)), return_exceptions=True
    )
    assert taken.count(None) == 100
    assert all(isinstance(error, QuotaExceeded) for error in taken if error is not None)


@pytest.mark.parametrize("url", ["", "http://127.0.0.1", "redis//x"])
def test_what_is_no_address_of_a_redis(url):
    pytest.importorskip("redis")
    with pytest.raises(ValueError, match="scheme"):
        redis_store(url)


def used(before, ttl, now, now_ttl, window, after_s):
    """What counts after a while, told window by window."""
    left = now_ttl - window
    if after_s < left:
        return before * max(0.0, ttl - after_s) / window + now
    return now * max(0.0, window - (after_s - left)) / window


@given(
    before=st.integers(0, 500),
    now=st.integers(0, 500),
    passed=st.floats(0, 0.999),
    room=st.integers(0, 500),
)
def test_the_wait_ends_when_there_is_room_and_not_before(before, now, passed, room):
    window = 3600.0
    ttl = window * (1 - passed)
    state = (before, ttl, now, ttl + window)
    wait = wait_s(*state, room=room, window_s=window)
    assert used(*state, window, wait + 1e-3) < room + 1
    if wait > 1e-2:
        assert used(*state, window, wait - 1e-2) >= room + 1 - 1e-6
