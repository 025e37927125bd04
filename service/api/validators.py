"""What lets a client keep an answer: its entity tag, and the question whether it changed."""

from collections.abc import Mapping
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response

_TAG_DIGITS = 32


def entity_tag(content: bytes) -> str:
    """Return a strong tag: equal for equal bytes alone."""
    return f'"{sha256(content).hexdigest()[:_TAG_DIGITS]}"'


def has_already(request: Request, tag: str) -> bool:
    """Whether a client says that it has the answer with this tag (RFC 9110, 13.1.2)."""
    stated = request.headers.getlist("if-none-match")
    tags = {part.strip().removeprefix("W/") for value in stated for part in value.split(",")}
    return tag in tags or "*" in tags


def not_modified(headers: Mapping[str, str]) -> Response:
    """Return the answer to a client that has it: its headers without it.

    HTTP answers 412 to such a condition on a POST; 304 is what this one means, and what is
    documented: a prediction changes nothing and is a POST only for the size of what it is given.
    """
    left_out = ("content-disposition", "content-type", "content-length")
    kept = {name: value for name, value in headers.items() if name.lower() not in left_out}
    return Response(status_code=304, headers=kept)
