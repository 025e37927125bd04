"""Requests as traces: one span for each, and below it one for each stage of its answer."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import request_id

Attributes = Mapping[str, str | int | float]


@runtime_checkable
class RequestSpan(Protocol):
    """A request while it is answered."""

    def stages(self, timings_ms: Mapping[str, float], attributes: Attributes) -> None:
        """Note stages that followed each other and have ended just now."""

    def end(self, name: str, status: int, attributes: Attributes) -> None:
        """Note the end, with what is known by then."""


@runtime_checkable
class Tracing(Protocol):
    """Where spans go."""

    def begin(self, headers: Mapping[str, str], attributes: Attributes) -> RequestSpan:
        """Begin a request's span: below the caller's own, where its headers name one."""

    def close(self) -> None:
        """Send what is left; may block for seconds."""


_span: ContextVar[RequestSpan | None] = ContextVar("span", default=None)


class TraceRequests:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        known = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "percept.request_id": request_id.get(),
        }
        span = self._tracing.begin(Headers(scope=scope), known)
        outer = _span.set(span)
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            _span.reset(outer)
            route = getattr(scope.get("route"), "path", "")
            name = f"{scope['method']} {route}".strip()
            span.end(name, status, {"http.route": route} if route else {})


def trace_stages(timings_ms: Mapping[str, float], attributes: Attributes) -> None:
    """Note the stages of the present request's answer, which is made now."""
    span = _span.get()
    if span is not None:
        span.stages(timings_ms, attributes)
