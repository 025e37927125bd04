"""Errors on the wire: `application/problem+json` (RFC 9457), from the table in `service.errors`."""

import re
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.uploads import Body
from service.errors import PerceptError, Unauthorized
from service.logs import request_id

MEDIA_TYPE = "application/problem+json"
_REFUSAL = "percept.refusal"
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")
_CHALLENGE = 'Bearer realm="percept"'  # RFC 9110, 11.6.1: a 401 says how to do better


class Problem(BaseModel):
    """What went wrong, and with which form field or header."""

    type: str = Field(default="about:blank", description="Kind of problem: the status says it all")
    title: str = Field(description="The kind of problem in words")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="What is wrong with this very request")
    field: str | None = Field(default=None, description="Form field or header at fault")
    limit: str | None = Field(default=None, description="What is allowed there")
    request_id: str | None = Field(default=None, description="The request's name in the log")


class ProblemResponse(Response):
    """A problem on its way out; the scope learns why the request was refused."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, headers: Mapping[str, str], reason: str) -> None:
        self._reason = reason
        named = {} if problem.request_id is None else {"X-Request-Id": problem.request_id}
        content = problem.model_dump_json(exclude_none=True)
        headers = {"Cache-Control": "no-store", **headers, **named}
        super().__init__(content, status_code=problem.status, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        scope[_REFUSAL] = self._reason
        await super().__call__(scope, receive, send)


def refusal_of(scope: Scope) -> str | None:
    """Return why a request was answered with a problem, in a word, None if it was not."""
    reason = scope.get(_REFUSAL)
    return reason if isinstance(reason, str) else None


def problem_response(
    problem: Problem,
    headers: Mapping[str, str] | None = None,
    *,
    reason: str,
    close: bool = False,
) -> Response:
    """Render a problem, its `reason` in a word for the metrics.

    `close` ends the connection, for a body that was not read to its end.
    """
    extra = {"Connection": "close"} if close else {}
    named = problem.model_copy(update={"request_id": request_id.get() or None})
    return ProblemResponse(named, {**(headers or {}), **extra}, reason)


def render_error(error: PerceptError, *, close: bool = False) -> Response:
    """Render an error of the table."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = _CHALLENGE
    problem = Problem(
        title=error.title,
        status=error.status,
        detail=error.detail,
        field=error.field,
        limit=error.limit,
    )
    reason = _CAPITAL.sub("_", type(error).__name__).lower()
    return problem_response(problem, headers, reason=reason, close=close)


async def _percept_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, PerceptError)
    return render_error(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Render what the router raises: no such page, no such method, perhaps with an upload."""
    assert isinstance(error, HTTPException)
    body = Body(request)
    await body.drain()
    title = HTTPStatus(error.status_code).phrase
    problem = Problem(title=title, status=error.status_code, detail=str(error.detail))
    reason = title.lower().replace(" ", "_")
    return problem_response(problem, error.headers, reason=reason, close=not body.complete)


async def _unexpected_error(_: Request, __: Exception) -> Response:
    """Render a fault of ours: the caller gets nothing but the fact, the log all of it.

    The framework raises the error again for the server to log, once this answer is sent.
    """
    problem = Problem(title="Internal error", status=500, detail="The fault is ours and is logged.")
    return problem_response(problem, reason="fault")


def install_problems(app: FastAPI) -> None:
    """Make every error of an application a problem document."""
    app.add_exception_handler(PerceptError, _percept_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)
