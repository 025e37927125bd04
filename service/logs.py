"""What the log looks like: lines for people, or JSON for machines, each with its request's id."""

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]

request_id: ContextVar[str] = ContextVar("request_id", default="")

# They work for many requests at once, in the context of whichever set them going.
_SHARED = ("service.engine", "service.backends")


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Send everything that is logged to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[log_format]())
    root = logging.getLogger()
    for other in root.handlers[:]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level.upper())


class JsonLines(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `message`, and what more is known.

    That is `request_id`, `exception` with its trace, and the fields of `extra={"fields": ...}`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if about := _request_of(record):
            line["request_id"] = about
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            line |= fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """`LEVEL: message [request id]`."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Render a record without its trace."""
        about = _request_of(record)
        return super().formatMessage(record) + (f" [{about}]" if about else "")


def _request_of(record: logging.LogRecord) -> str:
    return "" if record.name.startswith(_SHARED) else request_id.get()


_FORMATTERS: Mapping[LogFormat, type[logging.Formatter]] = {"text": TextLines, "json": JsonLines}
