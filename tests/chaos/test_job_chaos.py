"""Gateways and Redis are killed at random while asynchronous calls come in: none may be lost.

`PERCEPT_CHAOS_KILLS` and `PERCEPT_CHAOS_SEED` choose how many kills and which; `-s` shows figures.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pytest

from tests.support.job_gateways import Gateway, Question, follow, result, until
from tests.support.redis_server import RedisServer, require_redis
from tests.support.served import read_npz

KILLS = int(os.environ.get("PERCEPT_CHAOS_KILLS", "20"))
SEED = int(os.environ.get("PERCEPT_CHAOS_SEED", "1"))
NUM_GATEWAYS = 3
NUM_CLIENTS = 4
LEASE_S = 2
REDIS_SHARE = 0.25  # of the kills
PAUSE_SHARE = 0.1  # of the rounds a gateway is stopped for longer than its lease, not killed
QUESTIONS = tuple(
    Question.of(task, seed=seed, steps=steps, ensemble=4)
    for task, steps in (("depth", 5), ("depth", 40), ("flow", 25), ("amodal", 30))
    for seed in (1, 2, 3)
)


@dataclass
class Ledger:
    """What clients were promised and got."""

    jobs: dict[str, tuple[str, Question]] = field(default_factory=dict)  # by idempotency key
    answers: dict[str, str] = field(default_factory=dict)  # digest of the answer, by job
    said: Counter[str] = field(default_factory=Counter)


class Client(threading.Thread):
    """Submits one job after another, each until it is accepted, and looks at it until it ends."""

    def __init__(self, number: int, gateways: list[Gateway], ledger: Ledger) -> None:
        super().__init__(name=f"client-{number}")
        self._number = number
        self._gateways = gateways
        self._ledger = ledger
        self._random = random.Random(SEED * 1000 + number)
        self.stopping = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for count in itertools.count():
                if self.stopping.is_set():
                    return
                self._call(f"{self._number}-{count}", self._random.choice(QUESTIONS))
        except BaseException as error:  # noqa: BLE001, told by the main thread
            self.error = error

    def _call(self, key: str, question: Question) -> None:
        answer = None
        while answer is None:
            answer = self._try(
                lambda url: question.submit(url, {"Idempotency-Key": key}), expected=202
            )
        job_id = answer.json()["id"]
        self._ledger.jobs[key] = job_id, question
        if self._random.random() < 0.5:  # the other half is looked at when all is over
            return
        answer = None
        while answer is None and not self.stopping.is_set():
            answer = self._try(lambda url: result(url, job_id), expected=200)
        if answer is not None:
            self._ledger.answers[job_id] = hashlib.sha256(answer.content).hexdigest()

    def _try(self, call, expected: int) -> httpx.Response | None:
        """Ask some gateway; None where it is gone, or says to come again."""
        try:
            answer = call(self._random.choice(self._gateways).url)
        except httpx.TransportError:
            self._ledger.said["no answer"] += 1
            answer = None
        if answer is not None and answer.status_code != expected:
            self._ledger.said[str(answer.status_code)] += 1
            assert answer.status_code in (409, 429, 503), answer.text
            assert int(answer.headers["retry-after"]) >= 1
            answer = None
        if answer is None:
            self.stopping.wait(self._random.uniform(0.02, 0.2))
        return answer


class Chaos:
    """Kills, and starts again at once."""

    def __init__(self, gateways: list[Gateway], redis: RedisServer) -> None:
        self._gateways = gateways
        self._redis = redis
        self._random = random.Random(SEED)
        self._paused: list[tuple[float, Gateway]] = []
        self.did: Counter[str] = Counter()

    def kill(self) -> None:
        """Kill one that is up, at a moment of no meaning."""
        time.sleep(self._random.uniform(0.0, 0.6))
        self._wake(time.monotonic())
        if self._random.random() < REDIS_SHARE:
            self._redis.stop()
            time.sleep(self._random.choice((0.0, 0.0, 0.5, 3.0)))
            self._redis.start("--appendfsync", "always")
            self.did["Redis killed"] += 1
            return
        victim = until(self._choose)
        assert victim is not None
        if self._random.random() < PAUSE_SHARE:
            victim.signal(signal.SIGSTOP)
            self._paused.append((time.monotonic() + 1.5 * LEASE_S, victim))
            self.did["gateway paused"] += 1
            return
        victim.kill()
        victim.launch()
        self.did["gateway killed"] += 1

    def end(self) -> None:
        """Let everything run."""
        self._wake(float("inf"))

    @property
    def num_kills(self) -> int:
        return self.did["Redis killed"] + self.did["gateway killed"]

    def _choose(self) -> Gateway | None:
        paused = [gateway for _, gateway in self._paused]
        self._wake(time.monotonic())
        up = [gateway for gateway in self._gateways if gateway not in paused and is_up(gateway)]
        return self._random.choice(up) if up else None

    def _wake(self, now: float) -> None:
        for until_s, gateway in [*self._paused]:
            if until_s <= now:
                gateway.signal(signal.SIGCONT)
                self._paused.remove((until_s, gateway))


def is_up(gateway: Gateway) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{gateway.url}/healthz", timeout=1).status_code == 200
    return False


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    require_redis()
    with TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start("--appendfsync", "always")
        yield server
        server.stop()


@pytest.fixture
def gateways(tiny_repository: Path, redis: RedisServer, tmp_path: Path) -> Iterator[list[Gateway]]:
    settings = {
        "redis_url": redis.url,
        "job_lease_s": LEASE_S,
        "job_attempts": 100,  # it is not the jobs that kill
        "job_workers": 3,
        "cache_bytes": 0,  # or most answers would be found
        "max_batch_rows": 2,  # so that jobs take a while
        "image_threads": 1,
    }
    opened = [
        Gateway(tiny_repository, tmp_path / f"gateway-{number}.log", **settings)
        for number in range(NUM_GATEWAYS)
    ]
    for gateway in opened:
        gateway.launch()
    yield [gateway.await_address() for gateway in opened]
    for gateway in opened:
        gateway.close()


def num_jobs(gateway: Gateway) -> float:
    """All that the store knows, in whatever state."""
    states = ("queued", "running", "succeeded", "failed", "cancelled")
    return sum(gateway.metric(f'percept_jobs{{state="{state}"}}') or 0.0 for state in states)


def check_job(job_id: str, question: Question, gateways: list[Gateway], ledger: Ledger) -> float:
    """Hold one job against its promise; return how far its answer is from the undisturbed one."""
    first, second = random.sample(gateways, 2)
    course = [*follow(first.url, job_id)]
    ids = [event.id for event in course]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert [event.name for event in course].count("end") == 1
    assert course[-1].name == "end"
    assert course[-1].data["state"] == "succeeded", course[-1]
    answers = [result(gateway.url, job_id) for gateway in (first, second)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    seen = hashlib.sha256(answers[0].content).hexdigest()
    assert ledger.answers.get(job_id, seen) == seen
    ledger.said[f"attempt {course[-1].data['attempt']}"] += 1
    got, expected = (read_npz(content) for content in (answers[0].content, UNDISTURBED[question]))
    assert got.keys() == expected.keys()
    return float(np.abs(got["prediction"] - expected["prediction"]).max())


UNDISTURBED: dict[Question, bytes] = {}


def test_no_accepted_job_is_lost_and_none_is_answered_twice(gateways, redis):
    for question in QUESTIONS:
        answer = question.ask(gateways[0].url)
        assert answer.status_code == 200, answer.text
        UNDISTURBED[question] = answer.content
    ledger, chaos, begun = Ledger(), Chaos(gateways, redis), time.monotonic()
    clients = [Client(number, gateways, ledger) for number in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    try:
        while chaos.num_kills < KILLS:
            chaos.kill()
            assert all(client.is_alive() for client in clients), [c.error for c in clients]
    finally:
        chaos.end()
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join()
    assert [client.error for client in clients] == [None] * NUM_CLIENTS
    until(lambda: all(is_up(gateway) for gateway in gateways))
    chaos_s = time.monotonic() - begun
    jobs = [*ledger.jobs.values()]
    assert len({job_id for job_id, _ in jobs}) == len(jobs)
    distances = [check_job(*job, gateways, ledger) for job in jobs]
    assert max(distances) < 1e-4
    # every key is one job, also where the answer to its submission was lost
    until(lambda: gateways[0].metric('percept_jobs{state="succeeded"}') == len(jobs))
    assert num_jobs(gateways[0]) == len(jobs)
    assert gateways[0].metric('percept_jobs{state="running"}') == 0
    print(  # noqa: T201
        f"\n{dict(chaos.did)} in {chaos_s:.0f} s, seed {SEED}: {len(jobs)} jobs accepted, all"
        f" answered, farthest {max(distances):.1e} from undisturbed,"
        f" {sum(d == 0 for d in distances)} equal in every bit; {dict(ledger.said)}"
    )
