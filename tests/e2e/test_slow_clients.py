"""Clients that open a connection and take their time: each is let go, and nobody else waits."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.api.problems import Problem
from tests.e2e.test_server import READY_S, Server, serving
from tests.support.pictures import task_files

HEAD = b"POST /depth HTTP/1.1\r\nHost: x\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Server]:
    with serving(tiny_repository, "--upload-timeout-s", "1") as running:
        yield running


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def problem_of(answer: bytes) -> Problem:
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 408"), answer
    assert b"application/problem+json" in head
    return Problem.model_validate_json(body)


@pytest.mark.parametrize("sent", [b"P", HEAD, HEAD + b"X-A: " + b"b" * 1000])
def test_headers_that_never_end(server, sent):
    with socket.create_connection(("127.0.0.1", server.port), timeout=READY_S) as connection:
        connection.sendall(sent)
        assert problem_of(until_closed(connection)).limit == "1 s"


def test_silence_is_closed(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=READY_S) as connection:
        assert until_closed(connection) == b""


@pytest.mark.parametrize("length", [b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("sent", [b"", b"3\r\n--x\r\n"])
def test_bodies_that_never_end(server, length, sent):
    with socket.create_connection(("127.0.0.1", server.port), timeout=READY_S) as connection:
        connection.sendall(HEAD + FORM + length + b"\r\n" + sent)
        answer = connection.recv(65536)
        assert answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400")), answer


def test_the_next_request_of_a_connection_is_timed_too(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=READY_S) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /heal")
        assert b"HTTP/1.1 408" in until_closed(connection)


def test_two_hundred_that_drip_cost_the_others_nothing(server):
    """Each has sent a part of its headers; a server with a place per connection would be full."""
    address = ("127.0.0.1", server.port)
    slow = [socket.create_connection(address, timeout=READY_S) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(HEAD)
        answer = httpx.post(f"{server.url}/depth", files=task_files("depth"), timeout=READY_S)
        assert answer.status_code == 200
        for connection in slow:
            problem_of(until_closed(connection))
    finally:
        for connection in slow:
            connection.close()


def test_a_long_answer_is_not_cut_by_the_clock_of_heads(server):
    data = {"steps": "200", "ensemble": "20"}
    with httpx.Client(base_url=server.url, timeout=READY_S) as client:
        for _ in range(2):
            answer = client.post("/depth", files=task_files("depth"), data=data)
            assert answer.status_code == 200
