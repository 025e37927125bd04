"""Answers that were made before, bounded by bytes and age. Knows nothing of what it holds."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_OVERHEAD_BYTES = 1024  # of an entry: many small answers are not free either


@dataclass(frozen=True)
class Found(Generic[T]):
    """An answer; `age_s` is how long ago it was made, None where it was made just now."""

    value: T
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    value: T
    num_bytes: int
    stored: float


class AnswerCache(Generic[T]):
    """The answers used last, `max_bytes` in all, none older than `max_age_s`.

    `size_of` gives an answer's bytes, `clock` seconds. For one event loop.
    """

    def __init__(
        self,
        max_bytes: int,
        max_age_s: float,
        *,
        size_of: Callable[[T], int],
        clock: Callable[[], float],
    ) -> None:
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._size_of = size_of
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()
        self._making: dict[str, asyncio.Event] = {}
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get_or_make(self, key: str, make: Callable[[], Awaitable[T]]) -> Found[T]:
        """Return the answer under a key, or make it; whoever asks meanwhile waits for it.

        What `make` raises goes to who made it: the others then make it themselves.
        """
        found = self._look_up(key)
        if found is None and key in self._making:
            await self._making[key].wait()
            found = self._look_up(key)
        if found is not None:
            return found
        made = asyncio.Event()
        is_first = self._making.setdefault(key, made) is made
        try:
            value = await make()
            self._put(key, value)
            return Found(value)
        finally:
            if is_first:
                del self._making[key]
                made.set()

    def _look_up(self, key: str) -> Found[T] | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        age_s = max(0.0, self._clock() - entry.stored)
        if age_s > self._max_age_s:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return Found(entry.value, age_s)

    def _put(self, key: str, value: T) -> None:
        num_bytes = self._size_of(value) + _OVERHEAD_BYTES
        if num_bytes > self._max_bytes:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = _Entry(value, num_bytes, self._clock())
        self.num_bytes += num_bytes
        while self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        self.num_bytes -= self._entries.pop(key).num_bytes
