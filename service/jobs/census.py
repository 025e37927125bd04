"""Counts the jobs of a store now and then, so that whoever shows the numbers never waits for it."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

from service.stores.base import Store, StoreStats
from service.stores.errors import StoreError

_EVERY_S = 2.0


class Census:
    """Tells what a store holds, between `start` and `stop`; None while the store is gone."""

    def __init__(
        self, store: Store, tell: Callable[[StoreStats | None], None], every_s: float = _EVERY_S
    ) -> None:
        self._store = store
        self._tell = tell
        self._every_s = every_s
        self._counting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to count."""
        self._counting = asyncio.create_task(self._count_forever(), name="jobs-census")

    async def stop(self) -> None:
        """Count no more."""
        if self._counting is not None:
            self._counting.cancel()
            with suppress(asyncio.CancelledError):
                await self._counting

    async def _count_forever(self) -> None:
        while True:
            try:
                self._tell(await self._store.stats())
            except StoreError:
                self._tell(None)
            await asyncio.sleep(self._every_s * random.uniform(0.8, 1.2))  # noqa: S311
