"""What a job is submitted with, as bytes: named fields of text and named files.

The bytes are `PCL1`, the length of a JSON header (4 bytes, big endian), the header, and the files
one after another. Reading runs nothing that was sent.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass

_MAGIC = b"PCL1"
_LENGTH = struct.Struct(">I")
_UNREADABLE = (
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
_HEAD_BYTES = len(_MAGIC) + _LENGTH.size


@dataclass(frozen=True)
class Parcel:
    """Fields and files by their names."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes]


def pack(parcel: Parcel) -> bytes:
    """Return a parcel's bytes: equal ones for equal parcels, whatever the order of their names."""
    files = sorted(parcel.files.items())
    header = {
        "fields": dict(sorted(parcel.fields.items())),
        "files": [[name, len(data)] for name, data in files],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((_MAGIC, _LENGTH.pack(len(text)), text, *(data for _, data in files)))


def unpack(packed: bytes) -> Parcel:
    """Return the parcel of these bytes; raises ValueError if they are none."""
    if packed[: len(_MAGIC)] != _MAGIC or len(packed) < _HEAD_BYTES:
        raise ValueError("These bytes are no parcel")
    (length,) = _LENGTH.unpack_from(packed, len(_MAGIC))
    start = _HEAD_BYTES + length
    try:
        header = json.loads(packed[_HEAD_BYTES:start])
        fields = {str(name): str(text) for name, text in header["fields"].items()}
        sizes = [(str(name), int(size)) for name, size in header["files"]]
    except _UNREADABLE as error:
        raise ValueError("The header of the parcel cannot be read") from error
    files = {}
    for name, size in sizes:
        files[name] = packed[start : start + size]
        start += size
    if start != len(packed) or any(size < 0 for _, size in sizes):
        raise ValueError("The files of the parcel are not as long as its header says")
    return Parcel(fields, files)


def fingerprint(packed: bytes) -> str:
    """Return what tells one content from another, as a submission's `fingerprint`."""
    return hashlib.sha256(packed).hexdigest()
