"""The known ways to hurt a program with a picture, each with what becomes of it and what it costs.

All go through a decoder process, whose most memory is measured: a bomb that went off would show.
"""

import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.api.decoders import DecoderLimits, DecoderPool
from service.api.images import ImageLimits
from service.core.sizes import FixedSize
from service.errors import InvalidField, PerceptError, TooLarge, UnsupportedType
from tests.api.test_bombs import LONG, SHORT, jpeg_segment, tiff
from tests.chaos.memory import children
from tests.support.pictures import encode, gradient

LIMITS = ImageLimits(max_pixels=1_000_000, min_side=16, max_side=4096)
PICTURE = gradient(48, 40)
SIZE = FixedSize(64, 64)
# What a decoder may come to hold over files of a megapixel at most: it starts with 45 MB.
MAX_RESIDENT_MB = 130
ZEROS = zlib.compress(bytes(200 * 2**20), 9)  # 200 MB in 200 kB
MEGABYTE = zlib.compress(bytes(2**20 - 10), 9)
RGB_PNG, JPEG, WEBP = encode(PICTURE), encode(PICTURE, "JPEG"), encode(PICTURE, "WEBP")


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    running = DecoderPool(DecoderLimits.of(1, 60.0, ImageLimits(40_000_000, 16, 32768), 25_000_000))
    yield running
    held = most_resident_mb()
    running.close()
    assert held < MAX_RESIDENT_MB


def most_resident_mb() -> float:
    most = 0.0
    for child in children(os.getpid()):
        with suppress(FileNotFoundError):
            status = Path(f"/proc/{child}/status").read_text()
            if b"decode_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                most = max(most, int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1000)
    assert most
    return most


def png(*chunks: tuple[bytes, bytes], head: bytes = RGB_PNG[16:29]) -> bytes:
    """Return a PNG of 48 x 40 with further chunks before its pixels."""
    end = RGB_PNG.index(b"IDAT") - 4
    packed = [(b"IHDR", head), *chunks]
    return RGB_PNG[:8] + b"".join(_chunk(*chunk) for chunk in packed) + RGB_PNG[end:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png_head(width: int, height: int) -> bytes:
    return struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def png_of(pixels: bytes, width: int = 48, height: int = 40) -> bytes:
    chunks = ((b"IHDR", png_head(width, height)), (b"IDAT", pixels), (b"IEND", b""))
    return RGB_PNG[:8] + b"".join(_chunk(*chunk) for chunk in chunks)


def jpeg(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def jpeg_of_size(width: int, height: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def exif_loop() -> bytes:
    """Give an EXIF directory that is its own sub-directory and its own successor."""
    entry = struct.pack("<HHLL", 0x8769, 4, 1, 8)
    return b"Exif\0\0II*\0" + struct.pack("<LH", 8, 1) + entry + struct.pack("<L", 8)


def tiff_loop() -> bytes:
    """Give a TIFF whose second directory is its first."""
    data = bytearray(tiff())
    (num_entries,) = struct.unpack_from("<H", data, 8)
    struct.pack_into("<L", data, 10 + 12 * num_entries, 8)
    return bytes(data)


def tiff_of_size(width: int, height: int) -> bytes:
    data = tiff()
    for tag, old, new in ((256, 48, width), (257, 40, height)):
        entry, other = (struct.pack("<HHLL", tag, LONG, 1, side) for side in (old, new))
        assert entry in data
        data = data.replace(entry, other)
    return data


def bmp_of_size(width: int, height: int) -> bytes:
    data = bytearray(encode(PICTURE, "BMP"))
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


def frames(kind: str, **options: object) -> bytes:
    """Give an animation of 300 pictures."""
    pictures = [Image.fromarray(np.full((40, 48, 3), i % 256, np.uint8)) for i in range(300)]
    return encode(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)


READ = {
    "pixels that unpack beyond the picture": png_of(
        zlib.compress(bytes(40 * (1 + 3 * 48)) + bytes(100 * 2**20), 9)
    ),
    "an EXIF that goes round": jpeg(jpeg_segment(0xE1, exif_loop())),
    "an EXIF that goes round, in a PNG": png((b"eXIf", exif_loop()[6:])),
    "a profile of 16 MB": jpeg(
        *(
            jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([1 + i, 255]) + bytes(65_000))
            for i in range(255)
        )
    ),
    "directories that go round": tiff_loop(),
    "300 frames of a WebP": frames("WEBP", lossless=True, quality=0),
    "300 frames of a PNG": frames("PNG"),
    "300 pages": frames("TIFF"),
    "no opaque pixel": encode(Image.new("RGBA", (48, 40), (9, 9, 9, 0))),
    "zeros": encode(np.zeros((40, 48), np.uint16)),
    "16 bits at their end": encode(np.full((40, 48), 65535, np.uint16)),
    "32 bits at their end": encode(np.full((40, 48), 2**31 - 1, np.int32), "TIFF"),
    **{
        f"all {value}": encode(np.full((40, 48), value, np.float32), "TIFF")
        for value in (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45)
    },
}
REFUSED: dict[str, tuple[bytes, type[PerceptError]]] = {
    "a text that unpacks to 200 MB": (png((b"zTXt", b"Comment\0\0" + ZEROS)), InvalidField),
    "an international one": (png((b"iTXt", b"Comment\0\1\0\0\0" + ZEROS)), InvalidField),
    "a profile that unpacks to 200 MB": (png((b"iCCP", b"ICC\0\0" + ZEROS)), InvalidField),
    "200 texts at the limit of one": (png(*[(b"zTXt", b"C\0\0" + MEGABYTE)] * 200), InvalidField),
    "a PNG of 2^31 by 2^31": (png(head=png_head(2**31 - 1, 2**31 - 1)), TooLarge),
    "a PNG without area": (png(head=png_head(0, 40)), InvalidField),
    "a PNG one pixel wide": (png_of(ZEROS, 1, 4000), InvalidField),
    "a JPEG of 65500 by 65500": (jpeg_of_size(65_500, 65_500), TooLarge),
    "a JPEG of no height": (jpeg_of_size(48, 0), InvalidField),
    "a BMP of 2^31": (bmp_of_size(2**31 - 1, 2**31 - 1), TooLarge),
    "a BMP of -2^31": (bmp_of_size(48, -(2**31)), TooLarge),
    "a TIFF of 2^32": (tiff_of_size(2**32 - 1, 2**32 - 1), TooLarge),
    "a GIF": (encode(Image.fromarray(PICTURE), "GIF"), UnsupportedType),
    "an SVG": (b'<svg><image href="file:///etc/passwd"/></svg>', UnsupportedType),
    "a PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file", UnsupportedType),
    "a PDF": (b"%PDF-1.7\n", UnsupportedType),
    "a ZIP": (b"PK\3\4" + bytes(60), UnsupportedType),
    "an ICO": (b"\0\0\1\0\1\0" + bytes(60), UnsupportedType),
    "a JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60), UnsupportedType),
    "an AVIF": (b"\0\0\0 ftypavif" + bytes(60), UnsupportedType),
    "a WebP cut short": (WEBP[: len(WEBP) // 2], InvalidField),
    "pixels that end too soon": (png_of(zlib.compress(bytes(100))), InvalidField),
    "pixels of an unknown packing": (tiff((259, SHORT, 1, 60_000)), InvalidField),
}


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("what", READ)
def test_read_at_little_cost(pool, what):
    """What stands beside the first picture is passed over; no value is out of range."""
    values = pool.upload("image", READ[what], LIMITS).model_image(SIZE).values
    assert np.isfinite(values).all()
    assert values.min() >= -1
    assert values.max() <= 1


@pytest.mark.parametrize("what", REFUSED)
def test_refused(pool, what):
    data, error = REFUSED[what]
    with pytest.raises(error) as caught:
        pool.upload("image", data, LIMITS).model_image(SIZE)
    assert caught.value.field == "image"
    assert caught.value.limit
