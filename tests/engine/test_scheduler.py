"""The scheduler's promises, over arbitrary sequences of calls."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.engine.scheduler import Batch, Group, Stage, StepScheduler

MAX_ROWS: dict[Stage, int] = {"encode": 2, "denoise": 5, "decode": 3}
GROUPS = (
    Group("encode", "m:1", "encoder", (3, 8, 8)),
    Group("denoise", "m:1", "denoiser", (4, 8, 8)),
    Group("denoise", "m:2", "denoiser", (4, 8, 8)),
)


@dataclass(eq=False)
class FakeRow:
    """A row that still needs `left` calls."""

    owner: int
    left: int


def make_scheduler(max_rows: int = 5) -> StepScheduler[FakeRow]:
    return StepScheduler({"encode": max_rows, "denoise": max_rows, "decode": max_rows})


def take(scheduler: StepScheduler[FakeRow], num_free: int = 1) -> Batch[FakeRow]:
    batch = scheduler.next_batch(num_free)
    assert batch is not None
    return batch


class Scheduling(RuleBasedStateMachine):
    """Requests come, go and progress in any order, with any number of calls in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler: StepScheduler[FakeRow] = StepScheduler(MAX_ROWS)
        self.groups: dict[int, Group] = {}
        self.ready: dict[int, list[FakeRow]] = {}
        self.in_flight: list[Batch[FakeRow]] = []
        self.num_admitted = 0
        # rows that others got since a request began to wait, by the waiting request
        self.overtaken: dict[int, Counter[int]] = {}
        self.passed_over: dict[Group, Counter[Group]] = {}

    @rule(group=st.sampled_from(GROUPS), num_rows=st.integers(1, 9), steps=st.integers(1, 4))
    def add(self, group: Group, num_rows: int, steps: int) -> None:
        self.num_admitted += 1
        owner = self.num_admitted
        rows = [FakeRow(owner, steps) for _ in range(num_rows)]
        self.groups[owner] = group
        self.ready[owner] = []
        self.scheduler.add(group, rows)
        self._became_ready(rows)

    @rule(num_free=st.integers(1, 4))
    def call(self, num_free: int) -> None:
        batch = self.scheduler.next_batch(num_free)
        assert (batch is None) == (not any(self.ready.values()))
        if batch is not None:
            self._check(batch, num_free)
            self.in_flight.append(batch)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        self._return(self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1))))

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.groups)))
        self.scheduler.remove(owner)
        del self.groups[owner]
        del self.ready[owner]
        self.overtaken.pop(owner, None)
        self._forget_idle_groups()

    @invariant()
    def every_waiting_row_is_counted_once(self) -> None:
        assert self.scheduler.num_ready == sum(map(len, self.ready.values()))

    def teardown(self) -> None:
        for flying in self.in_flight:
            self._return(flying)
        while (batch := self.scheduler.next_batch()) is not None:
            self._check(batch, 1)
            self._return(batch)
        assert not any(self.ready.values())

    def _check(self, batch: Batch[FakeRow], num_free: int) -> None:
        waiting = sum(
            len(rows) for owner, rows in self.ready.items() if self.groups[owner] == batch.group
        )
        share = -(-waiting // num_free)
        assert len(batch.rows) == min(MAX_ROWS[batch.group.stage], share)
        passed = self.passed_over.pop(batch.group)
        assert all(times <= 1 for times in passed.values())
        for others in self.passed_over.values():
            others[batch.group] += 1
        for row in batch.rows:
            assert self.groups[row.owner] == batch.group
            self.ready[row.owner].remove(row)  # raises unless it was waiting: none is doubled
            waited = self.overtaken.pop(row.owner)
            assert all(rows <= 1 for rows in waited.values()), "somebody was served twice before"
            for owner, others_rows in self.overtaken.items():
                if self.groups[owner] == batch.group:
                    others_rows[row.owner] += 1
            if self.ready[row.owner]:
                self.overtaken[row.owner] = Counter()
        self._start_group_waits()

    def _return(self, batch: Batch[FakeRow]) -> None:
        for row in batch.rows:
            row.left -= 1
            assert row.left >= 0
        unfinished = [row for row in batch.rows if row.left]
        self.scheduler.put_back(unfinished)
        self._became_ready([row for row in unfinished if row.owner in self.groups])

    def _became_ready(self, rows: list[FakeRow]) -> None:
        for row in rows:
            self.ready[row.owner].append(row)
            self.overtaken.setdefault(row.owner, Counter())
        self._start_group_waits()

    def _start_group_waits(self) -> None:
        for owner, rows in self.ready.items():
            if rows:
                self.passed_over.setdefault(self.groups[owner], Counter())

    def _forget_idle_groups(self) -> None:
        alive = {self.groups[owner] for owner, rows in self.ready.items() if rows}
        self.passed_over = {g: waits for g, waits in self.passed_over.items() if g in alive}


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 5)), min_size=1, max_size=8),
    st.integers(1, 16),
)
@settings(deadline=None)
def test_order_is_a_function_of_the_calls(sizes: list[tuple[int, int]], max_rows: int) -> None:
    def order() -> list[list[int]]:
        scheduler = make_scheduler(max_rows)
        for owner, (num_rows, steps) in enumerate(sizes):
            scheduler.add(GROUPS[1], [FakeRow(owner, steps) for _ in range(num_rows)])
        batches = []
        while (batch := scheduler.next_batch()) is not None:
            batches.append([row.owner for row in batch.rows])
            for row in batch.rows:
                row.left -= 1
            scheduler.put_back(row for row in batch.rows if row.left)
        return batches

    first = order()
    assert first == order()
    assert sum(map(len, first)) == sum(rows * steps for rows, steps in sizes)


def test_a_newcomer_is_in_the_next_batch_beside_a_huge_request() -> None:
    scheduler = make_scheduler(max_rows=4)
    scheduler.add(GROUPS[1], [FakeRow(1, 200) for _ in range(20)])
    take(scheduler)
    scheduler.add(GROUPS[1], [FakeRow(2, 1)])
    assert [row.owner for row in take(scheduler).rows] == [1, 2, 1, 1]


def test_rows_of_a_removed_request_are_gone_at_once_and_do_not_return() -> None:
    scheduler = make_scheduler()
    scheduler.add(GROUPS[1], [FakeRow(1, 3) for _ in range(8)])
    scheduler.add(GROUPS[1], [FakeRow(2, 3)])
    in_hand = take(scheduler)
    scheduler.remove(1)
    assert scheduler.num_ready == 0
    scheduler.put_back(in_hand.rows)
    assert [row.owner for row in take(scheduler).rows] == [2]
    assert scheduler.next_batch() is None


def test_rows_spread_over_free_workers_and_pack_when_there_are_many() -> None:
    scheduler = make_scheduler(max_rows=8)
    scheduler.add(GROUPS[1], [FakeRow(1, 1) for _ in range(10)])
    assert [len(take(scheduler, free).rows) for free in (4, 3, 2, 1)] == [3, 3, 2, 2]
    scheduler.add(GROUPS[1], [FakeRow(2, 1) for _ in range(40)])
    assert [len(take(scheduler, free).rows) for free in (4, 3)] == [8, 8]


def test_misuse_is_refused() -> None:
    scheduler = make_scheduler()
    with pytest.raises(ValueError, match="one request"):
        scheduler.add(GROUPS[1], [FakeRow(1, 1), FakeRow(2, 1)])
    scheduler.add(GROUPS[0], [FakeRow(1, 1)])
    with pytest.raises(ValueError, match="waiting to encode"):
        scheduler.add(GROUPS[1], [FakeRow(1, 1)])
    with pytest.raises(ValueError, match="at least 1"):
        make_scheduler(max_rows=0)
