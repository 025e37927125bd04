"""Names every request, so that an answer, its log lines and its trace can be brought together."""

import logging
import re
import secrets
import time
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.identity import identity_of
from service.logs import request_id

HEADER = "X-Request-Id"
_SANE = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")  # what may stand in a log as it is
_ID_BYTES = 16
_MAX_PATH_CHARS = 200
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})

_log = logging.getLogger(__name__)


class NameRequests:
    """ASGI middleware: a request keeps the id that it came with, if that is one, or gets one.

    With `log_requests` each is logged when it is answered, probes as debugging.
    """

    def __init__(self, app: ASGIApp, *, log_requests: bool) -> None:
        self._app = app
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        # Not reset at the end: the answer to a fault of ours is made further out.
        request_id.set(given if _SANE.fullmatch(given) else secrets.token_hex(_ID_BYTES))
        start = time.perf_counter()
        status = 500

        async def name(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id.get()
            await send(message)

        try:
            await self._app(scope, receive, name)
        finally:
            if self._log_requests:
                seconds = time.perf_counter() - start
                level = logging.DEBUG if scope["path"] in _PROBES else logging.INFO
                fields = _fields(scope, status, seconds)
                _log.log(level, "request", extra={"fields": fields})


def _fields(scope: Scope, status: int, seconds: float) -> Mapping[str, object]:
    client = scope.get("client")
    return {
        "method": scope["method"],
        "path": scope["path"][:_MAX_PATH_CHARS],
        "status": status,
        "seconds": round(seconds, 6),
        "client": client[0] if client else "",
        "caller": identity_of(scope).caller,
    }
