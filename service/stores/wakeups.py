"""Who waits for which topic to change, within one process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Wakeups:
    """Rings those that listen.

    Listen first, then look, then wait: nothing that happens in between is missed.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def listen(self, topic: str) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the topic is rung."""
        rung = asyncio.Event()
        listeners = self._listeners.setdefault(topic, set())
        listeners.add(rung)
        try:
            yield rung
        finally:
            listeners.discard(rung)
            if not listeners and self._listeners.get(topic) is listeners:
                del self._listeners[topic]

    def ring(self, topic: str) -> None:
        """Wake all that listen to a topic."""
        for rung in self._listeners.get(topic, ()):
            rung.set()

    def ring_all(self) -> None:
        """Wake all that listen to anything."""
        for topic in list(self._listeners):
            self.ring(topic)


async def wait_rung(rung: asyncio.Event, timeout_s: float | None) -> None:
    """Wait until rung, or for so long at most; then the event is clear again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await rung.wait()
    rung.clear()
