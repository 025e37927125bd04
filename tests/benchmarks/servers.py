"""The servers that are compared, each in processes of its own on a free port."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

_START_S = 120.0


@dataclass(frozen=True)
class System:
    """How to start a server (but for its port), and where it says that it is ready."""

    name: str
    command: tuple[str, ...]
    ready: str = "/health"


def percept(repository: Path) -> System:
    """The service with its own settings, but that it computes every answer."""
    command = ("service", "serve", "--model-repo", str(repository), "--cache-bytes", "0")
    return System("Percept", command, "/readyz")


def request_level(
    repository: Path, step_rows: int, image_rows: int, batches: Sequence[int]
) -> list[System]:
    """LitServe with each of these batch sizes, where it is installed, and the plain loop."""
    options = [f"--repository={repository}", f"--step-rows={step_rows}"]
    options.append(f"--image-rows={image_rows}")
    systems = [System("FastAPI + loop", ("tests.benchmarks.loop_app", *options))]
    if importlib.util.find_spec("litserve") is not None:
        for size in batches:
            command = ("tests.benchmarks.litserve_app", *options, f"--max-batch-size={size}")
            systems.append(System(f"LitServe, max_batch_size {size}", command))
    return systems


@dataclass(frozen=True)
class Server:
    """A running server: where it answers, its process, and how long it took to say it is ready."""

    url: str
    process: subprocess.Popen[bytes]
    ready_s: float


@contextmanager
def running(system: System) -> Iterator[Server]:
    """Start a server, wait until it is ready, give it out; at the end kill its processes."""
    port, started = _free_port(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *system.command, "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, with the processes that it starts
        )
        url = f"http://127.0.0.1:{port}"
        try:
            if not _becomes_ready(process, f"{url}{system.ready}"):
                log.seek(0)
                raise RuntimeError(f"{system.name} did not start:\n{log.read()[-4000:]}")
            yield Server(url, process, time.perf_counter() - started)
        finally:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _becomes_ready(process: subprocess.Popen[bytes], url: str) -> bool:
    until = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(url, timeout=5).status_code == httpx.codes.OK:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.01)
    return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
