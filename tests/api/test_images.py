"""Uploads of every format, mode and orientation; hostile ones never raise anything but ours."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.api.formats import png16_rgb
from service.api.images import ImageLimits, Upload
from service.errors import InvalidField, PerceptError, TooLarge, UnsupportedType
from tests.support.pictures import disc, encode, gradient

LIMITS = ImageLimits(max_pixels=40_000_000, min_side=16, max_side=32_768)
PICTURE = gradient(48, 40)


def upload(data: bytes, limits: ImageLimits = LIMITS) -> Upload:
    return Upload("image", data, limits)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_same_pixels(kind):
    np.testing.assert_array_equal(upload(encode(PICTURE, kind)).rgb(), PICTURE)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("TIFF", {"compression": "jpeg"})],
)
def test_other_formats_give_nearly_the_same_pixels(kind, options):
    got = upload(encode(PICTURE, kind, **options)).rgb().astype(int)
    assert np.abs(got - PICTURE).mean() < 3


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff(compression):
    data = encode(PICTURE, "TIFF", compression=compression)
    np.testing.assert_array_equal(upload(data).rgb(), PICTURE)


def test_grey_becomes_three_equal_channels():
    grey = PICTURE[..., 0]
    got = upload(encode(grey)).rgb()
    np.testing.assert_array_equal(got, np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    got = upload(encode(values, kind)).rgb()[..., 0]
    np.testing.assert_allclose(got, values / 257, atol=0.51)


def test_float_tiff_is_a_unit_range_and_nan_is_black():
    values = np.linspace(-0.5, 1.5, 32 * 32, dtype=np.float32).reshape(32, 32)
    values[0, 0] = np.nan
    got = upload(encode(values, "TIFF")).rgb()[..., 0]
    expected = np.clip(np.nan_to_num(values), 0, 1) * 255
    np.testing.assert_allclose(got, expected, atol=0.51)


def test_sixteen_bit_rgb_png():
    got = upload(png16_rgb(PICTURE.astype(np.uint16) * 257)).rgb()
    np.testing.assert_array_equal(got, PICTURE)


def test_palette():
    indexed = Image.fromarray(PICTURE).quantize(64)
    np.testing.assert_array_equal(upload(encode(indexed)).rgb(), np.asarray(indexed.convert("RGB")))


def test_transparency_is_laid_on_white():
    rgba = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
    rgba[:20, :, 3] = 0
    rgba[20:30, :, 3] = 51
    got = upload(encode(rgba)).rgb()
    assert (got[:20] == 255).all()
    np.testing.assert_allclose(got[20:30], 0.2 * PICTURE[20:30] + 0.8 * 255, atol=1)
    np.testing.assert_array_equal(got[30:], PICTURE[30:])


def test_palette_transparency_is_laid_on_white():
    indexed = Image.new("P", (32, 32), 0)
    indexed.putpalette([255, 0, 0, 0, 255, 0])
    indexed.paste(1, (16, 0, 32, 32))
    got = upload(encode(indexed, transparency=0)).rgb()
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[0, 31].tolist() == [0, 255, 0]


def test_cmyk_jpeg():
    cmyk = Image.fromarray(PICTURE).convert("CMYK")
    got = upload(encode(cmyk, "JPEG", quality=95)).rgb().astype(int)
    assert np.abs(got - np.asarray(cmyk.convert("RGB"))).mean() < 4


def test_animation_shows_its_first_frame():
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(upload(data).rgb(), PICTURE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :32] = (250, 10, 10)  # a red corner, top left
    undo = {  # how a camera that writes this orientation lies on its side
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo(upright))
    data = encode(stored, kind, exif=exif)
    got = upload(data).rgb()
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).mean() < 6
    reduced = upload(data).reduced_rgb(8)
    assert (reduced.width, reduced.height) == (64, 32)
    assert reduced.image.width == 2 * reduced.image.height


@pytest.mark.filterwarnings("ignore:::PIL")  # as the command line sets it
def test_damaged_exif_spoils_no_picture():
    data = encode(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert upload(data).rgb().shape == PICTURE.shape


def test_reduced_jpeg_is_small_and_still_knows_its_size():
    picture = gradient(1920, 1080)
    decoded = upload(encode(picture, "JPEG", quality=90)).reduced_rgb(256)
    assert decoded.image.size == (480, 270)
    assert (decoded.width, decoded.height) == (1920, 1080)
    full = Image.fromarray(picture).resize((480, 270), Image.Resampling.BOX)
    assert np.abs(np.asarray(decoded.image).astype(int) - np.asarray(full)).mean() < 2


def test_reduced_jpeg_is_never_below_the_wanted_side():
    decoded = upload(encode(gradient(400, 200), "JPEG")).reduced_rgb(150)
    assert min(decoded.image.size) >= 150


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "CMYK"])
def test_masks_of_any_mode(mode):
    shape = disc(48, 40)
    mask = Image.fromarray(shape)
    if mode == "I;16":
        mask = Image.fromarray(shape.astype(np.uint16) * 257)
    elif mode == "P":
        mask = mask.quantize(2)
    else:
        mask = mask.convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    np.testing.assert_array_equal(upload(encode(mask, kind)).mask(), shape > 0)


def test_mask_in_the_alpha_channel():
    shape = disc(48, 40)
    for colour in (0, 255):
        rgba = np.dstack([np.full((40, 48, 3), colour, np.uint8), shape])
        np.testing.assert_array_equal(upload(encode(rgba)).mask(), shape > 0)


def test_mask_threshold_is_half():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(upload(encode(values)).mask(), values > 127)
    wide = np.arange(65536, step=64, dtype=np.uint16).reshape(32, 32)
    np.testing.assert_array_equal(upload(encode(wide)).mask(), wide > 32767)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", InvalidField),
        (b"hello, world", UnsupportedType),
        (b"GIF89a" + bytes(64), UnsupportedType),
        (b"%PDF-1.7", UnsupportedType),
        (b"MM\0+\0\x08\0\0", UnsupportedType),
        (b"\xff\xd8\xff", InvalidField),
        (b"\x89PNG\r\n\x1a\n", InvalidField),
        (b"RIFF\x00\x00\x00\x00WAVE", InvalidField),
        (b"BM", InvalidField),
        (b"II*\0", InvalidField),
    ],
)
def test_what_is_no_image_is_refused(data, error):
    with pytest.raises(error) as caught:
        upload(data).rgb()
    assert caught.value.field == "image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_truncated_files_are_refused(kind):
    data = encode(gradient(200, 150), kind)
    with pytest.raises(InvalidField) as caught:
        upload(data[: len(data) // 2]).rgb()
    assert "PNG" in str(caught.value.limit)


def test_a_bomb_is_refused_by_its_header(monkeypatch):
    data = bytearray(encode(np.zeros((20_000, 20_000), np.uint8)))

    def decoded(*_):
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(Image.Image, "load", decoded)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(TooLarge) as caught:
        upload(bytes(data)).rgb()
    assert caught.value.field == "image"
    assert "40000000 pixels" in str(caught.value.limit)


def test_a_webp_that_lies_about_its_size_is_refused():
    """Pillow's own guard meets this header before ours."""
    side = (16_383 - 1).to_bytes(3, "little")
    with pytest.raises(TooLarge) as caught:
        upload(b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + side + side).rgb()
    assert caught.value.limit == str(LIMITS)


def test_small_and_long_images_are_refused():
    with pytest.raises(InvalidField, match="15 x 40"):
        upload(encode(gradient(15, 40))).rgb()
    narrow = ImageLimits(max_pixels=10**9, min_side=1, max_side=100)
    with pytest.raises(TooLarge):
        upload(encode(gradient(101, 20)), narrow).rgb()
    assert upload(encode(gradient(16, 16))).rgb().shape == (16, 16, 3)


def test_unread_colour_modes_are_refused():
    lab = Image.new("LAB", (32, 32))
    with pytest.raises(UnsupportedType, match="LAB"):
        upload(encode(lab, "TIFF")).rgb()


def outcome(read: Callable[[Upload], object], file: Upload) -> None:
    """Let a file be read or refused; anything else that happens rises."""
    try:
        read(file)
    except PerceptError as error:
        field = error.field
    else:
        field = "image"
    assert field == "image"


FILES = {
    kind: encode(gradient(40, 30), kind, **options)
    for kind, options in (
        ("JPEG", {"exif": Image.Exif().tobytes()}),
        ("PNG", {}),
        ("WEBP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
    )
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(FILES)),
    edits=st.lists(
        st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=8)), max_size=12
    ),
    cut=st.integers(0, 4096),
)
def test_mutated_files_give_pixels_or_our_errors(kind, edits, cut):
    data = bytearray(FILES[kind])
    for place, patch in edits:
        start = place % len(data)
        data[start : start + len(patch)] = patch
    mutated = bytes(data[: len(data) - cut % len(data)])
    limits = ImageLimits(max_pixels=1_000_000, min_side=16, max_side=4096)
    for read in (Upload.rgb, Upload.mask, lambda u: u.reduced_rgb(16)):
        outcome(read, upload(mutated, limits))


@settings(max_examples=200, deadline=None)
@given(
    head=st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"II*\0", b"MM\0*", b"BM"]
    ),
    body=st.binary(max_size=400),
)
def test_random_bytes_after_a_signature_give_our_errors(head, body):
    outcome(Upload.rgb, upload(head + body))


def test_pillow_limits_are_left_alone():
    before = Image.MAX_IMAGE_PIXELS
    upload(encode(PICTURE)).rgb()
    assert before == Image.MAX_IMAGE_PIXELS
