"""Uploaded images to model inputs, and the rules that the images of one request obey together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from service.api.images import ImageLimits, Upload
from service.api.resample import image_to_input, image_to_padded, mask_to_input, padded
from service.core.artifact import EncoderSpec, FixedSize
from service.core.sizes import Fit, Size
from service.core.tasks import Task
from service.errors import InvalidField


@dataclass(frozen=True)
class ModelImage:
    """One image at a model's input size, RGB in [-1, 1], and the size of its upload."""

    values: Float32[np.ndarray, "3 model_h model_w"]
    width: int
    height: int


@dataclass(frozen=True)
class ModelInputs:
    """A request's images in the task's order, all from uploads of `width` x `height` pixels.

    `fit` is None where they were stretched to the model's size; else they kept their shape.
    """

    images: tuple[ModelImage, ...]
    width: int
    height: int
    fit: Fit | None

    @property
    def size(self) -> Size:
        """Height and width of the model's input."""
        _, height, width = self.images[0].values.shape
        return height, width


def take_uploads(files: Mapping[str, bytes], task: Task, limits: ImageLimits) -> tuple[Upload, ...]:
    """Pick a task's files out of a form, in its order; raises InvalidField for a missing one."""
    for field in task.images:
        if field not in files:
            needed = ", ".join(task.images)
            raise InvalidField(f"{field} is missing", field=field, limit=f"needed: {needed}")
    return tuple(Upload(field, files[field], limits) for field in task.images)


def prepare_inputs(uploads: Sequence[Upload], encoder: EncoderSpec) -> ModelInputs:
    """Decode and shrink a request's images; raises InvalidField where they do not go together."""
    first, *others = images = [_READERS[upload.field](upload, encoder) for upload in uploads]
    for upload, image in zip(uploads[1:], others, strict=True):
        if (image.width, image.height) != (first.width, first.height):
            raise InvalidField(
                f"{upload.field} measures {image.width} x {image.height} pixels",
                field=upload.field,
                limit=f"{first.width} x {first.height} pixels, like {uploads[0].field}",
            )
    fit = _fit(encoder, first.width, first.height)
    return ModelInputs(tuple(images), first.width, first.height, fit)


def _fit(encoder: EncoderSpec, width: int, height: int) -> Fit | None:
    if isinstance(encoder.size, FixedSize):
        return None
    return encoder.size.fit((height, width))


def _read_picture(upload: Upload, encoder: EncoderSpec) -> ModelImage:
    if isinstance(encoder.size, FixedSize):
        decoded = upload.reduced_rgb(max(encoder.size.example))
        values = image_to_input(decoded.image, *encoder.size.example)
        return ModelImage(values, decoded.width, decoded.height)
    # At full size: a JPEG decoded at a fraction of it is not quite the one that others decode, and
    # a model that keeps the shape is to answer as it does elsewhere.
    decoded = upload.reduced_rgb(None)
    fit = encoder.size.fit((decoded.height, decoded.width))
    return ModelImage(image_to_padded(decoded.image, fit), decoded.width, decoded.height)


def _read_mask(upload: Upload, encoder: EncoderSpec) -> ModelImage:
    mask = upload.mask()
    if mask.all() or not mask.any():
        what = "everything" if mask.all() else "nothing"
        raise InvalidField(
            f"{upload.field} marks {what} as visible",
            field=upload.field,
            limit="some pixels above half and some not",
        )
    height, width = mask.shape
    fit = encoder.size.fit((height, width))
    return ModelImage(padded(mask_to_input(mask, *fit.content), fit), width, height)


_READERS: Mapping[str, Callable[[Upload, EncoderSpec], ModelImage]] = {
    "image": _read_picture,
    "frame1": _read_picture,
    "frame2": _read_picture,
    "mask": _read_mask,
}
