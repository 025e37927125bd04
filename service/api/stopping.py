"""What becomes of the requests that a stopping server gives up: they are told, not broken off."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import render_error
from service.errors import NotReady


class AnswerWhenCancelled:
    """ASGI middleware; a server cancels what has not ended when its grace is over."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream."""
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if not started:
                error = NotReady("The server is stopping", retry_after_s=1)
                await render_error(error, close=True)(scope, receive, send)
