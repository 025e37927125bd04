"""Lets callers in, and holds them back for a while so that a server comes to rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Callers pass one by one while it is open; `closed` is a time without any."""

    def __init__(self) -> None:
        self._ended = False
        self._open = asyncio.Event()
        self._open.set()
        self._nobody = asyncio.Condition()
        self._num_inside = 0

    def end(self) -> None:
        """Tell callers to go home."""
        self._ended = True

    def ended(self) -> bool:
        """Whether they should."""
        return self._ended

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Be inside, as soon as it is open."""
        await self._open.wait()
        self._num_inside += 1
        try:
            yield
        finally:
            async with self._nobody:
                self._num_inside -= 1
                self._nobody.notify_all()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Wait until nobody is inside, and keep it so."""
        self._open.clear()
        try:
            async with self._nobody:
                await self._nobody.wait_for(lambda: self._num_inside == 0)
            yield
        finally:
            self._open.set()
