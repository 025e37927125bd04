"""A real Redis of a test's own, on a unix socket, that can be killed and started again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

READY_S = 60.0


def require_redis() -> None:
    """Skip where there is no redis-server; under CI=true that is a failure."""
    if shutil.which("redis-server") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")


class RedisServer:
    """A process that keeps all it has answered: `stop` kills it, `start` brings it back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self, *options: str) -> None:
        """Start and wait until it answers."""
        self._process = subprocess.Popen(
            [
                "redis-server",
                *("--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._folder)),
                *("--save", "", "--appendonly", "yes", "--logfile", "redis.log"),
                *options,
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + READY_S
        while self.send(b"PING") != b"+PONG\r\n":
            assert self._process.poll() is None, (self._folder / "redis.log").read_text()
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def stop(self) -> None:
        """SIGKILL it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def flush(self) -> None:
        """Forget everything."""
        assert self.send(b"FLUSHALL") == b"+OK\r\n"

    def send(self, command: bytes) -> bytes:
        """Return the answer to a command, or nothing where nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(READY_S)
                connection.connect(str(self._socket))
                connection.sendall(command + b"\r\n")
                return connection.recv(1 << 20)
        except (ConnectionError, FileNotFoundError):
            return b""
