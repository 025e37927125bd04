"""A real Redis of one's own, on a free port, without persistence."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_READY_S = 30.0


@contextmanager
def local_redis() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address and its process. Skips where there is none, and fails instead in CI."""
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen([*command, "--appendonly", "no"], stdout=subprocess.DEVNULL)
    try:
        _await_answer(port)
        yield f"redis://127.0.0.1:{port}/0", process
    finally:
        process.kill()
        process.wait()


def _await_answer(port: int) -> None:
    give_up = time.monotonic() + _READY_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=_READY_S) as connection:
                connection.sendall(b"PING\r\n")
                assert connection.recv(7) == b"+PONG\r\n"
                return
        except ConnectionRefusedError:
            assert time.monotonic() < give_up, "Redis did not start"
            time.sleep(0.01)
