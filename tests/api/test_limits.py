"""Admission: bounded, exact after failures, and honest about when to come back."""

import pytest

from service.api.limits import Admission, AdmissionLimits
from service.errors import TooBusy
from service.metrics import Metrics


class Queue:
    """A clock and a number of evaluations to set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.owed = 0

    def admission(self, max_requests: int = 2, max_bytes: int = 1000) -> Admission:
        limits = AdmissionLimits(max_requests, max_bytes)
        return Admission(limits, Metrics(), lambda: self.owed, lambda: self.now_s)


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


def test_retry_after_is_the_queue_times_its_pace():
    queue = Queue()
    admission = queue.admission()
    assert admission.retry_after_s() == 1  # nothing is known yet
    queue.owed = 60
    with admission.timed(40):
        queue.now_s += 5
    queue.owed = 200
    assert admission.retry_after_s() == 10  # 100 evaluations took 5 s
    queue.owed = 10**6
    assert admission.retry_after_s() == 120


def test_a_failed_prediction_teaches_no_pace():
    queue = Queue()
    admission = queue.admission()

    def fail_late() -> None:
        queue.now_s += 100
        raise KeyError

    with pytest.raises(KeyError), admission.timed(1):
        fail_late()
    queue.owed = 100
    assert admission.retry_after_s() == 1
