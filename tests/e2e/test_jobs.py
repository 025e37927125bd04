"""Asynchronous calls across gateways: real processes on one Redis, killed, stopped and paused."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pytest

from service.api.keys import new_key
from tests.support.job_gateways import (
    PATIENCE_S,
    Gateway,
    Question,
    accepted,
    follow,
    look,
    outcome,
    result,
    until,
)
from tests.support.redis_server import RedisServer, require_redis
from tests.support.served import read_npz

SHORT = Question.of("depth", seed=5, steps=3, ensemble=3)
LONG = Question.of("depth", seed=7, steps=200, ensemble=20)
SLOWLY = {"max_batch_rows": 1}  # a long job then takes seconds


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    require_redis()
    with TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()


class Gateways:
    """Opens gateways on one Redis; `lease_s` after its death a job is another's."""

    def __init__(self, repository: Path, redis: RedisServer, folder: Path) -> None:
        self._repository = repository
        self._redis = redis
        self._folder = folder
        self._opened: list[Gateway] = []

    def open(self, **settings: object) -> Gateway:
        log = self._folder / f"gateway-{len(self._opened)}.log"
        chosen = {"redis_url": self._redis.url, "job_lease_s": 2, "cache_bytes": 0, **settings}
        self._opened.append(Gateway(self._repository, log, **chosen))
        return self._opened[-1].start()

    def close(self) -> None:
        for gateway in self._opened:
            gateway.close()


@pytest.fixture
def gateways(tiny_repository: Path, redis: RedisServer, tmp_path: Path) -> Iterator[Gateways]:
    redis.flush()
    opened = Gateways(tiny_repository, redis, tmp_path)
    yield opened
    opened.close()


def is_the_answer(got: httpx.Response, expected: httpx.Response) -> None:
    """Both are the same answer, but for the rounding of differently filled batches."""
    assert (got.status_code, expected.status_code) == (200, 200), got.text
    arrays, others = read_npz(got.content), read_npz(expected.content)
    assert arrays.keys() == others.keys()
    np.testing.assert_allclose(arrays["prediction"], others["prediction"], atol=1e-4)


def running(gateway: Gateway, job_id: str) -> None:
    until(lambda: look(gateway.url, job_id)["done"] > 0)


def ended_well(gateway: Gateway) -> None:
    gateway.process.wait(PATIENCE_S)
    assert "Application shutdown complete" in gateway.log
    assert "Traceback" not in gateway.log, gateway.log


def test_any_gateway_accepts_any_runs_any_answers(gateways):
    desk, engine = gateways.open(job_workers=0), gateways.open(job_workers=2)
    at_once = SHORT.ask(desk.url)
    for accepting, asked in ((desk, engine), (engine, desk)):
        job_id = accepted(SHORT.submit(accepting.url))
        assert outcome(asked.url, job_id).data["state"] == "succeeded"
        said = [look(gateway.url, job_id) for gateway in (desk, engine)]
        assert said[0] == said[1]
        assert (said[0]["done"], said[0]["total"], said[0]["state"]) == (9, 9, "succeeded")
        answers = [result(gateway.url, job_id) for gateway in (desk, engine)]
        assert answers[0].content == answers[1].content
        is_the_answer(answers[0], at_once)
        assert [*follow(desk.url, job_id)] == [*follow(engine.url, job_id)]
    assert engine.metric('percept_evaluations_total{model="tiny:1",task="depth"}') == 18


def test_a_gateway_that_only_takes_jobs_in_says_how_many_are_ahead(gateways):
    desk, other = gateways.open(job_workers=0), gateways.open(job_workers=0)
    jobs = [accepted(SHORT.submit(gateway.url)) for gateway in (desk, other, desk)]
    assert [look(other.url, job_id)["ahead"] for job_id in jobs] == [0, 1, 2]
    until(lambda: other.metric('percept_jobs{state="queued"}') == 3)
    httpx.delete(f"{other.url}/jobs/{jobs[0]}").raise_for_status()
    assert [look(desk.url, job_id)["ahead"] for job_id in jobs] == [None, 0, 1]
    until(lambda: desk.metric('percept_jobs{state="queued"}') == 2)
    until(lambda: desk.metric('percept_jobs{state="cancelled"}') == 1)


def test_an_idempotency_key_is_one_job_on_all_gateways(gateways):
    first, second = gateways.open(), gateways.open()
    answers: Queue[httpx.Response] = Queue()
    key = {"Idempotency-Key": "photo-17"}

    def submit(gateway: Gateway) -> None:
        answers.put(SHORT.submit(gateway.url, key))

    threads = [threading.Thread(target=submit, args=(g,)) for g in (first, second) * 4]
    for thread in threads:
        thread.start()
    jobs = {accepted(answers.get(timeout=PATIENCE_S)) for _ in threads}
    assert len(jobs) == 1
    (job_id,) = jobs
    outcome(second.url, job_id)
    assert accepted(SHORT.submit(second.url, key)) == job_id
    other = LONG.submit(second.url, key)
    assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")


def test_events_go_on_at_another_gateway_when_the_first_is_killed(gateways):
    first = gateways.open(**SLOWLY)
    second = gateways.open(job_workers=0)
    job_id = accepted(LONG.submit(second.url))
    seen = []
    for event in follow(first.url, job_id):
        seen.append(event)
        if event.data["done"]:
            break
    first.kill()
    third = gateways.open()
    seen += follow(second.url, job_id, after=seen[-1].id)
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert [event.name for event in seen[-2:]] == ["progress", "end"]
    assert (seen[-1].data["state"], seen[-1].data["attempt"]) == ("succeeded", 2)
    is_the_answer(result(second.url, job_id), LONG.ask(third.url))


def test_a_gateway_that_wakes_after_its_job_was_taken_changes_nothing(gateways):
    zombie = gateways.open(**SLOWLY)
    job_id = accepted(LONG.submit(zombie.url))
    running(zombie, job_id)
    zombie.signal(signal.SIGSTOP)
    other = gateways.open()
    end = outcome(other.url, job_id)
    answer = result(other.url, job_id)
    zombie.signal(signal.SIGCONT)
    until(lambda: f"job {job_id} was cancelled or taken by another" in zombie.log)
    assert result(zombie.url, job_id).content == answer.content
    course = [*follow(zombie.url, job_id)]
    assert [event for event in course if event.name == "end"] == [end]
    assert end.data["attempt"] == 2


def test_terminating_hands_jobs_back_and_ends_streams_at_once(gateways):
    first = gateways.open(**SLOWLY, job_workers=2, job_lease_s=600, shutdown_grace_s=1)
    jobs = [accepted(LONG.submit(first.url)) for _ in range(3)]
    for job_id in jobs[:2]:
        running(first, job_id)
    seen, streaming = [], threading.Event()

    def watch() -> None:
        for event in follow(first.url, jobs[2]):
            seen.append(event)
            streaming.set()

    watching = threading.Thread(target=watch)
    watching.start()
    assert streaming.wait(PATIENCE_S)
    first.signal(signal.SIGTERM)
    watching.join(PATIENCE_S)  # without an error: the stream was ended, not broken off
    assert not watching.is_alive()
    assert [event.name for event in seen] == ["progress"]
    ended_well(first)
    second = gateways.open()
    for job_id in jobs:  # at once, though the leases have minutes left
        assert outcome(second.url, job_id).data["attempt"] == 1
        assert result(second.url, job_id).status_code == 200


def test_terminating_finishes_jobs_in_work_within_the_grace_time(gateways):
    first = gateways.open(shutdown_grace_s=100)
    second = gateways.open(job_workers=0)
    job_id = accepted(LONG.submit(first.url))
    until(lambda: look(second.url, job_id)["state"] != "queued")
    first.signal(signal.SIGTERM)
    ended_well(first)
    said = look(second.url, job_id)
    assert said["state"] == "succeeded", said
    assert result(second.url, job_id).status_code == 200


def test_without_redis_synchronous_calls_go_on_and_jobs_resume_when_it_is_back(gateways, redis):
    gateway = gateways.open(**SLOWLY, job_workers=1)
    at_once = SHORT.ask(gateway.url)
    jobs = [accepted(question.submit(gateway.url)) for question in (LONG, SHORT)]
    running(gateway, jobs[0])
    redis.stop()
    try:
        for answer in (
            SHORT.submit(gateway.url),
            httpx.get(f"{gateway.url}/jobs/{jobs[0]}", timeout=PATIENCE_S),
            result(gateway.url, jobs[0]),
        ):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
        is_the_answer(SHORT.ask(gateway.url), at_once)
        for path in ("healthz", "readyz", "metrics"):
            assert httpx.get(f"{gateway.url}/{path}", timeout=PATIENCE_S).status_code == 200
        until(lambda: gateway.metric("percept_job_store_up") == 0)
        assert gateway.metric('percept_jobs{state="queued"}') is None
    finally:
        redis.start()
    assert outcome(gateway.url, jobs[0]).data["attempt"] == 1  # it was never given up
    assert outcome(gateway.url, jobs[1]).data["attempt"] == 1
    is_the_answer(result(gateway.url, jobs[1]), at_once)
    late = accepted(SHORT.submit(gateway.url))
    assert outcome(gateway.url, late).data["state"] == "succeeded"
    until(lambda: gateway.metric('percept_jobs{state="succeeded"}') == 3)
    assert gateway.metric("percept_job_store_up") == 1


def test_inputs_and_results_in_a_shared_folder(gateways, redis, tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir()
    desk = gateways.open(job_workers=0, job_folder=folder)
    job_id = accepted(SHORT.submit(desk.url))
    assert [path.name for path in folder.iterdir()] == [f"{job_id}.input"]
    engine = gateways.open(job_folder=folder)
    assert outcome(desk.url, job_id).data["state"] == "succeeded"
    is_the_answer(result(desk.url, job_id), SHORT.ask(engine.url))
    until(lambda: [path.suffix for path in folder.iterdir()] == [".result"])
    (kept,) = folder.iterdir()
    assert kept.read_bytes() == result(engine.url, job_id).content
    assert b"NUMPY" not in redis.send(b"KEYS *")
    assert redis.send(b"EXISTS {percept}:result:" + job_id.encode()) == b":0\r\n"


def test_the_job_of_another_key_is_none(gateways, tmp_path):
    secrets, lines = zip(*(new_key(name, {}) for name in ("ann", "ben")), strict=True)
    file = tmp_path / "keys"
    file.write_text("\n".join(lines) + "\n")
    first, second = (gateways.open(api_keys_file=file) for _ in range(2))
    ann, ben = ({"X-API-Key": secret} for secret in secrets)
    job_id = accepted(SHORT.submit(first.url, {**ann, "Idempotency-Key": "one"}))
    address = f"{second.url}/jobs/{job_id}"
    until(lambda: look(second.url, job_id, ann)["state"] == "succeeded")
    for path in ("", "/result", "/events"):
        assert httpx.get(address + path, headers=ann, timeout=PATIENCE_S).status_code == 200
        assert httpx.get(address + path, headers=ben, timeout=PATIENCE_S).status_code == 404
        assert httpx.get(address + path, timeout=PATIENCE_S).status_code == 401
    assert httpx.delete(address, headers=ben, timeout=PATIENCE_S).status_code == 404
    assert accepted(SHORT.submit(second.url, {**ben, "Idempotency-Key": "one"})) != job_id


class _Listener(BaseHTTPRequestHandler):
    """Fails the first call, then keeps what it is told."""

    told: Queue[tuple[dict[str, str], bytes]]
    failures: int

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).failures -= 1
        if type(self).failures < 0:
            self.told.put(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(204 if type(self).failures < 0 else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def listener() -> Iterator[ThreadingHTTPServer]:
    kind = type("Listener", (_Listener,), {"told": Queue(), "failures": 1})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield server
    server.shutdown()
    serving.join()
    server.server_close()


def test_a_finished_job_calls_back_with_a_signature(gateways, listener):
    origin = f"http://127.0.0.1:{listener.server_port}"
    hooks = {"webhook_origins": origin, "webhook_secret": "of the listener"}
    desk = gateways.open(job_workers=0, **hooks)
    gateways.open(**hooks)
    elsewhere = SHORT.submit(desk.url, {"X-Percept-Callback": "http://127.0.0.1:1/done"})
    assert (elsewhere.status_code, elsewhere.json()["field"]) == (422, "X-Percept-Callback")
    job_id = accepted(SHORT.submit(desk.url, {"X-Percept-Callback": f"{origin}/done?x=1"}))
    headers, body = listener.RequestHandlerClass.told.get(timeout=PATIENCE_S)
    said = json.loads(body)
    assert (said["id"], said["state"], headers["x-percept-delivery"]) == (
        job_id,
        "succeeded",
        job_id,
    )
    at, signature = (part.partition("=")[2] for part in headers["x-percept-signature"].split(","))
    expected = hmac.new(b"of the listener", at.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert signature == expected
