"""A small load balancer: whole requests, to the next server where one gives no answer at all."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

_PATIENCE_S = 120.0
_HOP_BY_HOP = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})


class Balancer:
    """Where it listens, and how often a server was passed over; `upstreams` are URLs."""

    def __init__(self, upstreams: Sequence[str]) -> None:
        self._upstreams = upstreams
        self._turns = itertools.count()
        self.num_passed_over = 0
        kind = type("Handler", (_Handler,), {"balancer": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), kind)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def forward(self, request: httpx.Request, path: str) -> httpx.Response | None:
        """Return the first answer that a server begins; None where one breaks off or none begins.

        As `proxy_next_upstream error non_idempotent` of nginx has it.
        """
        first = next(self._turns)
        for turn in range(2 * len(self._upstreams)):
            upstream = self._upstreams[(first + turn) % len(self._upstreams)]
            request.url = httpx.URL(upstream + path)
            with httpx.Client(timeout=_PATIENCE_S) as client:
                try:
                    answer = client.send(request, stream=True)
                except httpx.TransportError:
                    self.num_passed_over += 1
                    continue
                try:
                    answer.read()
                except httpx.TransportError:
                    return None
                return answer
        return None


class _Handler(BaseHTTPRequestHandler):
    balancer: Balancer

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = [(k, v) for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP]
        request = httpx.Request(self.command, "http://upstream", headers=headers, content=body)
        answer = self.balancer.forward(request, self.path)
        self.send_response(502 if answer is None else answer.status_code)
        for name, value in () if answer is None else answer.headers.multi_items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        content = b"" if answer is None else answer.content
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _forward

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def balancing(upstreams: Sequence[str]) -> Iterator[Balancer]:
    """Run a load balancer in a thread."""
    balancer = Balancer(upstreams)
    serving = threading.Thread(target=balancer.server.serve_forever)
    serving.start()
    try:
        yield balancer
    finally:
        balancer.server.shutdown()
        serving.join()
        balancer.server.server_close()
