"""What becomes of rows whose call came to nothing: who is to blame, and where they go next.

A worker that fails is examined, and if it proves well, the rows are blamed. Blamed rows are tried
once more, each request alone and on another worker where there is one, and fail if blamed again.
Nobody is blamed when the worker was lost under a call, was known to be ill, or was merely slower
than others: then the rows go on at once.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np

from service.engine.batch import Rows
from service.engine.errors import EngineError
from service.engine.groups import Batch, Group, Network
from service.engine.health import Health
from service.engine.pool import Member, Pool
from service.engine.request import Trajectory
from service.engine.work import Work

logger = logging.getLogger(__name__)

_MOST_FAILURES = 2  # of one row, on workers that are well
_MOST_LOSSES = 10  # of workers under one row: it may be what kills them


@dataclass(frozen=True)
class Failure:
    """A call of a worker that gave nothing for some of its rows, and why."""

    member: Member
    group: Group
    rows: Rows
    inputs: Mapping[str, np.ndarray]
    reason: str


class Retries:
    """Runs in one event loop.

    `again()` is called when there may be rows for `next`, `changed(member)` when a worker goes down
    or comes up.
    """

    def __init__(
        self,
        pool: Pool,
        work: Work,
        *,
        again: Callable[[], None],
        changed: Callable[[Member], None],
    ) -> None:
        self._pool = pool
        self._work = work
        self._tell = again
        self._again: deque[Batch[Trajectory]] = deque()
        self._suspicions: dict[Member, list[Failure]] = {}
        self._health = Health(judged=self._judged, changed=changed, patience_s=self._patience_s)

    def examines(self, member: Member) -> bool:
        """Whether a probe is to find out if a worker is well."""
        return self._health.examines(member)

    async def stop(self) -> None:
        """Examine nobody any more."""
        await self._health.stop()

    def hurry(self) -> None:
        """Look at once whether those that are down are well again."""
        self._health.hurry()

    def next(self) -> tuple[Member, Batch[Trajectory]] | None:
        """Rows that failed before and a worker for them, if there are both."""
        for _ in range(len(self._again)):
            waiting = self._again.popleft()
            rows = tuple(row for row in waiting.rows if row.owner in self._work)
            if not rows:
                continue
            batch = Batch(waiting.group, rows)
            avoided = frozenset(name for row in rows for name in row.failed_on)
            network = batch.group.model
            fit = (member.name for member in self._pool.up if member.worker.serves(network))
            if avoided.issuperset(fit):
                avoided = frozenset()
            member = self._pool.next_free(avoided, network)
            if member is not None:
                return member, batch
            self._again.append(batch)
        return None

    def failed(self, failure: Failure) -> None:
        """The worker answered with an error or with nonsense: either may be at fault."""
        if self._health.is_ill(failure.member):
            self.lost(failure)
            return
        self._log("failed on", failure)
        self._suspicions.setdefault(failure.member, []).append(failure)
        self._examine(failure)

    def lost(self, failure: Failure) -> None:
        """The worker is at fault: the rows go on at once, elsewhere while it is down."""
        self._log("was lost with", failure)
        self._examine(failure)
        self._go_on(failure)

    def hung(self, failure: Failure) -> None:
        """There was no answer at all: the rows are blamed, since a probe may hang as well."""
        self._log("hung with", failure)
        self._examine(failure)
        self._blame(failure)

    def _patience_s(self, member: Member, network: Network) -> float:
        """How long a probe may take: while others do its work, it need not come back slow."""
        if self._pool.others_for(member, network.model):
            return self._work.haste_s(member, network, 1)
        return self._work.watchdog_s(member, network, 1)

    def _examine(self, failure: Failure) -> None:
        self._health.examine(failure.member, failure.group.network, failure.inputs)

    def _log(self, what: str, failure: Failure) -> None:
        logger.warning(
            "%s %s %d rows: %s", failure.member.name, what, len(failure.rows), failure.reason
        )

    def _judged(self, member: Member, well: bool) -> None:
        for suspicion in self._suspicions.pop(member, ()):
            if well:
                self._blame(suspicion)
            else:
                self._go_on(suspicion)
        self._tell()

    def _go_on(self, failure: Failure) -> None:
        """Rows that lost a worker for the first time go on together."""
        for row in failure.rows:
            row.num_lost += 1
        if all(row.num_lost == 1 for row in failure.rows):
            self._again.append(Batch(failure.group, tuple(failure.rows)))
            return
        for owner, rows in _by_owner(failure.rows):
            self._retry(owner, rows, failure, any(row.num_lost >= _MOST_LOSSES for row in rows))

    def _blame(self, failure: Failure) -> None:
        for row in failure.rows:
            row.failed_on += (failure.member.name,)
        for owner, rows in _by_owner(failure.rows):
            hopeless = any(len(row.failed_on) >= _MOST_FAILURES for row in rows)
            self._retry(owner, rows, failure, hopeless)

    def _retry(
        self, owner: int, rows: tuple[Trajectory, ...], failure: Failure, hopeless: bool
    ) -> None:
        if owner not in self._work:
            return
        if hopeless:
            error = EngineError(f"could not {failure.group.stage}: {failure.reason}")
            self._work.failed(owner, error)
        else:
            self._again.append(Batch(failure.group, rows))


def _by_owner(rows: Rows) -> Iterator[tuple[int, tuple[Trajectory, ...]]]:
    owner_of = attrgetter("owner")
    for owner, own in groupby(sorted(rows, key=owner_of), key=owner_of):
        yield owner, tuple(own)
