"""Arrays to files: PNG of 8 and 16 bits, Middlebury .flo, KITTI flow, normals, .npz.

PNGs are compressed at the fastest level: on maps as smooth as these the slow ones save little.
"""

import struct
import zlib
from collections.abc import Mapping
from io import BytesIO

import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt16
from PIL import Image

WHITE_8, WHITE_16 = 255.0, 65535.0

_FASTEST = 1
_FLO_MAGIC = b"PIEH"
KITTI_UNITS_PER_PX = 64
KITTI_ZERO = 2**15
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_RGB, _PNG_FILTER_UP = 2, 2


def png(pixels: UInt8[np.ndarray, "h w *channels"]) -> bytes:
    """Encode 8-bit grey (h, w), RGB or RGBA (h, w, 3 or 4)."""
    return _save(Image.fromarray(pixels))


def thumbnail(encoded: bytes, side: int) -> bytes:
    """Encode a PNG of ours again, so that no side is longer."""
    with Image.open(BytesIO(encoded)) as image:
        small = image.convert("RGB") if image.mode == "P" else image.copy()
    small.thumbnail((side, side))
    return _save(small)


def png_mask(mask: Bool[np.ndarray, "h w"]) -> bytes:
    """Encode a mask as 8-bit grey, 255 inside."""
    return png(np.where(mask, np.uint8(WHITE_8), np.uint8(0)))


def png_palette(values: Float32[np.ndarray, "h w"], palette: UInt8[np.ndarray, "256 3"]) -> bytes:
    """Encode [0, 1] in the palette's colours: a third of RGB's bytes to compress."""
    image = Image.fromarray(_samples(values, WHITE_8).astype(np.uint8))
    image.putpalette(palette.tobytes())
    return _save(image)


def png16(values: Float32[np.ndarray, "h w"], white: float) -> bytes:
    """Encode [0, white] as 16-bit grey."""
    return _save(Image.fromarray(_samples(values, WHITE_16 / white).astype(np.uint16)))


def png16_rgb(values: UInt16[np.ndarray, "h w 3"]) -> bytes:
    """Encode 16-bit RGB, which Pillow cannot (PNG specification, sections 5 and 9: filter Up)."""
    height, width, _ = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(height, width * 6)
    filtered = np.empty((height, width * 6 + 1), dtype=np.uint8)
    filtered[:, 0] = _PNG_FILTER_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_RGB, 0, 0, 0)
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(filtered.data, _FASTEST)),
            (b"IEND", b""),
        )
    )


def flo(flow: Float32[np.ndarray, "2 h w"]) -> bytes:
    """Encode flow in px as Middlebury .flo: magic, int32 width, height, float32 (u, v) by rows."""
    _, height, width = flow.shape
    header = _FLO_MAGIC + struct.pack("<ii", width, height)
    return header + flow.transpose(1, 2, 0).astype("<f4").tobytes()


def kitti(flow: Float32[np.ndarray, "2 h w"]) -> bytes:
    """Encode flow in px as KITTI's 16-bit RGB PNG: red and green are 64 u + 2^15, blue is valid.

    The format ends at 512 px; a longer vector is written as invalid (0, 0, 0), as the benchmark
    writes what it does not know.
    """
    stored = np.round(flow * np.float32(KITTI_UNITS_PER_PX)) + KITTI_ZERO
    valid = ((stored >= 0) & (stored <= 65535)).all(axis=0)
    pixels = np.stack([*np.where(valid, stored, 0), valid], axis=-1)
    return png16_rgb(pixels.astype(np.uint16))


def normals(vectors: Float32[np.ndarray, "3 h w"]) -> bytes:
    """Encode unit vectors as 16-bit RGB: red, green and blue are x, y and z of -1..1."""
    scaled = (vectors.transpose(1, 2, 0) + 1) * np.float32(WHITE_16 / 2)
    return png16_rgb(np.rint(scaled).astype(np.uint16, order="C"))


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Encode named arrays as .npz, stored: noise in the last float bits defeats compression."""
    buffer = BytesIO()
    # numpy's signature offers its own option among the names, which a mapping cannot rule out
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _samples(values: Float32[np.ndarray, "h w"], scale: float) -> Float32[np.ndarray, "h w"]:
    scaled = values * np.float32(scale)
    return np.rint(scaled, out=scaled)


def _save(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=_FASTEST)
    return buffer.getvalue()
