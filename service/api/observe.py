"""Counts and times every HTTP request, whatever answers it."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import refusal_of
from service.metrics import Metrics

_FAULT = 500
_NO_ROUTE = "unmatched"  # one label for all wrong paths, which clients could make up without end


class ObserveRequests:
    """ASGI middleware; routes are labelled by their template."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = _FAULT

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", _NO_ROUTE)
            self._metrics.requests.labels(route, str(status)).inc()
            # A fault of ours is answered further out, where nothing is counted.
            reason = refusal_of(scope) or ("fault" if status == _FAULT else None)
            if reason is not None:
                self._metrics.refusals.labels(reason, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - start)
