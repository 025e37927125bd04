"""Who is slow where others are quick: a call that hangs, or a server that crawls.

What is slow is not told by seconds alone, since a crowded machine is slow as a whole, but by being
overtaken: calls to others began later and have returned, or others have nothing to do. Knows no
clock and no event loop.
"""

from collections import deque

from service.engine.pool import Member, Pool

_OVERTAKEN = 8  # more than the calls in flight elsewhere that merely ended before this one
_REMEMBERED = 64


class Stragglers:
    """Remembers the calls that returned last."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._returned: deque[tuple[Member, float]] = deque(maxlen=_REMEMBERED)

    def returned(self, member: Member, started: float) -> None:
        """A call that began at `started` was answered."""
        self._returned.append((member, started))

    def is_overtaken(self, member: Member, network: str, started: float) -> bool:
        """Whether another could do it sooner: one is idle, or they answered many later calls."""
        others = self._pool.others_for(member, network)
        if any(not other.num_calls for other in others):
            return True
        later = (other for other, begun in self._returned if begun > started)
        return sum(other in others for other in later) >= _OVERTAKEN
