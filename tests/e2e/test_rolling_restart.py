"""Two gateways behind a load balancer are restarted one after the other under load."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.job_gateways import (
    PATIENCE_S,
    Gateway,
    Question,
    accepted,
    outcome,
    result,
    until,
)
from tests.support.proxy import balancing
from tests.support.redis_server import RedisServer, require_redis

NUM_CLIENTS = 4
CALLS_BETWEEN = 10  # answered before the next gateway is stopped
QUESTIONS = (
    Question.of("depth", seed=1, steps=5, ensemble=3),
    Question.of("flow", seed=1, steps=50, ensemble=4),
)


@pytest.fixture
def gateways(tiny_repository: Path, tmp_path: Path) -> Iterator[list[Gateway]]:
    require_redis()
    with TemporaryDirectory() as folder:
        redis = RedisServer(Path(folder))
        redis.start()
        settings = {"redis_url": redis.url, "job_lease_s": 600, "cache_bytes": 0}
        opened = [
            Gateway(tiny_repository, tmp_path / f"gateway-{number}.log", **settings)
            for number in range(2)
        ]
        for gateway in opened:
            gateway.launch()
        yield [gateway.await_address() for gateway in opened]
        for gateway in opened:
            gateway.close()
        redis.stop()


@dataclass
class Load:
    """Calls of several clients, synchronous and asynchronous in turn; mutable."""

    url: str
    stopping: threading.Event = field(default_factory=threading.Event)
    statuses: list[int] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)

    def run(self) -> None:
        for question, is_job in itertools.cycle(itertools.product(QUESTIONS, (False, True))):
            if self.stopping.is_set():
                return
            answer = question.submit(self.url) if is_job else question.ask(self.url)
            self.statuses.append(answer.status_code)
            if is_job:
                self.jobs.append(accepted(answer))

    def more(self) -> None:
        """Wait until some more calls were answered."""
        wanted = len(self.statuses) + CALLS_BETWEEN
        until(lambda: len(self.statuses) >= wanted)


def test_a_rolling_restart_drops_nothing(gateways):
    with balancing([gateway.url for gateway in gateways]) as balancer:
        load = Load(balancer.url)
        clients = [threading.Thread(target=load.run) for _ in range(NUM_CLIENTS)]
        for client in clients:
            client.start()
        try:
            load.more()
            for gateway in gateways:
                gateway.signal(signal.SIGTERM)
                gateway.process.wait(PATIENCE_S)
                load.more()  # while the other is alone
                gateway.start()
                load.more()
        finally:
            load.stopping.set()
            for client in clients:
                client.join()
        assert set(load.statuses) == {200, 202}
        assert balancer.num_passed_over > 0
        for job_id in load.jobs:
            assert outcome(balancer.url, job_id).data["state"] == "succeeded"
            assert result(balancer.url, job_id).status_code == 200
    for gateway in gateways:
        assert "Traceback" not in gateway.log, gateway.log
