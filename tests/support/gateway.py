"""A gateway process, `percept serve`, for tests over real HTTP."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

PATIENCE_S = 120.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Gateway:
    """One that listens; `log` grows."""

    process: subprocess.Popen[str]
    port: int
    log: list[str]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        """Whether it says so."""
        return httpx.get(f"{self.url}/readyz", timeout=PATIENCE_S).status_code == 200

    def wait_ready(self, ready: bool = True) -> None:
        """Return when it is ready, or is so no more."""
        self.wait(lambda: self.ready() is ready, f"ready: {ready}")

    def wait_log(self, text: str) -> None:
        """Return when it has logged something."""
        self.wait(lambda: text in "".join(self.log), f"{text!r} in the log")

    def wait(self, holds, what: str) -> None:
        """Return when a condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(f"never came {what}:\n{''.join(self.log)}")
            time.sleep(_POLL_S)


@contextmanager
def gateway(**settings: object) -> Iterator[Gateway]:
    """A process with these settings, listening; it is killed at the end.

    It computes every answer, unless told to keep some.
    """
    chosen = {"cache_bytes": 0, **settings}
    environment = {f"PERCEPT_{name.upper()}": str(value) for name, value in chosen.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        assert process.stdout is not None
        log: list[str] = []
        port = None
        for line in process.stdout:
            log.append(line)
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                port = int(found[1])
                break
        assert port is not None, "".join(log)
        reader = threading.Thread(target=log.extend, args=(process.stdout,), daemon=True)
        reader.start()
        yield Gateway(process, port, log)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
