"""Real Triton servers for tests: started, paused, killed and put at fault.

They run `docker/triton/serve.py` in the environment that `make test` installs. Every loopback
address works (127.0.0.1, 127.0.0.2, ...), so one name may stand for several servers of one port.
"""

import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BACKEND = ROOT / "docker" / "triton" / "onnxruntime"
FAULTY_BACKEND = ROOT / "tests" / "support" / "faulty_triton" / "onnxruntime"
READY_S = 120.0
STOP_S = 60.0
_POLL_S = 0.05
_SHARED_MEMORY = re.compile(r"/dev/shm/(triton\w*backend_shm_region\S*)")


def triton_python() -> Path:
    """The Python of Triton's environment; skips the test where there is none, fails in CI.

    TRITON_VENV names another environment than `.venv-triton`.
    """
    venv = Path(os.environ.get("TRITON_VENV", ROOT / ".venv-triton"))
    if not list(venv.glob("lib/python*/site-packages/pytriton/tritonserver/bin/tritonserver")):
        reason = f"no Triton server in {venv}: `make triton-for-tests` installs one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return venv / "bin" / "python"


@dataclass(frozen=True)
class Ports:
    """Where one server listens, on its address."""

    grpc: int
    http: int
    metrics: int


def free_ports(address: str = "127.0.0.1", *, grpc: int | None = None) -> Ports:
    """Ports that nothing listens on now; `grpc` is taken as given."""
    with ExitStack() as stack:
        found = []
        for _ in range(3):
            listener = stack.enter_context(socket.socket())
            listener.bind((address, 0))
            found.append(listener.getsockname()[1])
    return Ports(grpc or found[0], found[1], found[2])


@dataclass
class TritonServer:
    """One server process, and the processes of its backends, in a process group of their own.

    Start it with `start`; the same address and ports serve again after `kill` or `stop`.
    `fault_file` has a meaning for a server that was made with `faulty`.
    """

    repository: Path
    folder: Path  # for its log, backends and control file
    address: str
    ports: Ports
    faulty: bool = False
    options: tuple[str, ...] = ()  # of serve.py, or after "--" of tritonserver
    threads: int | None = 1  # of every instance; None: the cores divided among them
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """ "address:port" of gRPC."""
        return f"{self.address}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        """ "http://address:port"."""
        return f"http://{self.address}:{self.ports.http}"

    @property
    def metrics_url(self) -> str:
        """The page of Triton's own metrics."""
        return f"http://{self.address}:{self.ports.metrics}/metrics"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server itself."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def log(self) -> Path:
        """All that it ever wrote."""
        return self.folder / f"triton-{self.address}-{self.ports.grpc}.log"

    @property
    def fault_file(self) -> Path:
        """What is wrong with a faulty server; see `faulty_triton/onnxruntime/model.py`."""
        return self.folder / f"fault-{self.address}-{self.ports.grpc}"

    def fault(self, words: str = "", *models: str) -> None:
        """From now on answer with a fault: "error", "nan", "slow 2.5", "hang"; "" is none."""
        assert self.faulty, "made without faults"
        fresh = self.fault_file.with_suffix(".new")
        fresh.write_text("\n".join([words, *([" ".join(models)] if models else [])]))
        fresh.replace(self.fault_file)

    def is_holding(self) -> bool:
        """Whether a batch hangs in a backend now, by `fault("hang")`."""
        return self.fault_file.with_name(self.fault_file.name + ".held").exists()

    def num_pending(self, folder: str) -> int:
        """Calls of a model that no instance has taken yet."""
        with urllib.request.urlopen(self.metrics_url, timeout=READY_S) as answer:
            page = answer.read().decode()
        counts = [
            float(line.split()[-1])
            for line in page.splitlines()
            if line.startswith("nv_inference_pending_request_count{") and f'"{folder}"' in line
        ]
        return int(sum(counts))

    def start(self, *, wait: bool = True) -> None:
        """Start it, and `wait` until it is ready."""
        command = [
            str(triton_python()),
            str(ROOT / "docker" / "triton" / "serve.py"),
            *("--repository", str(self.repository), "--address", self.address),
            *("--grpc-port", str(self.ports.grpc), "--http-port", str(self.ports.http)),
            *("--metrics-port", str(self.ports.metrics), "--exit-timeout-s", "20"),
            *("--backends", str(self.folder / f"backends-{'faulty' if self.faulty else 'real'}")),
            *("--onnxruntime", str(FAULTY_BACKEND if self.faulty else BACKEND)),
            *self.options,
        ]
        environment = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            "PERCEPT_TRITON_THREADS": str(self.threads or ""),
            "PERCEPT_TEST_BACKEND": str(BACKEND),
            "PERCEPT_TEST_FAULT": str(self.fault_file),
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Return once it answers that it and all its models are ready; fail when it ends."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_POLL_S)
                pytest.fail(f"Triton ended with {self.process.returncode}:\n{self._last_words()}")
            if time.monotonic() > deadline:
                pytest.fail(f"Triton is not ready after {timeout_s} s:\n{self._last_words()}")

    def is_ready(self) -> bool:
        """Whether it answers, and says that it is ready."""
        try:
            with urllib.request.urlopen(f"{self.http_url}/v2/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def pause(self) -> None:
        """Stop the server and its backends as a stuck machine does: connections stay open."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it was paused."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> int:
        """Ask it to end after the requests in work (SIGTERM); returns its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, to the server and its backends; nothing when it was never started."""
        if self._process is None:
            return
        shared = self._shared_memory()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for path in shared:  # nobody else would ever free them
            path.unlink(missing_ok=True)

    def _shared_memory(self) -> list[Path]:
        try:
            maps = Path(f"/proc/{self.process.pid}/maps").read_text()
        except OSError:
            return []
        return [Path("/dev/shm") / name for name in set(_SHARED_MEMORY.findall(maps))]

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]


@contextmanager
def triton_server(
    repository: Path,
    folder: Path,
    *,
    address: str = "127.0.0.1",
    grpc_port: int | None = None,
    faulty: bool = False,
    options: tuple[str, ...] = (),
    threads: int | None = 1,
) -> Iterator[TritonServer]:
    """A server that is ready; it is killed at the end, whatever the test made of it."""
    triton_python()
    ports = free_ports(address, grpc=grpc_port)
    server = TritonServer(repository, folder, address, ports, faulty, options, threads)
    try:
        server.start()
        yield server
    finally:
        server.kill()
