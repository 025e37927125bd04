"""Connections whose request never comes: closed in time, as the server below does not do."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from service.api.problems import MEDIA_TYPE, Problem
from service.errors import UploadTooSlow


def punctual(timeout_s: float) -> type[H11Protocol]:
    """Return a protocol for uvicorn: headers that take longer get 408, silence nothing."""
    return type("Punctual", (_Punctual,), {"timeout_s": timeout_s})


class _Punctual(H11Protocol):
    """One connection. A clock runs from its first moment, and from each next request's first byte,
    until the headers are complete; what a body may take is for the routes to say.
    """

    timeout_s: float
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answers():
            self._stop_clock()
        elif self._clock is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def _answers(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _wait_for_head(self) -> None:
        self._clock = self.loop.call_later(self.timeout_s, self._give_up)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _give_up(self) -> None:
        self._clock = None
        if self._answers() or self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self.transport.write(_too_slow(self.timeout_s))
        self.transport.close()


def _too_slow(timeout_s: float) -> bytes:
    status = UploadTooSlow.status
    problem = Problem(
        title=UploadTooSlow.title,
        status=status,
        detail="The headers did not arrive in time",
        limit=f"{timeout_s:g} s",
    )
    body = problem.model_dump_json(exclude_none=True).encode()
    head = f"HTTP/1.1 {status} Request Timeout\r\nContent-Type: {MEDIA_TYPE}\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
