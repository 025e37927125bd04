"""Uploaded images to model inputs, and the rules that the images of one request obey together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service.api.images import ImageLimits, ModelImage, Upload
from service.core.artifact import EncoderSpec, FixedSize
from service.core.sizes import Fit, Size
from service.core.tasks import Task
from service.errors import InvalidField

MakeUpload = Callable[[str, bytes, ImageLimits], Upload]


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


def take_uploads(
    files: Mapping[str, bytes], task: Task, limits: ImageLimits, upload: MakeUpload = Upload
) -> tuple[Upload, ...]:
    """Pick a task's files out of a form, in its order; raises InvalidField for a missing one.

    `upload` makes what decodes them.
    """
    for field in task.images:
        if field not in files:
            needed = ", ".join(task.images)
            raise InvalidField(f"{field} is missing", field=field, limit=f"needed: {needed}")
    return tuple(upload(field, files[field], limits) for field in task.images)


def prepare_inputs(uploads: Sequence[Upload], encoder: EncoderSpec) -> ModelInputs:
    """Decode and shrink a request's images; raises InvalidField where they do not go together."""
    first, *others = images = [upload.model_image(encoder.size) for upload in uploads]
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
