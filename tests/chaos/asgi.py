"""Posts bodies, in any pieces, to an application in this process, at little cost of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    content_type: str
    content: bytes


async def post(app: ASGIApp, path: str, content_type: bytes, pieces: Sequence[bytes]) -> Answer:
    """Send a body of no announced length; then the client waits for its answer."""
    waiting = list(reversed(pieces))
    status, kind, content = 0, "", bytearray()

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()  # a client that waits says nothing
        body = waiting.pop()
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        nonlocal status, kind
        if message["type"] == "http.response.start":
            status = message["status"]
            kind = dict(message["headers"]).get(b"content-type", b"").decode()
        else:
            content.extend(message.get("body", b""))

    await app(_scope(path, content_type), receive, send)
    return Answer(status, kind, bytes(content))


def _scope(path: str, content_type: bytes) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"percept"), (b"content-type", content_type)],
        "client": ("127.0.0.1", 1),
        "server": ("percept", 80),
    }
