"""The cache: bounded, oldest use first, and one making for those who ask at once."""

import asyncio

import pytest

from service.cache import AnswerCache

OVERHEAD = 1024


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def cache_of(answers: int, clock: Clock | None = None) -> AnswerCache[bytes]:
    """A cache with room for so many answers of 1000 bytes."""
    num_bytes = answers * (1000 + OVERHEAD)
    return AnswerCache(num_bytes, 10.0, size_of=len, clock=clock or Clock())


class Maker:
    def __init__(self, size: int = 1000) -> None:
        self.num_made = 0
        self._size = size

    async def __call__(self) -> bytes:
        self.num_made += 1
        return bytes(self._size)


async def test_an_answer_is_made_once():
    clock, make = Clock(), Maker()
    cache = cache_of(2, clock)
    assert (await cache.get_or_make("a", make)).age_s is None
    clock.now = 3.0
    assert (await cache.get_or_make("a", make)).age_s == 3.0
    assert (await cache.get_or_make("b", make)).age_s is None
    assert make.num_made == 2


async def test_an_old_answer_is_made_anew():
    clock, make = Clock(), Maker()
    cache = cache_of(2, clock)
    await cache.get_or_make("a", make)
    clock.now = 10.0
    assert (await cache.get_or_make("a", make)).age_s == 10.0
    clock.now = 10.1
    assert (await cache.get_or_make("a", make)).age_s is None
    assert cache.num_bytes == 1000 + OVERHEAD


async def test_the_answer_used_longest_ago_makes_room():
    make = Maker()
    cache = cache_of(2)
    for key in "abac":  # b was used before a
        await cache.get_or_make(key, make)
    assert make.num_made == 3
    await cache.get_or_make("a", make)
    assert make.num_made == 3
    await cache.get_or_make("b", make)
    assert make.num_made == 4
    assert len(cache) == 2


async def test_bytes_are_bounded():
    cache = cache_of(3)
    for number in range(100):
        await cache.get_or_make(str(number), Maker(number * 37))
        assert cache.num_bytes <= 3 * (1000 + OVERHEAD)
    await cache.get_or_make("huge", Maker(10**5))
    assert (await cache.get_or_make("huge", Maker(10**5))).age_s is None
    assert cache.num_bytes <= 3 * (1000 + OVERHEAD)


async def test_those_who_ask_at_once_share_the_making():
    cache, go, begun = cache_of(2), asyncio.Event(), asyncio.Event()
    num_made = 0

    async def make() -> bytes:
        nonlocal num_made
        num_made += 1
        begun.set()
        await go.wait()
        return b"x"

    asking = [asyncio.create_task(cache.get_or_make("a", make)) for _ in range(5)]
    await begun.wait()
    go.set()
    found = await asyncio.gather(*asking)
    assert num_made == 1
    assert [answer.value for answer in found] == [b"x"] * 5
    assert [answer.age_s for answer in found].count(None) == 1


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_whoever_waited_in_vain_makes_it(how):
    cache, go, begun = cache_of(2), asyncio.Event(), asyncio.Event()

    async def failing() -> bytes:
        begun.set()
        await go.wait()
        raise KeyError

    first = asyncio.create_task(cache.get_or_make("a", failing))
    await begun.wait()
    make = Maker()
    others = [asyncio.create_task(cache.get_or_make("a", make)) for _ in range(3)]
    await asyncio.sleep(0)
    if how == "fails":
        go.set()
    else:
        first.cancel()
    with pytest.raises((KeyError, asyncio.CancelledError)):
        await first
    for other in await asyncio.gather(*others):
        assert len(other.value) == 1000
    assert 1 <= make.num_made <= 3
    assert (await cache.get_or_make("a", make)).age_s is not None
