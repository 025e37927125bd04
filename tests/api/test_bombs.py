"""Files whose reading would cost out of all proportion are refused before a decoder sees them."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.api import bombs
from service.api.bombs import Bomb, BoundedReader, refuse_bombs
from service.api.images import ImageLimits, Upload
from service.errors import InvalidField, TooLarge
from tests.support.pictures import encode, gradient

LIMITS = ImageLimits(max_pixels=1_000_000, min_side=16, max_side=4096)
PICTURE = gradient(48, 40)
SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 3, 4, 5, 7, 16


def read(data: bytes) -> np.ndarray:
    return Upload("image", data, LIMITS).rgb()


def refusal(data: bytes) -> str:
    with pytest.raises(TooLarge) as caught:
        read(data)
    assert caught.value.field == "image"
    return str(caught.value.limit)


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def test_a_jpeg_of_many_scans():
    """Sixty bytes a scan: a file of 25 MB and 40 megapixels would be decoded for an hour."""
    data = encode(PICTURE, "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    assert read(data).shape == PICTURE.shape
    assert refusal(data[:last] + 100 * data[last:end] + data[end:]) == "100 scans"


def test_a_jpeg_of_many_exif_segments():
    """Pillow joins them one by one: 25 MB in tiny ones would be copied a million times."""
    data = encode(PICTURE, "JPEG")
    few, many = (data[:2] + n * jpeg_segment(0xE1, b"Exif\0\0x") + data[2:] for n in (2, 101))
    assert read(few).shape == PICTURE.shape
    assert refusal(many) == "100 EXIF segments"


@pytest.mark.parametrize(
    ("kind", "start", "filler"),
    [
        ("JPEG", 2, jpeg_segment(0xFE, b"")),
        ("JPEG", 2, b"\xff"),
        ("PNG", 33, struct.pack(">I4sI", 0, b"zzZz", zlib.crc32(b"zzZz"))),
    ],
)
def test_metadata_in_very_many_pieces(monkeypatch, kind, start, filler):
    monkeypatch.setattr(bombs, "_MAX_READS", 1000)
    data = encode(PICTURE, kind)
    few, many = (data[:start] + n * filler + data[start:] for n in (10, 1001))
    assert read(few).shape == PICTURE.shape
    assert "1000 pieces" in refusal(many)


def test_a_reader_reads_like_a_file():
    reader = BoundedReader(b"abcdef")
    assert (reader.read(2), reader.read(), reader.read(1)) == (b"ab", b"cdef", b"")


def tiff(*more: tuple[int, int, int, int], big: bool = False, order: str = "<") -> bytes:
    """Give a grey TIFF of 48 x 40 further tags: (tag, kind, number of values, value or place)."""
    base = ((256, 48), (257, 40), (258, 8), (259, 1), (262, 1), (277, 1), (278, 40), (279, 1920))
    rows = [(tag, LONG, 1, value) for tag, value in base]
    size, count, address = (20, "Q", "Q") if big else (12, "H", "L")
    start = 16 if big else 8
    num_rows = len(rows) + 1 + len(more)
    pixels = (
        start + struct.calcsize(order + count) + num_rows * size + struct.calcsize(order + address)
    )
    rows = sorted([*rows, (273, LONG, 1, pixels), *more])
    head = (b"II" if order == "<" else b"MM") + struct.pack(
        *((order + "HHHQ", 43, 8, 0, start) if big else (order + "HL", 42, start))
    )
    body = b"".join(_packed(row, order, address) for row in rows)
    end = struct.pack(order + address, 0)
    return head + struct.pack(order + count, num_rows) + body + end + bytes(1920)


def _packed(row: tuple[int, int, int, int], order: str, address: str) -> bytes:
    tag, kind, num_values, value = row
    small = kind == SHORT and num_values == 1
    packed = struct.pack(order + ("H" if small else address if address == "L" else "L"), value)
    room = struct.calcsize(order + address)
    return struct.pack(order + "HH" + address, tag, kind, num_values) + packed.ljust(room, b"\0")


@pytest.mark.parametrize(("big", "order"), [(False, "<"), (False, ">"), (True, "<")])
def test_tiffs_of_odd_structure(big, order):
    def made(*more: tuple[int, int, int, int]) -> bytes:
        return tiff(*more, big=big, order=order)

    assert not read(made()).any()
    refuse_bombs(made((34675, UNDEFINED, 10**6, 8)), 10**6)  # a colour profile may be large
    assert "values" in refusal(made((282, RATIONAL, 100_001, 8)))  # resolution
    for offsets_tag in (273, 324):
        assert "values" in refusal(made((offsets_tag, UNDEFINED, 100_001, 8)))
    for kind in (SHORT, LONG):
        assert refusal(made((322, kind, 1, 1001), (323, kind, 1, 1000))).endswith("per TIFF tile")
        refuse_bombs(made((322, kind, 1, 1000), (323, kind, 1, 1000)), 10**6)


def test_the_side_of_a_tile_cannot_be_hidden_elsewhere():
    assert "tile" in refusal(tiff((322, LONG8, 1, 8), (323, SHORT, 1, 1)))


def test_a_tiff_of_single_rows_is_no_bomb():
    picture, buffer = Image.fromarray(gradient(16, 2000)), BytesIO()
    picture.save(buffer, "TIFF", strip_size=1)
    np.testing.assert_array_equal(read(buffer.getvalue()), np.asarray(picture))


@pytest.mark.parametrize("data", [b"II*\0", b"MM\0*" + b"\xff" * 4, b"II+\0" + b"\xff" * 12])
def test_a_tiff_without_a_directory_is_damaged(data):
    with pytest.raises(InvalidField, match="damaged"):
        read(data)


def test_a_bomb_says_what_is_allowed():
    with pytest.raises(Bomb) as caught:
        refuse_bombs(tiff((282, RATIONAL, 10**9, 8)), 10**6)
    assert caught.value.limit == "100000 values per TIFF tag"
