"""Broken picture files without end: small valid ones of every format, damaged by a number.

`broken_picture(seed, index)` is a function of its arguments alone: a case that failed comes again.
"""

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from tests.support.pictures import encode, gradient

WIDTH, HEIGHT = 40, 32
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_PNG_HEAD = 8


@cache
def corpus() -> Sequence[bytes]:
    """Return valid files: every format, colour mode and way to pack that is read, and some not."""
    rgb = Image.fromarray(gradient(WIDTH, HEIGHT))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return (
        *_jpegs(rgb, exif.tobytes(), profile),
        *_pngs(rgb, exif.tobytes(), profile),
        *_webps(rgb, exif.tobytes(), profile),
        *_tiffs(rgb),
        *(encode(rgb.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")),
        encode(rgb, "GIF"),
    )


def _jpegs(rgb: Image.Image, exif: bytes, profile: bytes) -> list[bytes]:
    return [
        encode(rgb, "JPEG", exif=exif, icc_profile=profile),
        encode(rgb, "JPEG", progressive=True, comment=b"a comment"),
        encode(rgb, "JPEG", subsampling=0, restart_marker_rows=1),
        encode(rgb.convert("L"), "JPEG"),
        encode(rgb.convert("CMYK"), "JPEG"),
    ]


def _pngs(rgb: Image.Image, exif: bytes, profile: bytes) -> list[bytes]:
    words = PngImagePlugin.PngInfo()
    words.add_text("tEXt", "words")
    words.add_text("zTXt", "words" * 20, zip=True)
    words.add_itxt("iTXt", "words" * 20, lang="en", tkey="key", zip=True)
    wide = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    return [
        *(encode(rgb.convert(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        encode(rgb, exif=exif, icc_profile=profile, pnginfo=words),
        encode(rgb.quantize(16), transparency=3),
        encode(rgb, transparency=(1, 2, 3)),
        encode(rgb, save_all=True, append_images=[rgb.rotate(180)]),
        encode(Image.fromarray(wide)),
    ]


def _webps(rgb: Image.Image, exif: bytes, profile: bytes) -> list[bytes]:
    alpha = rgb.convert("RGBA")
    alpha.putalpha(rgb.convert("L"))
    return [
        encode(rgb, "WEBP", exif=exif, icc_profile=profile),
        encode(rgb, "WEBP", lossless=True),
        encode(alpha, "WEBP"),
        encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)]),
    ]


def _tiffs(rgb: Image.Image) -> list[bytes]:
    floats = np.linspace(-1, 2, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    floats[0, :4] = np.nan, np.inf, -np.inf, 1e38
    packings = ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate")
    return [
        *(encode(rgb, "TIFF", compression=packing) for packing in packings),
        encode(rgb.convert("1"), "TIFF", compression="group4"),
        encode(rgb.convert("CMYK"), "TIFF"),
        encode(rgb, "TIFF", save_all=True, append_images=[rgb], strip_size=240),
        encode(Image.fromarray(floats), "TIFF"),
        encode(Image.fromarray(floats), "TIFF", compression="tiff_lzw"),
        encode(Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32)), "TIFF"),
        encode(Image.fromarray(np.arange(1024, dtype=np.int32).reshape(32, 32)), "TIFF"),
        encode(rgb, "TIFF", big_tiff=True),
    ]


def broken_picture(seed: int, index: int) -> bytes:
    """Return one file, damaged in one to six ways."""
    dice = random.Random(f"picture {seed} {index}")
    data = dice.choice(corpus())
    for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
        data = dice.choice(_WAYS)(dice, data)
    return data


def _flip_bits(dice: random.Random, data: bytes) -> bytes:
    broken = bytearray(data)
    for _ in range(dice.choice((1, 2, 8, 64))):
        if broken:
            broken[_place(dice, broken)] ^= 1 << dice.randrange(8)
    return bytes(broken)


def _write_extremes(dice: random.Random, data: bytes) -> bytes:
    broken = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        packed = struct.pack(dice.choice("<>") + "I", dice.choice(_EXTREMES))
        width = dice.choice((1, 2, 4))
        patch = packed[:width] if dice.random() < 0.5 else packed[-width:]
        at = _place(dice, broken)
        broken[at : at + width] = patch
    return bytes(broken)


def _cut_end(dice: random.Random, data: bytes) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _drop(dice: random.Random, data: bytes) -> bytes:
    at, length = _place(dice, data), dice.choice((1, 2, 4, 16, 200))
    return data[:at] + data[at + length :]


def _repeat(dice: random.Random, data: bytes) -> bytes:
    at, length = _place(dice, data), dice.choice((1, 4, 16, 200))
    piece = data[at : at + length]
    return data[:at] + piece * dice.choice((2, 3, 40)) + data[at + length :]


def _insert_noise(dice: random.Random, data: bytes) -> bytes:
    at = _place(dice, data)
    return data[:at] + dice.randbytes(dice.choice((1, 2, 4, 64))) + data[at:]


def _splice(dice: random.Random, data: bytes) -> bytes:
    other = dice.choice(corpus())
    return data[: _place(dice, data)] + other[_place(dice, other) :]


def _damage_chunk(dice: random.Random, data: bytes) -> bytes:
    """Damage a PNG beneath its checksums, which stop all that is done to it otherwise."""
    chunks = _png_chunks(data)
    if not chunks:
        return _write_extremes(dice, data)
    at = dice.randrange(len(chunks))
    kind, content = chunks[at]
    way = dice.choice((_flip_bits, _write_extremes, _cut_end, _repeat, _insert_noise))
    chunks[at] = (kind, way(dice, content) if content else dice.randbytes(4))
    if dice.random() < 0.2:
        chunks.insert(dice.randrange(len(chunks) + 1), dice.choice(chunks))
    if dice.random() < 0.1:
        dice.shuffle(chunks)
    out = BytesIO()
    out.write(data[:_PNG_HEAD])
    for name, body in chunks:
        packed = name + body
        out.write(struct.pack(">I", len(body)) + packed + struct.pack(">I", zlib.crc32(packed)))
    return out.getvalue()


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    if not data.startswith(b"\x89PNG"):
        return []
    chunks, at = [], _PNG_HEAD
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _place(dice: random.Random, data: bytes | bytearray) -> int:
    """A place in a file, half of the time among its first bytes, where its structure is."""
    if not data:
        return 0
    return dice.randrange(min(len(data), 128) if dice.random() < 0.5 else len(data))


_WAYS: Sequence[Callable[[random.Random, bytes], bytes]] = (
    _flip_bits,
    _write_extremes,
    _write_extremes,
    _cut_end,
    _drop,
    _repeat,
    _insert_noise,
    _splice,
    _damage_chunk,
    _damage_chunk,
)
