"""Gateways as processes of their own, that share a Redis and can be killed; and clients of jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.support.pictures import task_files

T = TypeVar("T")

PATIENCE_S = 120.0
_LOOK_S = 0.02
_ADDRESS = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
_ASYNC = {"Prefer": "respond-async"}


class Gateway:
    """`percept serve` with a setting per keyword; a second `start` is on the same port."""

    def __init__(self, repository: Path, log: Path, **settings: object) -> None:
        self._log = log
        self._settings = {"model_repo": repository, "port": 0, "threads": 1, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._launched = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Address of a gateway that has been up once."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All that it has printed, over all its lives."""
        return self._log.read_text()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The present life."""
        assert self._process is not None
        return self._process

    def launch(self) -> None:
        """Start it without waiting."""
        self._launched = self._num_lives() + 1
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self._settings.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve", *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, with the processes that it starts
            )

    def start(self) -> Gateway:
        """Start it and wait until it listens."""
        self.launch()
        return self.await_address()

    def await_address(self) -> Gateway:
        """Wait until a gateway that was launched listens."""
        until(lambda: self._ended() or self._num_lives() == self._launched)
        assert not self._ended(), self.log
        self.port = self._settings["port"] = int(_ADDRESS.findall(self.log)[-1])
        return self

    def kill(self) -> None:
        """SIGKILL it, as a lack of memory would."""
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def close(self) -> None:
        """Leave nothing of it behind."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def metric(self, sample: str) -> float | None:
        """Return one sample of its metrics, None where there is no such."""
        text = httpx.get(f"{self.url}/metrics", timeout=PATIENCE_S).text
        found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
        return None if found is None else float(found[1])

    def _num_lives(self) -> int:
        return len(_ADDRESS.findall(self.log)) if self._log.exists() else 0

    def _ended(self) -> bool:
        return self.process.poll() is not None


def until(look: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Look again and again until something true is seen, and return it."""
    deadline = time.monotonic() + patience_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{look} saw nothing in {patience_s} s"
        time.sleep(_LOOK_S)
    return seen


@dataclass(frozen=True)
class Question:
    """A call of one task; equal ones with a seed have equal answers."""

    task: str
    fields: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, task: str, **fields: object) -> Question:
        """Return a question whose answer is arrays."""
        return cls(task, (("output", "npz"), *((k, str(v)) for k, v in fields.items())))

    def ask(self, url: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Call synchronously."""
        return httpx.post(
            f"{url}/{self.task}",
            files=task_files(self.task),
            data=dict(self.fields),
            headers=dict(headers or {}),
            timeout=PATIENCE_S,
        )

    def submit(self, url: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Call asynchronously."""
        return self.ask(url, {**_ASYNC, **(headers or {})})


def accepted(answer: httpx.Response) -> str:
    """Return the id of the job that an asynchronous call has become."""
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    assert answer.headers["location"] == f"/jobs/{job_id}"
    return job_id


def look(url: str, job_id: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a gateway says of a job."""
    answer = httpx.get(f"{url}/jobs/{job_id}", headers=dict(headers or {}), timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def result(url: str, job_id: str) -> httpx.Response:
    """The answer of a job."""
    return httpx.get(f"{url}/jobs/{job_id}/result", timeout=PATIENCE_S)


@dataclass(frozen=True)
class Event:
    """A Server-Sent Event of a job."""

    id: int
    name: str
    data: dict[str, Any]


def follow(url: str, job_id: str, after: int | None = None) -> Iterator[Event]:
    """Yield the events of a job as they come, until the stream ends; may raise TransportError."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    address = f"{url}/jobs/{job_id}/events"
    with httpx.stream("GET", address, headers=headers, timeout=PATIENCE_S) as stream:
        assert stream.status_code == 200
        said: dict[str, str] = {}
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if not line and said:
                yield Event(int(said["id"]), said["event"], json.loads(said["data"]))
                said = {}
            elif name:
                said[name] = value


def outcome(url: str, job_id: str) -> Event:
    """Wait for the end of a job and return its event."""
    *_, last = follow(url, job_id)
    assert last.name == "end"
    return last
