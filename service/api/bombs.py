"""Picture files that cost far more to read than their bytes and pixels say: refused beforehand.

What a format's decoder does in C without a bound of its own, or in Python once per item of the
file, is bounded here. The bounds are far above what cameras and programs write.
"""

import re
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Literal

_MAX_READS = 250_000  # a 25 MB PNG in pieces of 1 kB needs 100 thousand
_MAX_VALUES = 100_000  # of a TIFF tag: offsets of 32 768 single rows in three planes

_JPEG = b"\xff\xd8\xff"
# Each scan passes over the whole picture, and a blank one takes 60 bytes. libtiff draws the line at
# 100 scans as well; programs write about ten.
_SCAN = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e][\x01-\x04]")
_MAX_SCANS = 100
# Pillow joins EXIF segments one by one, copying all before.
_EXIF = re.compile(rb"\xff\xe1..Exif\0\0", re.DOTALL)
_MAX_EXIF_SEGMENTS = 100

_BYTE_ORDERS = {b"II": "<", b"MM": ">"}
_BIG_TIFF = b"II+\0"
_TEXT_KINDS = (1, 2, 7)  # bytes, characters, undefined: kept as they are, not one object per value
_WHOLE_KINDS = {3: 2, 4: 4}  # the two that hold a tile's side, with their bytes
_STRIP_OFFSETS, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS = 273, 322, 323, 324


class Bomb(Exception):
    """A file that would cost too much to read; `limit` says what is allowed."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class BoundedReader(BytesIO):
    """A file in memory that may be read so many times: parsers read once or more per item."""

    _num_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as any file; raises Bomb once it is enough."""
        self._num_reads += 1
        if self._num_reads > _MAX_READS:
            raise Bomb(f"about {_MAX_READS} pieces of data and metadata")
        return super().read(size)


def refuse_bombs(data: bytes, max_pixels: int) -> None:
    """Raise Bomb for a JPEG or TIFF whose structure is out of proportion.

    A TIFF without a directory makes `struct` raise what it likes.
    """
    if data.startswith(_JPEG):
        for pattern, limit, what in (
            (_SCAN, _MAX_SCANS, "scans"),
            (_EXIF, _MAX_EXIF_SEGMENTS, "EXIF segments"),
        ):
            if sum(1 for _ in pattern.finditer(data)) > limit:
                raise Bomb(f"{limit} {what}")
    elif data[:2] in _BYTE_ORDERS:
        _refuse_tiff_bombs(data, max_pixels)


def _refuse_tiff_bombs(data: bytes, max_pixels: int) -> None:
    sides = {_TILE_WIDTH: 1, _TILE_HEIGHT: 1}
    byteorder: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    for tag, kind, num_values, packed in _tiff_entries(data):
        is_text = kind in _TEXT_KINDS and tag not in (_STRIP_OFFSETS, _TILE_OFFSETS)
        if num_values > _MAX_VALUES and not is_text:
            raise Bomb(f"{_MAX_VALUES} values per TIFF tag")
        if tag in sides:
            # Of another kind, which nobody writes, the side may stand elsewhere in the file.
            side = max_pixels + 1
            if kind in _WHOLE_KINDS:
                side = int.from_bytes(packed[: _WHOLE_KINDS[kind]], byteorder)
            sides[tag] = max(sides[tag], side)
    if sides[_TILE_WIDTH] * sides[_TILE_HEIGHT] > max_pixels:
        raise Bomb(f"{max_pixels} pixels per TIFF tile")


def _tiff_entries(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield tag, kind, number of values, and the bytes that hold them or say where they are."""
    order = _BYTE_ORDERS[data[:2]]
    if data.startswith(_BIG_TIFF):
        at, address, count, entry = 8, order + "Q", order + "Q", order + "HHQ8s"
    else:
        at, address, count, entry = 4, order + "L", order + "H", order + "HHL4s"
    (offset,) = struct.unpack_from(address, data, at)
    (num_entries,) = struct.unpack_from(count, data, offset)
    first, size = offset + struct.calcsize(count), struct.calcsize(entry)
    end = first + min(num_entries, (len(data) - first) // size) * size
    yield from struct.iter_unpack(entry, data[first:end])
