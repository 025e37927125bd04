"""Sends an answer at its reader's pace: what a slow or absent reader may hold, and how long."""

import asyncio
from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_PIECE_BYTES = 256 * 2**10  # what may wait in a connection's buffer, whatever the answer's size


class Delivery(Response):
    """An answer in pieces, each sent when the last one is taken; one too slow is broken off.

    `delivered` is called when the answer is out, or broken off, or its reader has hung up.
    """

    def __init__(
        self,
        content: bytes,
        *,
        media_type: str,
        headers: Mapping[str, str],
        timeout_s: float,
        delivered: Callable[[], None],
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._timeout_s = timeout_s
        self._delivered = delivered

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        """Send status, headers and pieces."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(send)
        except TimeoutError:
            return  # an answer that is not complete makes the server close the connection
        finally:
            self._delivered()

    async def _send(self, send: Send) -> None:
        content = memoryview(self.body)
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        for begin in range(0, len(content), _PIECE_BYTES):
            piece = bytes(content[begin : begin + _PIECE_BYTES])
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
