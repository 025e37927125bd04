"""Admission: bounded, exact after failures, and honest about when to come back."""

from contextlib import ExitStack

import pytest

from service.api.limits import Admission, AdmissionLimits
from service.errors import TooBusy
from service.metrics import Metrics


class Queue:
    """A time until all work is done, to set by hand."""

    def __init__(self) -> None:
        self.drain_s = 0.0

    def admission(self, max_requests: int = 2, max_bytes: int = 1000) -> Admission:
        return Admission(AdmissionLimits(max_requests, max_bytes), Metrics(), lambda: self.drain_s)


def test_places_are_counted_and_given_back():
    admission = Queue().admission()
    with admission.enter(10), admission.enter(10):
        with pytest.raises(TooBusy, match="predictions") as caught, admission.enter(10):
            pass
        assert caught.value.retry_after_s == 1
    with pytest.raises(KeyError), admission.enter(10):
        raise KeyError
    with admission.enter(10), admission.enter(10):
        pass


def test_bytes_are_counted_but_one_upload_is_always_let_in():
    admission = Queue().admission(max_requests=10)
    with admission.enter(5000):
        pass
    with admission.enter(600):
        with pytest.raises(TooBusy, match="bytes"), admission.enter(600):
            pass
        with admission.enter(400):
            pass


def test_an_answer_takes_its_uploads_place():
    admission = Queue().admission(max_requests=10)
    with admission.enter(600) as first, admission.enter(300) as second:
        with pytest.raises(TooBusy, match="answers"):
            admission.resize(second, 500)
        admission.resize(first, 100)
        admission.resize(second, 500)
        with pytest.raises(TooBusy), admission.enter(500):
            pass
    with admission.enter(10) as lone, admission.enter(10) as other:
        admission.resize(lone, 980)
        admission.resize(other, 5)
    with admission.enter(10) as lone:
        admission.resize(lone, 5000)
        with pytest.raises(TooBusy), admission.enter(1):
            pass
    with admission.enter(500), admission.enter(500):
        pass


@pytest.mark.parametrize(
    ("drain_s", "retry_after_s"),
    [
        (0.0, 1),
        (0.2, 1),
        (1.0, 1),
        (1.01, 2),
        (500.0, 500),
        (1e300, 86_400),
        (float("inf"), 86_400),
    ],
)
def test_retry_after_is_when_the_queue_is_worked_off(drain_s, retry_after_s):
    queue = Queue()
    admission = queue.admission(max_requests=1)
    queue.drain_s = drain_s
    with admission.enter(10), pytest.raises(TooBusy) as caught, admission.enter(10):
        pass
    assert caught.value.retry_after_s == retry_after_s


def test_a_queue_that_others_filled_takes_everyone_up_to_his_even_part():
    admission = Queue().admission(max_requests=4)
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(admission.enter(1, "hog"))
        with pytest.raises(TooBusy), admission.enter(1, "hog"):
            pass
        for _ in range(2):
            held.enter_context(admission.enter(1, "ann"))
        with pytest.raises(TooBusy), admission.enter(1, "ann"):
            pass
        held.enter_context(admission.enter(1, "bob"))
        with pytest.raises(TooBusy), admission.enter(1, "bob"):
            pass
        held.enter_context(admission.enter(1, "eve"))
        with pytest.raises(TooBusy), admission.enter(1, "joe"):  # twice the bound is held
            pass
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(admission.enter(1, "joe"))


def test_bytes_that_others_hold_leave_everyone_his_even_part():
    admission = Queue().admission(max_requests=10, max_bytes=1000)
    with admission.enter(1000, "hog"):
        with pytest.raises(TooBusy, match="bytes"), admission.enter(1, "hog"):
            pass
        with pytest.raises(TooBusy, match="bytes"), admission.enter(501, "ann"):
            pass
        with admission.enter(300, "ann") as place:
            admission.resize(place, 500)
            with pytest.raises(TooBusy, match="bytes"):
                admission.resize(place, 501)
            with admission.enter(333, "bob"):
                pass
    with admission.enter(900, "ann"), admission.enter(100, "ann"):
        pass
