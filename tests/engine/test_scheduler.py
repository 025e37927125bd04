"""The scheduler's promises, over arbitrary sequences of calls."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.engine.groups import Batch, Group
from service.engine.request import PRIORITIES, Terms
from service.engine.scheduler import StepScheduler

MAX_ROWS = {"encode": 2, "denoise": 5, "decode": 3}
GROUPS = (
    Group("encode", "m:1", "encoder", (3, 8, 8)),
    Group("denoise", "m:1", "denoiser", (4, 8, 8)),
    Group("denoise", "m:2", "denoiser", (4, 8, 8)),
)
TERMS = st.builds(
    Terms,
    caller=st.sampled_from("abc"),
    priority=st.sampled_from(PRIORITIES),
    deadline=st.none() | st.floats(0, 100),
)


@dataclass(eq=False)
class FakeRow:
    """A row that still needs `left` calls."""

    owner: int
    left: int


def admit(
    scheduler: StepScheduler[FakeRow],
    owner: int,
    rows: int = 1,
    *,
    steps: int = 1,
    terms: Terms | None = None,
    group: Group = GROUPS[1],
) -> list[FakeRow]:
    made = [FakeRow(owner, steps) for _ in range(rows)]
    scheduler.admit(owner, terms or Terms())
    scheduler.add(group, made)
    return made


def take(scheduler: StepScheduler[FakeRow], most: int = 5, num_free: int = 1) -> Batch[FakeRow]:
    batch = scheduler.next_batch(lambda _: most, num_free)
    assert batch is not None
    return batch


def come_back(scheduler: StepScheduler[FakeRow], batch: Batch[FakeRow]) -> None:
    for row in batch.rows:
        row.left -= 1
        assert row.left >= 0
    scheduler.put_back(row for row in batch.rows if row.left)


def owners(batch: Batch[FakeRow]) -> list[int]:
    return [row.owner for row in batch.rows]


def assert_no_trace(scheduler: StepScheduler[FakeRow]) -> None:
    assert scheduler.num_ready == 0
    for name in ("_flows", "_lanes", "_rings"):
        assert not vars(scheduler)[name]
    assert all(peers.num_callers == 0 for peers in vars(scheduler)["_classes"].values())


class Scheduling(RuleBasedStateMachine):
    """Requests come, go and progress in any order, with any number of calls in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler: StepScheduler[FakeRow] = StepScheduler(
            lambda group: float(len(group.model))
        )
        self.groups: dict[int, Group] = {}
        self.ready: dict[int, list[FakeRow]] = {}
        self.in_flight: list[Batch[FakeRow]] = []
        self.num_admitted = 0

    @rule(
        group=st.sampled_from(GROUPS),
        rows=st.integers(1, 9),
        steps=st.integers(1, 4),
        terms=TERMS,
    )
    def add(self, group: Group, rows: int, steps: int, terms: Terms) -> None:
        self.num_admitted += 1
        self.groups[self.num_admitted] = group
        self.ready[self.num_admitted] = admit(
            self.scheduler, self.num_admitted, rows, steps=steps, terms=terms, group=group
        ).copy()

    @rule(num_free=st.integers(1, 4))
    def call(self, num_free: int) -> None:
        batch = self.scheduler.next_batch(lambda group: MAX_ROWS[group.stage], num_free)
        assert (batch is None) == (not any(self.ready.values()))
        if batch is not None:
            self._check(batch, num_free)
            self.in_flight.append(batch)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def return_one(self, data: st.DataObject) -> None:
        self._return(self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1))))

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.groups)))
        self.scheduler.remove(owner)
        del self.groups[owner], self.ready[owner]

    @invariant()
    def every_waiting_row_is_counted_once(self) -> None:
        assert self.scheduler.num_ready == sum(map(len, self.ready.values()))
        for group in GROUPS:
            waiting = [len(rows) for o, rows in self.ready.items() if self.groups[o] == group]
            assert self.scheduler.ready_in(group) == sum(waiting)

    def teardown(self) -> None:
        for flying in self.in_flight:
            self._return(flying)
        while (batch := self.scheduler.next_batch(lambda _: 5)) is not None:
            for row in batch.rows:
                self.ready[row.owner].remove(row)
            self._return(batch)
        assert not any(self.ready.values())
        for owner in self.groups:
            self.scheduler.remove(owner)
        assert_no_trace(self.scheduler)

    def _check(self, batch: Batch[FakeRow], num_free: int) -> None:
        waiting = sum(
            len(rows) for owner, rows in self.ready.items() if self.groups[owner] == batch.group
        )
        assert len(batch.rows) == min(MAX_ROWS[batch.group.stage], -(-waiting // num_free))
        for row in batch.rows:
            assert self.groups[row.owner] == batch.group
            self.ready[row.owner].remove(row)  # raises unless it was waiting: none is doubled

    def _return(self, batch: Batch[FakeRow]) -> None:
        come_back(self.scheduler, batch)
        for row in batch.rows:
            if row.left and row.owner in self.ready:
                self.ready[row.owner].append(row)


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 5), TERMS), min_size=1, max_size=8),
    st.integers(1, 16),
)
@settings(deadline=None, max_examples=50)
def test_order_is_a_function_of_the_calls(
    sizes: list[tuple[int, int, Terms]], max_rows: int
) -> None:
    def order() -> list[list[int]]:
        scheduler: StepScheduler[FakeRow] = StepScheduler()
        for owner, (rows, steps, terms) in enumerate(sizes):
            admit(scheduler, owner, rows, steps=steps, terms=terms)
        batches = []
        while (batch := scheduler.next_batch(lambda _: max_rows)) is not None:
            batches.append(owners(batch))
            come_back(scheduler, batch)
        return batches

    first = order()
    assert first == order()
    assert sum(map(len, first)) == sum(rows * steps for rows, steps, _ in sizes)


def test_rows_of_a_removed_request_are_gone_at_once_and_do_not_return() -> None:
    scheduler: StepScheduler[FakeRow] = StepScheduler()
    admit(scheduler, 1, 8, steps=3)
    admit(scheduler, 2, 1, steps=3)
    in_hand = take(scheduler)
    scheduler.remove(1)
    scheduler.remove(1)  # once more is nothing
    assert scheduler.num_ready == 0
    come_back(scheduler, in_hand)
    assert owners(take(scheduler)) == [2]
    assert scheduler.next_batch(lambda _: 5) is None
    scheduler.remove(2)
    assert_no_trace(scheduler)


def test_rows_spread_over_free_workers_and_pack_when_there_are_many() -> None:
    scheduler: StepScheduler[FakeRow] = StepScheduler()
    admit(scheduler, 1, 10)
    assert [len(take(scheduler, 8, free).rows) for free in (4, 3, 2, 1)] == [3, 3, 2, 2]
    admit(scheduler, 2, 40)
    assert [len(take(scheduler, 8, free).rows) for free in (4, 3)] == [8, 8]


def test_misuse_is_refused() -> None:
    scheduler: StepScheduler[FakeRow] = StepScheduler()
    scheduler.admit(1, Terms())
    with pytest.raises(ValueError, match="one request"):
        scheduler.add(GROUPS[1], [FakeRow(1, 1), FakeRow(2, 1)])
    with pytest.raises(ValueError, match="waits for no stage"):
        scheduler.put_back([FakeRow(1, 1)])
    scheduler.add(GROUPS[0], [FakeRow(1, 1)])
    with pytest.raises(ValueError, match="still has rows waiting"):
        scheduler.add(GROUPS[1], [FakeRow(1, 1)])
