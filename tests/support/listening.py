"""A listener that remembers what a backend told it, and waits for what a test expects."""

import asyncio
from collections.abc import Callable

from service.backends.base import Worker

PATIENCE_S = 60.0  # generous: no test depends on the machine's speed


class RecordingListener:
    """See Listener. `told` has "joined", "left", "lost" or "back" with a NAME, and "changed"."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._news = asyncio.Event()

    def worker_joined(self, worker: Worker) -> None:
        """One more."""
        self._tell(f"joined {worker.name}")

    def worker_left(self, name: str) -> None:
        """One less."""
        self._tell(f"left {name}")

    def worker_lost(self, name: str) -> None:
        """One that is expected back."""
        self._tell(f"lost {name}")

    def worker_back(self, name: str) -> None:
        """It is."""
        self._tell(f"back {name}")

    def models_changed(self) -> None:
        """Something else is served."""
        self._tell("changed")

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when a condition holds, looked at whenever something was told."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._news.clear()
                await self._news.wait()

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self._news.set()
