"""Uploaded files to pixels: the only place that reads image formats, and it trusts none of them.

The header is checked before a pixel is decoded. Pillow's plugins are called directly and not
through `Image.open`, so the limits are this call's own and Pillow's process-wide bomb guard stays
untouched. Whatever a file holds, the outcome is pixels or a `PerceptError` naming the form field.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from service.api.bombs import Bomb, BoundedReader, refuse_bombs
from service.api.pixels import is_read, mask_of, rgb_of
from service.api.resample import image_to_input, image_to_padded, mask_to_input, padded
from service.core.sizes import FixedSize, InputSize
from service.errors import InvalidField, PerceptError, TooLarge, UnsupportedType

FORMATS = "JPEG, PNG, WebP, TIFF or BMP"
_COLOURS = "grey, RGB, RGBA, CMYK or palette, of 8 or 16 bits"

Opener = Callable[[BytesIO], ImageFile.ImageFile]

# By signature, the file name and the declared type being the client's word. A JPEG is opened
# without the multi-picture wrapper: the first picture is the one that is wanted.
_OPENERS: tuple[tuple[bytes, Opener], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
    (b"II+\0", TiffImagePlugin.TiffImageFile),  # of BigTIFF, Pillow reads this byte order only
    (b"BM", BmpImagePlugin.BmpImageFile),
)

_MASK = "mask"  # the one form field that is no picture
_ORIENTATION_TAG = 0x0112
_TURNS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageLimits:
    """What an uploaded image may measure, in pixels."""

    max_pixels: int
    min_side: int
    max_side: int

    def __str__(self) -> str:
        """Describe the upper limits to a caller."""
        return f"{self.max_pixels} pixels, {self.max_side} per side"


@dataclass(frozen=True)
class Decoded:
    """An upright image in one of Pillow's modes, with the size of the upload it came from.

    `image` may be smaller than `width` x `height` where a reduced size was asked for.
    """

    image: Image.Image
    width: int
    height: int


@dataclass(frozen=True)
class ModelImage:
    """One image at a model's input size, RGB in [-1, 1], and the size of its upload."""

    values: Float32[np.ndarray, "3 model_h model_w"]
    width: int
    height: int


@dataclass(frozen=True)
class Upload:
    """One uploaded image as it came: `data` is the compressed file of the form field `field`.

    Pixels are decoded when they are asked for: a waiting request stays as small as its upload.
    They are decoded by the caller's thread, for as long as it takes: what strangers send is read
    through `service.api.decoders`.
    """

    field: str
    data: bytes
    limits: ImageLimits

    def model_image(self, size: InputSize) -> ModelImage:
        """Decode and shrink to a model's input; raises InvalidField for a mask of one value."""
        read = _model_mask if self.field == _MASK else _model_picture
        return read(self, size)

    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """Decode to upright RGB at full size; transparency is laid on white."""
        return np.asarray(self.reduced_rgb(None).image)

    def reduced_rgb(self, smallest_side: int | None) -> Decoded:
        """Decode to upright RGB for shrinking.

        A JPEG may come at a fraction of its size, no side of it below `smallest_side`.
        """
        with _named_errors(self):
            decoded = _decode(self, smallest_side)
            return Decoded(rgb_of(decoded.image), decoded.width, decoded.height)

    def mask(self) -> Bool[np.ndarray, "h w"]:
        """Decode to a mask at full size: True where the value is above half.

        The value is the alpha channel where there is one that is not opaque everywhere, else the
        luminance.
        """
        with _named_errors(self):
            return mask_of(_decode(self, None).image)


@contextmanager
def _named_errors(upload: Upload) -> Iterator[None]:
    """Turn whatever Pillow raises over hostile bytes, a dozen unrelated types, into ours."""
    field = upload.field
    try:
        yield
    except PerceptError:
        raise
    except Image.DecompressionBombError as error:
        limit = str(upload.limits)
        raise TooLarge(f"{field} has too many pixels", field=field, limit=limit) from error
    except Bomb as error:
        limit = error.limit
        raise TooLarge(f"{field} is too costly to read", field=field, limit=limit) from error
    except MemoryError as error:
        limit = str(upload.limits)
        raise TooLarge(f"{field} takes too much memory", field=field, limit=limit) from error
    except Exception as error:
        limit = f"a whole {FORMATS}"
        raise InvalidField(
            f"{field} is damaged and cannot be decoded", field=field, limit=limit
        ) from error


def _model_picture(upload: Upload, size: InputSize) -> ModelImage:
    if isinstance(size, FixedSize):
        decoded = upload.reduced_rgb(max(size.example))
        values = image_to_input(decoded.image, *size.example)
        return ModelImage(values, decoded.width, decoded.height)
    # At full size: a JPEG decoded at a fraction of it is not quite the one that others decode, and
    # a model that keeps the shape is to answer as it does elsewhere.
    decoded = upload.reduced_rgb(None)
    fit = size.fit((decoded.height, decoded.width))
    return ModelImage(image_to_padded(decoded.image, fit), decoded.width, decoded.height)


def _model_mask(upload: Upload, size: InputSize) -> ModelImage:
    mask = upload.mask()
    if mask.all() or not mask.any():
        what = "everything" if mask.all() else "nothing"
        raise InvalidField(
            f"{upload.field} marks {what} as visible",
            field=upload.field,
            limit="some pixels above half and some not",
        )
    height, width = mask.shape
    fit = size.fit((height, width))
    return ModelImage(padded(mask_to_input(mask, *fit.content), fit), width, height)


def _decode(upload: Upload, smallest_side: int | None) -> Decoded:
    image = _open(upload)
    width, height = image.size
    if smallest_side is not None:
        image.draft(image.mode, (smallest_side, smallest_side))
    image.load()
    orientation = _orientation(image)
    if orientation in _SIDEWAYS:
        width, height = height, width
    turn = _TURNS.get(orientation)
    return Decoded(image if turn is None else image.transpose(turn), width, height)


def _open(upload: Upload) -> ImageFile.ImageFile:
    """Read the header and refuse what the limits or the decoder would not stand."""
    field, limits = upload.field, upload.limits
    if not upload.data:
        raise InvalidField(f"{field} is empty", field=field, limit=FORMATS)
    opener = next((o for magic, o in _OPENERS if upload.data.startswith(magic)), None)
    if opener is None:
        raise UnsupportedType(
            f"{field} is not an image of a known format", field=field, limit=FORMATS
        )
    refuse_bombs(upload.data, limits.max_pixels)
    image = opener(BoundedReader(upload.data))
    width, height = image.size
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise TooLarge(
            f"{field} measures {width} x {height} pixels",
            field=field,
            limit=str(limits),
        )
    if min(width, height) < limits.min_side:
        raise InvalidField(
            f"{field} measures {width} x {height} pixels",
            field=field,
            limit=f"at least {limits.min_side} pixels per side",
        )
    if not is_read(image.mode):
        raise UnsupportedType(
            f"{field} has the colour mode {image.mode}", field=field, limit=_COLOURS
        )
    if any(tile.codec_name == "bmp_rle" for tile in image.tile):
        # Decoded by a loop in Python, which would hold up every other request.
        raise UnsupportedType(f"{field} is a run-length encoded BMP", field=field, limit=FORMATS)
    return image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or it is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - broken metadata, met with any exception, spoils no picture
        return 1
