"""Reads the next batch while the current one is trained on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """`read(index)` from a thread, one call ahead; what is returned never depends on that.

    The index expected next is as far from this one as this from the last, since a process among
    several takes every so-many-th.
    """

    def __init__(self, read: Callable[[int], T]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1)
        self._last = -1
        self._ahead: tuple[int, Future[T]] | None = None

    def __call__(self, index: int) -> T:
        expected, self._ahead = self._ahead, None
        if expected is not None and expected[0] == index:
            result = expected[1].result()
        else:
            result = self._pool.submit(self._read, index).result()
        following = index + max(1, index - self._last)
        self._last = index
        self._ahead = following, self._pool.submit(self._read, following)
        return result
