"""Which other sites' pages may call: none, unless they are named."""

import re

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

_ORIGIN = re.compile(r"https?://[^\s/,*@]+")
_ASKED = (
    *("Authorization", "X-API-Key", "Content-Type", "X-Request-Id", "traceparent"),
    *("X-Deadline-Ms", "X-Priority", "Prefer", "Idempotency-Key", "If-None-Match", "Last-Event-ID"),
)
_TOLD = (
    *("X-Percept-Steps", "X-Percept-Ensemble", "X-Percept-Evaluations", "X-Percept-Seed"),
    *("X-Percept-Expected-Error", "X-Percept-Model", "X-Percept-Uncertainty"),
    *("X-Percept-Flow-Scale", "X-Percept-Cache", "X-Request-Id", "Server-Timing"),
    *("Age", "ETag", "Location", "Retry-After", "Preference-Applied", "Content-Disposition"),
)
_METHODS = ("GET", "POST", "DELETE")


def allow_origins(app: FastAPI, origins: str) -> None:
    """Let the pages of some origins call; none if there are none.

    `origins` are separated by commas, or `*`. Raises ValueError for what is no origin. Cookies play
    no part: a page must know a key, where keys are needed.
    """
    named = [origin.strip() for origin in origins.split(",") if origin.strip()]
    for origin in named:
        if origin != "*" and _ORIGIN.fullmatch(origin) is None:
            raise ValueError(f"{origin!r} is no origin, such as https://example.org")
    if named:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=named,
            allow_methods=_METHODS,
            allow_headers=_ASKED,
            expose_headers=_TOLD,
        )
