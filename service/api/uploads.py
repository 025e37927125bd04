"""Reads a multipart form as it arrives and stops at the first thing that is not allowed.

Fields are refused by name and files by size while the body is still being sent, so what a client
may make the server hold is bounded whatever its headers claim.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from service.errors import (
    ClientGone,
    InvalidField,
    MalformedRequest,
    TooLarge,
    UnsupportedType,
    UploadTooSlow,
)

MAX_TEXT_BYTES = 4096
_FRAMING_BYTES = 65_536  # part headers, boundaries and text fields of a form
_FORM = "multipart/form-data"
DRAIN_BYTES = 64 * 2**20
DRAIN_S = 15.0  # hundreds of clients may be sending at once; none of them holds a place
LATE_DRAIN_S = 0.1  # where the answer is late already, or nothing comes


@dataclass(frozen=True)
class FormLimits:
    """Which fields a form has, and how large and slow it may be."""

    texts: frozenset[str]
    files: frozenset[str]
    max_file_bytes: int
    timeout_s: float

    @property
    def max_body_bytes(self) -> int:
        """Bytes that a whole body within the limits may have."""
        return self.max_file_bytes * len(self.files) + _FRAMING_BYTES


@dataclass(frozen=True)
class Form:
    """A form's text fields and files, each by its name."""

    texts: Mapping[str, str]
    files: Mapping[str, bytes]


class Body:
    """A request's body, chunk by chunk; `complete` once its end was seen."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._expects_go = request.headers.get("expect", "").lower() == "100-continue"
        self._started = False
        self.complete = False

    async def next_chunk(self) -> bytes:
        """Return the next piece, possibly empty; raises ClientGone."""
        self._started = True
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("The client hung up while uploading")
        self.complete = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    async def drain(self, timeout_s: float = DRAIN_S, max_bytes: int = DRAIN_BYTES) -> None:
        """Discard the rest, within reason, so that a client still sending gets to read its answer.

        A client that asked for leave to send its body sends none.
        """
        if self._expects_go and not self._started:
            return
        try:
            async with asyncio.timeout(timeout_s):
                while not self.complete and max_bytes > 0:
                    max_bytes -= len(await self.next_chunk())
        except (TimeoutError, ClientGone):
            return


async def read_form(request: Request, body: Body, limits: FormLimits) -> Form:
    """Read a `multipart/form-data` body; raises the errors of the table that name what is wrong."""
    reader = _FormReader(limits, _boundary(request.headers.get("content-type", "")))
    try:
        async with asyncio.timeout(limits.timeout_s):
            num_bytes = 0
            while not body.complete:
                chunk = await body.next_chunk()
                num_bytes += len(chunk)
                reader.feed(chunk)  # first: it can name the field
                if num_bytes > limits.max_body_bytes:
                    limit = f"{limits.max_body_bytes} bytes"
                    raise TooLarge("The form is too large", limit=limit)
    except TimeoutError as error:
        limit = f"{limits.timeout_s:g} s"
        raise UploadTooSlow("The upload did not arrive in time", limit=limit) from error
    return reader.finish()


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != _FORM.encode():
        raise UnsupportedType("The body must be a form with files", limit=_FORM)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise MalformedRequest("The content type names no boundary", limit=_FORM)
    return boundary


class _FormReader:
    """Callbacks of the multipart parser: gathers parts, and raises where one is not allowed."""

    def __init__(self, limits: FormLimits, boundary: bytes) -> None:
        self._limits = limits
        self._texts: dict[str, str] = {}
        self._files: dict[str, bytes] = {}
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._field = ""
        self._is_file = False
        self._data = bytearray()
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_data,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise MalformedRequest("The form's boundary cannot be used", limit=_FORM) from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MalformedRequest("The form cannot be parsed", limit=_FORM) from error

    def finish(self) -> Form:
        if not self._ended:
            raise MalformedRequest("The form ends before its last boundary", limit=_FORM)
        return Form(self._texts, self._files)

    def _begin_part(self) -> None:
        self._disposition = b""
        self._data = bytearray()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise MalformedRequest("A part of the form has no name", limit=_FORM)
        self._field = options[b"name"].decode("utf-8", "replace")
        self._is_file = b"filename" in options
        self._check_field()

    def _check_field(self) -> None:
        field, limits = self._field, self._limits
        if field not in limits.texts | limits.files:
            known = ", ".join(sorted(limits.files) + sorted(limits.texts))
            raise InvalidField(f"There is no field {field!r} here", field=field, limit=known)
        if field in self._texts or field in self._files:
            raise InvalidField(f"{field} is given twice", field=field, limit="once")
        if self._is_file != (field in limits.files):
            wanted = "a text" if self._is_file else "a file"
            raise InvalidField(f"{field} must be {wanted}", field=field, limit=wanted)

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        limit = self._limits.max_file_bytes if self._is_file else MAX_TEXT_BYTES
        if len(self._data) + end - start > limit:
            raise TooLarge(f"{self._field} is too large", field=self._field, limit=f"{limit} bytes")
        self._data += data[start:end]

    def _end_part(self) -> None:
        if self._is_file:
            self._files[self._field] = bytes(self._data)
        else:
            self._texts[self._field] = self._data.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True
