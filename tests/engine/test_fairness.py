"""Who gets how much: bounds on service between requests, callers and classes that all wait.

Service is counted in rows, each of cost 1. The bound of start-time fair queueing (Goyal, Vin and
Cheng, 1996, theorem 1) is one row's cost over the share, for each of the two.
"""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.groups import Batch, Group
from service.engine.request import Priority, Terms
from service.engine.scheduler import SHARES, StepScheduler
from tests.engine.test_scheduler import GROUPS, FakeRow, admit, come_back, owners, take

PAIRS: list[tuple[Priority, Priority]] = [("high", "normal"), ("high", "low"), ("normal", "low")]


def make_scheduler() -> StepScheduler[FakeRow]:
    return StepScheduler()


class Rivals:
    """Requests of caller "a" and one of "b", and who is how far ahead of whom while both wait."""

    def __init__(self, rows: list[int]) -> None:
        self.scheduler = make_scheduler()
        self.waiting = dict(enumerate(rows))
        self.flying: list[Batch[FakeRow]] = []
        for owner, number in self.waiting.items():
            terms = Terms(caller="b" if owner == 0 else "a")
            admit(self.scheduler, owner, number, steps=10**6, terms=terms)
        self.ahead = {(a, b): [0] for a in self.waiting for b in self.waiting if 0 < a < b}

    def call(self, max_rows: int) -> None:
        """Begin a call, if a row waits."""
        batch = self.scheduler.next_batch(lambda _: max_rows)
        if batch is not None:
            self.flying.append(batch)
            for row in batch.rows:
                self._served(row.owner)

    def come_back(self, number: int) -> None:
        """End a call, if one is under way."""
        if self.flying:
            batch = self.flying.pop(number % len(self.flying))
            come_back(self.scheduler, batch)
            for owner in owners(batch):
                self.waiting[owner] += 1

    def _served(self, owner: int) -> None:
        for (a, b), course in self.ahead.items():
            if self.waiting[a] and self.waiting[b]:
                course.append(course[-1] + (owner == a) - (owner == b))
                assert max(course) - min(course) <= 2
            if self.waiting[owner] == 1 and owner in (a, b):
                self.ahead[a, b] = [0]  # it waits no longer
        self.waiting[owner] -= 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=3, max_size=6),
    st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=100),
)
def test_requests_of_a_caller_that_wait_differ_by_two_rows_at_most(
    rows: list[int], course: list[tuple[bool, int]]
) -> None:
    """Over every interval in which both wait, with calls overlapping as they like."""
    rivals = Rivals(rows)
    for is_call, number in course:
        if is_call:
            rivals.call(number)
        else:
            rivals.come_back(number)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(1, 16), st.integers(1, 40))
def test_callers_share_evenly_however_many_requests_they_have(
    requests_of: list[int], max_rows: int, calls: int
) -> None:
    caller_of: dict[int, int] = {}
    scheduler = make_scheduler()
    for caller, number in enumerate(requests_of):
        for _ in range(number):
            owner = len(caller_of)
            caller_of[owner] = caller
            admit(scheduler, owner, 40, steps=10**6, terms=Terms(caller=str(caller)))
    served = Counter(dict.fromkeys(range(len(requests_of)), 0))
    for _ in range(calls):
        batch = take(scheduler, max_rows)
        for row in batch.rows:
            served[caller_of[row.owner]] += 1
            assert max(served.values()) - min(served.values()) <= 2
        come_back(scheduler, batch)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("max_rows", [1, 5, 64])
def test_classes_share_by_weight(pair: tuple[Priority, Priority], max_rows: int) -> None:
    more, less = pair
    scheduler = make_scheduler()
    for owner, priority in enumerate((more, less)):
        admit(scheduler, owner, 200, steps=10**6, terms=Terms(priority=priority))
    served = [0, 0]
    for _ in range(1200 // max_rows):
        batch = take(scheduler, max_rows)
        for row in batch.rows:
            served[row.owner] += 1
            lead = served[0] / SHARES[more] - served[1] / SHARES[less]
            assert abs(lead) <= 1 / SHARES[more] + 1 / SHARES[less] + 1e-9
        come_back(scheduler, batch)


def test_low_priority_waits_for_a_bounded_number_of_rows() -> None:
    """Beside every other class, with and without deadlines, all with endless work."""
    scheduler = make_scheduler()
    everyone = [(p, d) for p in SHARES for d in (None, 1.0) if (p, d) != ("low", None)]
    for owner, (priority, deadline) in enumerate(everyone):
        terms = Terms(priority=priority, deadline=deadline)
        admit(scheduler, owner, 64, steps=10**6, terms=terms)
    for _ in range(100):
        come_back(scheduler, take(scheduler, 8))
    admit(scheduler, 99, 4, steps=10**6, terms=Terms(priority="low"))
    # Two callers divide each class; what the others may take for one row of it, and one each:
    others = sum(SHARES[priority] / 2 for priority, _ in everyone)
    most = others / (SHARES["low"] / 2) + len(everyone)
    since = 0
    for _ in range(500):
        batch = take(scheduler, 8)
        for row in batch.rows:
            since = 0 if row.owner == 99 else since + 1
            assert since <= most
        come_back(scheduler, batch)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 30), st.booleans())
def test_a_newcomer_is_in_the_next_batch(max_rows: int, calls: int, known: bool) -> None:
    """A 200-step, 20-member request delays it by the call under way; the caller may be known."""
    scheduler = make_scheduler()
    admit(scheduler, 1, 20, steps=200, terms=Terms(caller="huge"))
    for _ in range(calls):
        come_back(scheduler, take(scheduler, max_rows))
    under_way = take(scheduler, max_rows)
    admit(scheduler, 2, 1, terms=Terms(caller="huge" if known else "new"))
    batch = take(scheduler, max(2, max_rows))
    assert 2 in owners(batch)
    come_back(scheduler, under_way)
    come_back(scheduler, batch)


def test_one_step_requests_wait_one_batch_per_call_at_most() -> None:
    """Encoder, one step, decoder, each a group of its own, beside 20 rows that never end."""
    scheduler = make_scheduler()
    admit(scheduler, 1, 20, steps=10**6, terms=Terms(caller="huge"))
    for short in range(2, 30):
        caller = f"c{short % 3}"
        scheduler.admit(short, Terms(caller=caller))
        for stage in ("encode", "denoise", "decode"):
            network = GROUPS[1] if stage == "denoise" else Group(stage, "m:1", stage, (1,))
            scheduler.add(network, [FakeRow(short, 1)])
            others = 0
            while True:
                batch = take(scheduler, 8)
                come_back(scheduler, batch)
                if short in owners(batch):
                    break
                others += 1
            assert others <= 1
        scheduler.remove(short)


def test_who_was_away_has_saved_no_credit() -> None:
    """A caller whose only row was in calls most of the time comes back with many rows."""
    scheduler = make_scheduler()
    admit(scheduler, 1, 1, steps=10**6, terms=Terms(caller="thin"))
    admit(scheduler, 2, 64, steps=10**6, terms=Terms(caller="wide"))
    for _ in range(100):
        come_back(scheduler, take(scheduler, 8))
    admit(scheduler, 3, 64, steps=10**6, terms=Terms(caller="thin"))
    admit(scheduler, 4, 64, steps=10**6, terms=Terms(caller="wide"))
    for _ in range(20):
        batch = take(scheduler, 8)
        counts = Counter("wide" if owner in (2, 4) else "thin" for owner in owners(batch))
        assert abs(counts["thin"] - counts["wide"]) <= 2
        come_back(scheduler, batch)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=8, unique=True), st.integers(1, 5))
def test_the_earliest_deadline_is_first(deadlines: list[int], max_rows: int) -> None:
    scheduler = make_scheduler()
    for owner, deadline in enumerate(deadlines):
        admit(scheduler, owner, 3, terms=Terms(caller=str(owner), deadline=float(deadline)))
    order = []
    while scheduler.num_ready:
        order += [deadlines[owner] for owner in owners(take(scheduler, max_rows))]
    assert order == sorted(order)


def test_callers_with_deadlines_have_the_shares_of_all_of_them_and_no_more() -> None:
    scheduler = make_scheduler()
    admit(scheduler, 1, 64, steps=10**6, terms=Terms(caller="a", deadline=1.0))
    admit(scheduler, 2, 64, steps=10**6, terms=Terms(caller="b", deadline=2.0))
    admit(scheduler, 3, 64, steps=10**6, terms=Terms(caller="c"))
    served: Counter[int] = Counter()
    for _ in range(60):
        batch = take(scheduler, 10)
        served.update(owners(batch))
        come_back(scheduler, batch)
    assert served[1] + served[2] == pytest.approx(2 * served[3], abs=6)
