"""What a key may use in how long: counted in sliding windows, in this process or in Redis.

Where Redis is shared by gateways and gone, each counts for itself until it is back: a caller may
then get his quota from every gateway, but nobody is refused for a fault of ours.
"""

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from limits import RateLimitItem
from limits.aio.storage import (
    MemoryStorage,
    RedisStorage,
    SlidingWindowCounterSupport,
    Storage,
)
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from service.api.failures import whole_seconds
from service.api.keys import ApiKey
from service.engine.errors import DeadlineMissed, EngineError
from service.errors import InvalidField, QuotaExceeded

T = TypeVar("T")

_PATIENCE_S = 0.5
_PAUSE_S = 5.0  # before Redis is asked again that gave no answer
_MAX_CONNECTIONS = 32
_PREFIX = "percept:quota"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedStore:
    """Where gateways count together, and how to leave it."""

    storage: Storage
    close: Callable[[], Awaitable[None]]


@dataclass
class Charge:
    """Evaluations that were made of those charged; set when the work is done. Mutable."""

    used: int = 0


class Quotas:
    """Counts what the keys use; callers without a key, or whose key has no quota, are free.

    `store` is where gateways count together, None for this process alone. `clock` in seconds.
    """

    def __init__(
        self, keys: Mapping[str, ApiKey], store: SharedStore | None, clock: Callable[[], float]
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._store = store
        self._shared = None if store is None else SlidingWindowCounterRateLimiter(store.storage)
        self._asked_again = -math.inf

    async def close(self) -> None:
        """Leave the shared store."""
        if self._store is not None:
            await self._store.close()

    async def count_call(self, caller: str) -> None:
        """Count one call; raises QuotaExceeded when its key has none left."""
        key = self._keys.get(caller)
        if key is not None and key.rate is not None:
            await self._take(key.rate, key, "calls", 1)

    async def charge(self, caller: str, evaluations: int) -> None:
        """Take evaluations from a key's quota, all or none.

        Raises QuotaExceeded, and InvalidField for more than the key ever has at once.
        """
        key = self._keys.get(caller)
        if key is None or key.evaluations is None:
            return
        if evaluations > key.evaluations.amount:
            raise InvalidField(
                f"{evaluations} evaluations are more than the key {key.name} has",
                limit=_described(key.evaluations, key, "evaluations"),
            )
        await self._take(key.evaluations, key, "evaluations", evaluations)

    @asynccontextmanager
    async def charged(self, caller: str, evaluations: int) -> AsyncIterator[Charge]:
        """Charge for work that is done here, and give back what of it was not.

        Work that was given up late has been done in vain, but done. Raises what `charge` raises.
        """
        await self.charge(caller, evaluations)
        charge = Charge()
        try:
            yield charge
        except DeadlineMissed:
            raise
        except EngineError:
            await self.give_back(caller, evaluations)
            raise
        await self.give_back(caller, evaluations - charge.used)

    async def give_back(self, caller: str, evaluations: int) -> None:
        """Return evaluations that were charged and not made."""
        key = self._keys.get(caller)
        if key is None or key.evaluations is None or evaluations <= 0:
            return
        item = key.evaluations
        await self._ask(
            lambda limiter: limiter.hit(item, *_ids(key, "evaluations"), cost=-evaluations)
        )

    async def _take(self, item: RateLimitItem, key: ApiKey, what: str, cost: int) -> None:
        ids = _ids(key, what)
        if await self._ask(lambda limiter: limiter.hit(item, *ids, cost=cost)):
            return
        wait_s = await self._ask(lambda limiter: _wait_s(limiter, item, ids, cost))
        limit = _described(item, key, what)
        raise QuotaExceeded(
            f"The key {key.name} has used its {what}",
            limit=limit,
            retry_after_s=whole_seconds(wait_s),
        )

    async def _ask(self, question: Callable[[SlidingWindowCounterRateLimiter], Awaitable[T]]) -> T:
        if self._shared is None or self._clock() < self._asked_again:
            return await question(self._own)
        try:
            return await question(self._shared)
        except (StorageError, OSError) as error:
            if self._clock() >= self._asked_again:  # said once for all who were waiting
                _log.warning("quotas are counted here alone, Redis gives no answer: %s", error)
            self._asked_again = self._clock() + _PAUSE_S
            return await question(self._own)


def redis_store(url: str, patience_s: float = _PATIENCE_S) -> SharedStore:
    """Return a store in Redis, which is connected to when it is first asked.

    An answer that takes longer than `patience_s`, while a request waits for it, is none.
    Raises ValueError for an address that is none, or where Redis' client is not installed.
    """
    try:
        from redis.asyncio import BlockingConnectionPool
    except ImportError as error:
        raise ValueError("counting in Redis needs its client: pip install redis") from error
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_MAX_CONNECTIONS,
        timeout=patience_s,
        socket_timeout=patience_s,
        socket_connect_timeout=patience_s,
    )
    storage = RedisStorage(
        "redis://",  # not connected to: the pool knows the address, of whatever kind
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix=_PREFIX,
        connection_pool=pool,  # type: ignore[arg-type]
    )
    return SharedStore(storage, pool.aclose)


def _ids(key: ApiKey, what: str) -> tuple[str, str]:
    return what, key.name


def _described(item: RateLimitItem, key: ApiKey, what: str) -> str:
    every = item.GRANULARITY.name if item.multiples == 1 else f"{item.get_expiry()} seconds"
    return f"{item.amount} {what} per {every} for the key {key.name}"


async def _wait_s(
    limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, ids: tuple[str, str], cost: int
) -> float:
    store = limiter.storage
    assert isinstance(store, SlidingWindowCounterSupport), "the limiter has checked that"
    window_s = float(item.get_expiry())
    return wait_s(
        *await store.get_sliding_window(item.key_for(*ids), item.get_expiry()),
        room=item.amount - cost,
        window_s=window_s,
    )


def wait_s(
    before: int, before_ttl_s: float, now: int, now_ttl_s: float, *, room: int, window_s: float
) -> float:
    """Return the seconds until what counts of two windows is at most `room`.

    What was used in the window `before` counts less and less until its time to live is over; the
    present one (`now`) turns into it when but one window is left of its own time to live.
    """
    if now <= room:
        return _fade_s(before, before_ttl_s, room - now, window_s)
    return max(0.0, now_ttl_s - window_s) + _fade_s(now, window_s, room, window_s)


def _fade_s(used: int, ttl_s: float, room: int, window_s: float) -> float:
    """Return the seconds until the share that counts of `used`, rounded down, is at most `room`."""
    if used <= 0:
        return 0.0
    return max(0.0, ttl_s - (room + 1) * window_s / used)
