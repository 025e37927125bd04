"""A real server process over real HTTP, from `percept serve` to SIGTERM."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service.core.tasks import TASKS
from tests.support.pictures import decode, encode, gradient, task_files

READY_S = 60.0
LONG = {"steps": "200", "ensemble": "20"}


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    port: int
    log: list[str]
    reader: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(repository: Path, *flags: str, module: str = "service") -> Iterator[Server]:
    command = [sys.executable, "-m", module, "serve", "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        [*command, "--model-repo", str(repository), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
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
        yield Server(process, port, log, reader)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Server]:
    with serving(tiny_repository, "--max-upload-bytes", "3000000") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=READY_S) as client:
        yield client


def test_every_question(client):
    for task in TASKS:
        answer = client.post(f"/{task}", files=task_files(task))
        assert answer.status_code == 200, answer.text
        assert decode(answer.content).size == (96, 80)
    assert client.get("/readyz").status_code == 200
    assert client.get("/docs").status_code == 200


def test_keep_alive_survives_errors(client):
    assert client.post("/depth", files={"image": b"x"}).status_code == 415
    assert client.post("/depth", files=task_files("depth")).status_code == 200
    assert client.post("/depth", files=task_files("depth"), data={"x": "1"}).status_code == 422
    assert client.post("/depth", files=task_files("depth")).status_code == 200


@pytest.mark.parametrize("num_bytes", [3_000_001, 8_000_000, 30_000_000])
def test_a_client_that_sends_too_much_gets_to_read_its_answer(client, num_bytes):
    """A server that closed at once would make the client's write fail before it reads."""
    answer = client.post("/depth", files={"image": bytes(num_bytes)})
    assert answer.status_code == 413
    said = answer.json()
    assert (said["field"], said["limit"]) == ("image", "3000000 bytes")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/dept", 404), ("PUT", "/depth", 405)]
)
def test_an_upload_to_a_wrong_address_gets_to_read_its_answer(client, method, path, status):
    answer = client.request(method, path, files={"image": bytes(8_000_000)})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def exchange(server: Server, request: bytes) -> bytes:
    """Send raw bytes; return what comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=READY_S) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


FORM_HEAD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n'


def test_a_chunked_body_cannot_pass_the_limit(server):
    chunk = bytes(50_000)
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [FORM_HEAD, *[chunk] * 70])
    answer = exchange(
        server,
        b"POST /depth HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + pieces + b"0\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer


def test_a_content_length_that_lies_is_an_error_not_a_hang(server):
    """Less is announced than sent: the form ends early, whatever follows on the wire."""
    body = FORM_HEAD + encode(gradient()) + b"\r\n--x--\r\n"
    answer = exchange(
        server,
        b"POST /depth HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 200\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + body,
    )
    assert answer.startswith(b"HTTP/1.1 400")


def test_expect_continue_is_refused_before_the_body(tiny_repository):
    with serving(tiny_repository, "--max-concurrent-requests", "1") as small:
        busy = threading.Thread(target=ask_and_ignore, args=(small,), daemon=True)
        busy.start()
        wait_for_metric(small, "percept_requests_in_flight", 1)
        answer = exchange(
            small,
            b"POST /depth HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: 2000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n",
        )
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"retry-after" in answer.lower()


def ask_and_ignore(server: Server) -> None:
    with suppress(httpx.TransportError):  # the server is stopped under it
        httpx.post(f"{server.url}/depth", files=task_files("depth"), data=LONG, timeout=READY_S)


def read_metric(server: Server, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=READY_S).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def wait_for_metric(server: Server, name: str, value: float) -> None:
    deadline = time.monotonic() + READY_S
    while read_metric(server, name) != value:
        assert time.monotonic() < deadline, f"{name} never became {value}"


def test_a_client_that_hangs_up_frees_its_place(server):
    request = httpx.Request("POST", f"{server.url}/depth", files=task_files("depth"), data=LONG)
    body = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    gone = 'percept_http_requests_total{route="/depth",status="499"}'
    before = read_metric(server, gone)
    with socket.create_connection(("127.0.0.1", server.port), timeout=READY_S) as connection:
        connection.sendall(f"POST /depth HTTP/1.1\r\n{head}\r\n".encode() + body)
        wait_for_metric(server, "percept_requests_in_flight", 1)
    wait_for_metric(server, "percept_requests_in_flight", 0)
    wait_for_metric(server, gone, before + 1)


def test_terminating_finishes_what_is_in_work(tiny_repository):
    answers: list[httpx.Response] = []

    def ask(running: Server) -> None:
        url = f"{running.url}/depth"
        data = {"steps": "200", "ensemble": "10"}
        answers.append(httpx.post(url, files=task_files("depth"), data=data, timeout=READY_S))

    with serving(tiny_repository) as running:
        asking = threading.Thread(target=ask, args=(running,), daemon=True)
        asking.start()
        wait_for_metric(running, "percept_requests_in_flight", 1)
        running.process.send_signal(signal.SIGTERM)
        asking.join(READY_S)
        assert [answer.status_code for answer in answers] == [200]
        running.process.wait(READY_S)
        assert "Traceback" not in "".join(running.log)


def test_terminating_tells_those_it_gives_up(tiny_repository):
    """An upload that never ends outlives any grace."""
    head = b"POST /depth HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n"
    with serving(tiny_repository, "--shutdown-grace-s", "0") as running:
        address = ("127.0.0.1", running.port)
        with socket.create_connection(address, timeout=READY_S) as connection:
            kind = b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            connection.sendall(head + kind + FORM_HEAD)
            wait_for_metric(running, "percept_requests_in_flight", 1)
            running.process.send_signal(signal.SIGTERM)
            assert connection.recv(65536).startswith(b"HTTP/1.1 503")
        running.process.wait(READY_S)
        assert "Traceback" not in "".join(running.log)


def test_a_server_that_cannot_start_says_why(tmp_path):
    command = [sys.executable, "-m", "service", "serve", "--model-repo", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=READY_S, check=False)
    assert done.returncode == 1
    assert "artifact.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "environment"),
    [(["--port", "far"], {}), ([], {"PERCEPT_PORT": "far"})],
)
def test_a_wrong_setting_is_named(flags, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "service", "serve", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=READY_S, check=False)
    assert done.returncode == 2
    assert "port" in done.stderr
    assert "Traceback" not in done.stderr
