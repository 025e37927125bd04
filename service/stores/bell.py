"""One blocked reader per process, which tells all that wait for Redis what has changed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from service.stores.errors import StoreUnavailable
from service.stores.wakeups import Wakeups

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True)
class Heard:
    """Topics that were rung, and the position after them."""

    topics: frozenset[str]
    position: bytes


class Bell:
    """Wakes listeners by topic.

    `read` waits for what is rung after a position, for a while; with None it only says where the
    bell is. Listeners look again whenever something may have been missed: after an outage.
    """

    def __init__(self, read: Callable[[bytes | None], Awaitable[Heard]]) -> None:
        self._read = read
        self._wakeups = Wakeups()
        self._reader: asyncio.Task[None] | None = None

    @contextmanager
    def listen(self, topic: str) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the topic may have changed."""
        if self._reader is None:
            self._reader = asyncio.create_task(self._run(), name="bell")
        with self._wakeups.listen(topic) as rung:
            yield rung

    async def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
            self._reader = None

    async def _run(self) -> None:
        position: bytes | None = None
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                heard = await self._read(position)
            except StoreUnavailable:
                position = None
                self._wakeups.ring_all()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            if position is None:
                self._wakeups.ring_all()
            for topic in heard.topics:
                self._wakeups.ring(topic)
            position = heard.position
