"""The workers: which of them may take a call now, and what is thought of each.

A worker whose call failed or hangs gets no calls until a probe of it has succeeded. Knows no event
loop; when and how to probe is the engine's business.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from service.backends.base import Worker

Condition = Literal["up", "down", "leaving"]


@dataclass(slots=True, eq=False)
class Member:
    """A worker as the pool sees it; `num_calls` are under way. Mutable.

    `last_return` is when a call of it last came back, on the engine's clock.
    """

    worker: Worker
    condition: Condition = "up"
    num_calls: int = 0
    last_return: float = -math.inf

    @property
    def name(self) -> str:
        """The worker's name."""
        return self.worker.name

    @property
    def free_calls(self) -> int:
        """Calls that it may take now."""
        return self.worker.max_calls - self.num_calls if self.condition == "up" else 0


class Pool:
    """Workers by name, in the order they came."""

    def __init__(self, workers: Iterable[Worker]) -> None:
        self._members: dict[str, Member] = {}
        for worker in workers:
            self.add(worker)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def add(self, worker: Worker) -> Member:
        """Let a worker in; ValueError for a name that is taken."""
        if worker.name in self._members:
            raise ValueError(f"there is a worker {worker.name} already")
        member = self._members[worker.name] = Member(worker)
        return member

    def find(self, name: str) -> Member | None:
        """The worker of that name."""
        return self._members.get(name)

    def leave(self, name: str) -> Member | None:
        """Give a worker no further calls, and forget it when those under way are back."""
        member = self._members.get(name)
        if member is not None:
            member.condition = "leaving"
            self._forget_if_idle(member)
        return member

    def took(self, member: Member) -> None:
        """A call of it has begun."""
        member.num_calls += 1

    def returned(self, member: Member) -> None:
        """A call of it has ended, well or not."""
        member.num_calls -= 1
        self._forget_if_idle(member)

    @property
    def up(self) -> list[Member]:
        """Those that are given calls."""
        return [member for member in self if member.condition == "up"]

    @property
    def num_idle(self) -> int:
        """Workers that could start a call at once."""
        return sum(member.free_calls > 0 and not member.num_calls for member in self)

    def anybody_for(self, network: str) -> bool:
        """Whether a worker has a network, be it up or down."""
        return any(member.worker.serves(network) for member in self)

    def others_for(self, member: Member, network: str) -> list[Member]:
        """Those besides one that are up and have a network."""
        return [other for other in self.up if other is not member and other.worker.serves(network)]

    def next_free(self, besides: Iterable[str] = (), network: str | None = None) -> Member | None:
        """Who takes the next call, not being one of `besides`: the least busy that has a place.

        Of those that have `network`, if one is named.

        An idle worker comes before a second call to a busy one, whose transfer then hides behind
        the first one's computation.
        """
        avoided = frozenset(besides)
        free = (
            m
            for m in self
            if m.free_calls > 0
            and m.name not in avoided
            and (network is None or m.worker.serves(network))
        )
        return min(free, key=lambda member: member.num_calls, default=None)

    def _forget_if_idle(self, member: Member) -> None:
        if member.condition == "leaving" and not member.num_calls:
            self._members.pop(member.name, None)
