"""Files hold exactly what was put in, read back by parsers that are not ours."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest

from service.api import formats
from tests.support.pictures import decode, sphere


def read_flo(data: bytes) -> np.ndarray:
    """.flo after its published description: (h, w, 2) float32."""
    magic, width, height = struct.unpack("<fii", data[:12])
    assert magic == 202021.25
    return np.frombuffer(data[12:], "<f4").reshape(height, width, 2)


def read_rgb16(data: bytes) -> np.ndarray:
    """A 16-bit RGB PNG of one IDAT with filters None and Up: (h, w, 3) uint16."""
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    assert (depth, colour) == (16, 2)
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    raw = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8)
    rows = raw.reshape(height, 1 + width * 6)
    assert (rows[:, 0] == 2).all()
    return np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8).view(">u2").reshape(height, width, 3)


def test_png_modes():
    rng = np.random.default_rng(0)
    for shape in ((20, 30), (20, 30, 3), (20, 30, 4)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        np.testing.assert_array_equal(np.asarray(decode(formats.png(pixels))), pixels)


def test_palette_png_shows_the_palette():
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    image = decode(formats.png_palette(indices.astype(np.float32) / 255, palette))
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[indices])


def test_grey16_png():
    values = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    image = decode(formats.png16(values.astype(np.float32) / 65535 * 7, 7.0))
    assert image.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(image), values)


def test_mask_png():
    mask = np.random.default_rng(0).random((20, 30)) > 0.5
    image = decode(formats.png_mask(mask))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), np.where(mask, 255, 0))


@pytest.mark.parametrize("shape", [(1, 1, 3), (20, 30, 3), (33, 17, 3)])
def test_rgb16_png(shape):
    values = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    data = formats.png16_rgb(values)
    np.testing.assert_array_equal(read_rgb16(data), values)
    seen = np.asarray(decode(data))  # Pillow checks every CRC, and keeps the high bytes
    np.testing.assert_array_equal(seen, values >> 8)


def test_flo():
    flow = np.random.default_rng(0).normal(size=(2, 12, 20)).astype(np.float32) * 40
    got = read_flo(formats.flo(flow))
    np.testing.assert_array_equal(got, flow.transpose(1, 2, 0))


def test_kitti():
    flow = np.random.default_rng(0).normal(size=(2, 12, 20)).astype(np.float32) * 60
    stored = read_rgb16(formats.kitti(flow))
    assert (stored[..., 2] == 1).all()
    got = (stored[..., :2].astype(float) - 2**15) / 64
    np.testing.assert_allclose(got, flow.transpose(1, 2, 0), atol=1 / 128)


def test_kitti_marks_what_it_cannot_hold_as_invalid():
    flow = np.zeros((2, 16, 16), np.float32)
    flow[0, 3, 4] = 513
    flow[1, 5, 6] = -513
    stored = read_rgb16(formats.kitti(flow))
    assert stored[3, 4].tolist() == [0, 0, 0]
    assert stored[5, 6].tolist() == [0, 0, 0]
    assert stored[..., 2].sum() == 16 * 16 - 2


def test_normals_png():
    ball = sphere(33, 20, radius=9)
    stored = read_rgb16(formats.normals(ball))
    got = stored / 32767.5 - 1
    np.testing.assert_allclose(got, ball.transpose(1, 2, 0), atol=0.5 / 32767 + 1e-6)
    assert stored[1, 1].tolist() == [32768, 32768, 65535]  # the wall


def test_npz_is_the_same_bytes_every_time():
    arrays = {"a": np.arange(6.0), "seed": np.array(2**64 - 1, np.uint64), "m": np.array("x:1")}
    first = formats.npz(arrays)
    assert first == formats.npz(arrays)
    with np.load(BytesIO(first), allow_pickle=False) as loaded:
        assert int(loaded["seed"]) == 2**64 - 1
        assert str(loaded["m"]) == "x:1"
        np.testing.assert_array_equal(loaded["a"], arrays["a"])
