"""Broken files and forms against a server process, over real connections.

Fewer than in process (`PERCEPT_SERVER_FUZZ_CASES`), and what only a socket can do wrong.
"""

import os
import random
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from service.api.problems import Problem
from tests.chaos.fuzz_forms import broken_form
from tests.chaos.fuzz_images import broken_picture
from tests.chaos.memory import children, resident_mb
from tests.e2e.test_server import READY_S, Server, serving
from tests.support.pictures import task_files

NUM_CASES = int(os.environ.get("PERCEPT_SERVER_FUZZ_CASES", "1500"))
SEED = int(os.environ.get("PERCEPT_FUZZ_SEED", "1"))
MAX_GROWTH_MB = 15.0  # after the first third; measured: below 3 MB
DOCUMENTED = {400, 408, 413, 415, 422, 429}


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Server]:
    flags = ("--backend", "analytic", "--max-pixels", "1000000", "--max-upload-bytes", "200000")
    alone = ("--image-threads", "1")  # a second decoder would look like a leak
    with serving(tiny_repository, *flags, *alone, "--upload-timeout-s", "5") as running:
        yield running
        assert running.process.poll() is None
        assert "Traceback" not in "".join(running.log)


def check(answer: httpx.Response, case: str) -> int:
    assert answer.status_code in DOCUMENTED | {200}, (case, answer.status_code, answer.content)
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json", case
        assert Problem.model_validate_json(answer.content).status == answer.status_code, case
    return answer.status_code


def resident(server: Server) -> float:
    held = (resident_mb(pid) for pid in (server.process.pid, *children(server.process.pid)))
    return sum(held)


def test_broken_pictures_and_forms(server):
    statuses: Counter[int] = Counter()
    held = 0.0
    with httpx.Client(base_url=server.url, timeout=READY_S) as client:
        for index in range(NUM_CASES):
            files = {"image": broken_picture(SEED, index)}
            answer = client.post("/depth", files=files, data={"steps": "1"})
            statuses[check(answer, f"picture {SEED} {index}")] += 1
            form = broken_form(SEED, index)
            if form.content_type.strip() == form.content_type:  # else no header at all
                headers = {b"content-type": form.content_type}
                pieces = iter(form.pieces) if index % 2 else b"".join(form.pieces)
                answer = client.post("/depth", content=pieces, headers=headers)
                statuses[check(answer, f"form {SEED} {index}")] += 1
            if index == NUM_CASES // 3:
                held = resident(server)
        answer = client.post("/depth", files=task_files("depth"))
        assert answer.status_code == 200
    grown = resident(server) - held
    assert {200, 400, 415, 422} <= set(statuses), statuses
    assert grown < MAX_GROWTH_MB, f"{grown:.1f} MB more"


FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n'
RAW: Sequence[tuple[str, bytes]] = (
    ("no length at all", FORM + b"\r\n" + PART + b"abc\r\n--x--\r\n"),
    ("a negative length", FORM + b"Content-Length: -5\r\n\r\n" + PART),
    ("a length in words", FORM + b"Content-Length: many\r\n\r\n" + PART),
    ("two lengths", FORM + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + PART),
    ("a length too long to be a number", FORM + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"),
    (
        "length and chunks",
        FORM + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("an unknown coding", FORM + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("chunks of no size", FORM + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"),
    (
        "a chunk beyond all sizes",
        FORM + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
    ),
    ("a header beyond all sizes", b"X-A: " + b"a" * 200_000 + b"\r\n\r\n"),
    ("headers beyond all numbers", b"X-A: a\r\n" * 30_000 + b"\r\n"),
    ("a header with a zero", b"X-A: a\0b\r\n\r\n"),
    ("a coded body", FORM + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\0\0"),
    ("no such protocol", b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"),
)


@pytest.mark.parametrize(("what", "rest"), RAW, ids=[what for what, _ in RAW])
def test_requests_that_no_client_library_sends(server, what, rest):
    request = b"POST /depth HTTP/1.1\r\nHost: x\r\n" + rest
    status = exchange(server, request)
    assert status in DOCUMENTED | {404, 405, 431, 501}, (what, status)


def test_noise_in_place_of_http(server):
    dice = random.Random(SEED)
    for _ in range(50):
        head = dice.choice((b"", b"POST /depth ", b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\n"))
        assert exchange(server, head + dice.randbytes(300) + b"\r\n\r\n") in (0, 400, 404, 405, 408)


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/docs/..%2fmodels", "/\\"],
)
def test_paths_lead_nowhere(server, path):
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    assert exchange(server, request) == 404


def exchange(server: Server, request: bytes) -> int:
    """Send bytes and nothing after them; return the status, 0 for a connection that is closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=READY_S) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before its end
        try:
            answer = connection.recv(65536)
        except ConnectionError:
            return 0
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
