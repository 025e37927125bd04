"""What a call's headers say: deadline, priority, caller; and that a deadline holds."""

import asyncio
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from service.api.terms import Call, read_call
from service.errors import InvalidField, TooLate
from tests.support.scripted_engine import Clock


def call(*headers: tuple[str, str], client: str | None = "192.0.2.1", arrived: float = 5.0) -> Call:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "headers": raw, "client": client and (client, 4000)}
    return read_call(Request(scope), arrived)


def test_no_headers():
    assert call() == Call(5.0, "192.0.2.1", "normal", None)
    assert call().deadline_ms is None


@pytest.mark.parametrize("value", ["1500", "1500.0", "01500", "1500.00000"])
def test_a_deadline_counts_from_the_headers(value):
    asked = call(("X-Deadline-Ms", value))
    assert asked.deadline == 6.5
    assert asked.deadline_ms == 1500


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "0", "0.0", "-1", "+1", "nan", "inf", "1e3", "1e309", "1,5", ".5", "5.", "0x10"),
        *("3600001", "9" * 20, "9" * 5000, "1_000", "²", "1 2", "10ms", "1500, 1500", "1\x00"),
    ],
)
def test_malformed_deadlines(value):
    with pytest.raises(InvalidField) as caught:
        call(("X-Deadline-Ms", value))
    assert caught.value.field == "X-Deadline-Ms"
    assert caught.value.limit == "above 0, at most 3600000, as digits"


@pytest.mark.parametrize("value", ["high", "normal", "low"])
def test_priorities(value):
    assert call(("X-Priority", value)).terms().priority == value


@pytest.mark.parametrize("value", ["", "HIGH", "urgent", "1", "high, low"])
def test_malformed_priorities(value):
    with pytest.raises(InvalidField) as caught:
        call(("X-Priority", value))
    assert (caught.value.field, caught.value.limit) == ("X-Priority", "high, normal, low")


@pytest.mark.parametrize("name", ["X-Priority", "X-Deadline-Ms"])
def test_repeated_headers(name):
    with pytest.raises(InvalidField) as caught:
        call((name, "1"), (name, "1"))
    assert (caught.value.field, caught.value.limit) == (name, "once")


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255), max_size=30))
def test_any_header_is_a_deadline_or_an_error_of_ours(value):
    try:
        asked = call(("X-Deadline-Ms", value))
    except InvalidField:
        return
    assert asked.deadline is not None
    assert 5.0 <= asked.deadline <= 3605.0


@pytest.mark.parametrize(
    ("client", "caller"),
    [
        (None, ""),
        ("testclient", "testclient"),
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::ffff", "2001:db8:1:3::/64"),
    ],
)
def test_callers(client, caller):
    assert call(client=client).terms().caller == caller


def test_terms_leave_time_for_what_follows():
    asked = Call(1.0, "c", "low", 3.0)
    terms = asked.terms(grow_until=2.0, after_s=0.5)
    assert dataclasses.astuple(terms) == ("c", "low", 2.5, 2.0)
    assert Call(1.0).terms(after_s=0.5).deadline is None


async def test_work_is_given_up_at_the_deadline():
    cancelled = asyncio.Event()

    async def work() -> None:
        async with Call(0.0, deadline=1.5).until_deadline(Clock(2.0)):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    with pytest.raises(TooLate) as caught:
        await work()
    assert cancelled.is_set()
    assert caught.value.limit == "1500 ms"


async def test_work_that_ends_late_is_late():
    clock = Clock(0.0)
    with pytest.raises(TooLate):
        async with Call(0.0, deadline=3600.0).until_deadline(clock):
            clock.jump(3600.0)


async def test_work_in_time_and_its_own_errors_pass():
    asked = Call(0.0, deadline=3600.0)
    async with asked.until_deadline(Clock(0.0)), Call(0.0).until_deadline(Clock(0.0)):
        pass
    with pytest.raises(KeyError):
        async with asked.until_deadline(Clock(0.0)):
            raise KeyError
    with pytest.raises(TimeoutError):
        async with asked.until_deadline(Clock(0.0)):
            raise TimeoutError
