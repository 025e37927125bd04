"""What a server and its decoder processes say to each other: lengths, JSON, and plain bytes.

Nothing that comes back is executed or trusted: a decoder that a file took over can send wrong
pixels for that file, and nothing else.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from service.api.images import ImageLimits
from service.core.sizes import FixedSize, InputSize, LongestEdge
from service.errors import InvalidField, PerceptError, TooLarge, UnsupportedType

Want = Literal["model_image", "rgb", "mask"]


@runtime_checkable
class Connection(Protocol):
    """What is used of a socket."""

    def sendall(self, data: bytes | memoryview, /) -> None:
        """Send everything."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Wait for some bytes; 0 when the other side is gone."""


READY = b"R"  # what a decoder sends when it has started
_LENGTH = struct.Struct("!I")
_MAX_HEAD_BYTES = 65_536
_DTYPES: Mapping[Want, type[np.generic]] = {
    "model_image": np.float32,
    "rgb": np.uint8,
    "mask": np.bool_,
}
_SIZES: Mapping[str, type[InputSize]] = {"fixed": FixedSize, "longest_edge": LongestEdge}
_ERRORS: Mapping[str, type[PerceptError]] = {
    error.__name__: error for error in (InvalidField, TooLarge, UnsupportedType)
}


class BadReply(Exception):
    """A decoder broke off, or sent what it cannot have been asked for."""


class Fault(Exception):
    """A decoder met a fault of ours, which it has logged."""


@dataclass(frozen=True)
class Job:
    """One file to decode, of `num_bytes`, within `cpu_s` seconds of computing.

    `size` is the model's, None where pixels at full size are wanted.
    """

    want: Want
    field: str
    limits: ImageLimits
    size: InputSize | None
    num_bytes: int
    cpu_s: float


@dataclass(frozen=True)
class Pixels:
    """What was decoded: values as `Want` says, and the size of the upload."""

    values: np.ndarray
    width: int
    height: int


def send_job(connection: Connection, job: Job, data: bytes) -> None:
    """Ask for a file to be decoded."""
    _send_head(connection, asdict(job))
    connection.sendall(data)


def receive_job(connection: Connection) -> tuple[Job, bytes] | None:
    """Wait for a job; None when the server is gone."""
    try:
        head = _receive_head(connection)
    except BadReply:
        return None
    size = head["size"]
    size = None if size is None else _SIZES[size["kind"]](**size)
    job = Job(**{**head, "limits": ImageLimits(**head["limits"]), "size": size})
    return job, bytes(receive_bytes(connection, job.num_bytes))


def send_pixels(connection: Connection, pixels: Pixels) -> None:
    """Answer a job."""
    values = np.ascontiguousarray(pixels.values)
    _send_head(connection, {"shape": values.shape, "width": pixels.width, "height": pixels.height})
    connection.sendall(values.reshape(-1).view(np.uint8).data)


def send_refusal(connection: Connection, error: PerceptError | None) -> None:
    """Answer a job that failed; None for a fault of ours."""
    if error is None:
        _send_head(connection, {"error": None})
        return
    said = {"detail": error.detail, "field": error.field, "limit": error.limit}
    _send_head(connection, {"error": type(error).__name__, **said})


def receive_pixels(connection: Connection, job: Job) -> Pixels:
    """Wait for the answer; raises what the decoder refused the file with, BadReply or Fault."""
    head = _receive_head(connection)
    if "error" in head:
        raise _refusal(head, job)
    try:
        shape = tuple(int(side) for side in head["shape"])
        width, height = int(head["width"]), int(head["height"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadReply("an answer without a shape") from error
    if not _is_possible(job, shape, width, height):
        raise BadReply(f"an answer of shape {shape} for {width} x {height} pixels")
    dtype = np.dtype(_DTYPES[job.want])
    data = receive_bytes(connection, math.prod(shape) * dtype.itemsize)
    values = np.frombuffer(data, np.uint8 if dtype == np.bool_ else dtype).reshape(shape)
    return Pixels(values != 0 if dtype == np.bool_ else values, width, height)


def receive_bytes(connection: Connection, num_bytes: int) -> bytearray:
    """Wait for so many bytes; raises BadReply when the other side is gone."""
    data = bytearray(num_bytes)
    rest = memoryview(data)
    while rest:
        got = connection.recv_into(rest)
        if not got:
            raise BadReply("the connection ended")
        rest = rest[got:]
    return data


def _is_possible(job: Job, shape: tuple[int, ...], width: int, height: int) -> bool:
    if min(width, height) <= 0 or width * height > job.limits.max_pixels:
        return False
    if job.want == "model_image":
        return len(shape) == 3 and shape[0] == 3 and job.size is not None and _fits(job.size, shape)
    return shape == ((height, width, 3) if job.want == "rgb" else (height, width))


def _fits(size: InputSize, shape: tuple[int, ...]) -> bool:
    _, height, width = shape
    return size.takes((height, width))


def _refusal(head: Mapping[str, object], job: Job) -> Exception:
    kind = _ERRORS.get(str(head["error"]))
    if kind is None:
        return Fault("A decoder met a fault of ours")
    limit = head.get("limit")
    return kind(
        str(head.get("detail")), field=job.field, limit=None if limit is None else str(limit)
    )


def _send_head(connection: Connection, head: Mapping[str, object]) -> None:
    packed = json.dumps(head).encode()
    connection.sendall(_LENGTH.pack(len(packed)) + packed)


def _receive_head(connection: Connection) -> Mapping[str, Any]:
    (length,) = _LENGTH.unpack(receive_bytes(connection, _LENGTH.size))
    if length > _MAX_HEAD_BYTES:
        raise BadReply(f"a head of {length} bytes")
    try:
        head = json.loads(receive_bytes(connection, length))
    except ValueError as error:
        raise BadReply("a head that is no JSON") from error
    if not isinstance(head, dict):
        raise BadReply("a head that is no object")
    return head
