"""What public latent diffusion models predict of a picture: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.core.artifact import MAX_MEMBERS, Component, ServedTask
from service.core.encodings import DepthEncoding, Encoding, NormalsEncoding, X
from service.core.ensemble import Reduction
from service.core.tasks import TaskName
from training.converters.config import Config
from training.converters.record import ConvertError, Request


@dataclass(frozen=True)
class Quantity:
    """One of `QUANTITIES`.

    `channels` are those of the decoded picture that each field is the mean of, `encoding` what
    they mean, from the folder's index and the way its normals' x points. Members are made one by
    `reduction`, or by `as_they_are` where they may not be scaled and shifted. `pipeline` is the
    diffusers class of folders that hold it; `unstated` what no file of any folder says.
    """

    description: str
    task: TaskName
    channels: Mapping[str, tuple[int, ...]]
    encoding: Callable[[Config, X], Encoding]
    reduction: Reduction
    as_they_are: Reduction
    pipeline: str
    unstated: str = ""

    def notes(self, x: X) -> list[str]:
        """What a person should know, as the files do not say it."""
        return [self.unstated.format(x=x)] if self.unstated else []


def _normals(index: Config, x: X) -> NormalsEncoding:
    full = index.default("use_full_z_range", bool, True)
    return NormalsEncoding(x=x, z_range="full" if full else "half")


_GREY = {"depth": (0, 1, 2)}

QUANTITIES: Mapping[str, Quantity] = {
    "depth": Quantity(
        description="relative depth",
        task="depth",
        channels=_GREY,
        encoding=lambda *_: DepthEncoding(),
        reduction="aligned",
        as_they_are="median",
        pipeline="MarigoldDepthPipeline",
    ),
    "disparity": Quantity(
        description="relative disparity",
        task="depth",
        channels=_GREY,
        encoding=lambda *_: DepthEncoding(quantity="disparity"),
        reduction="aligned",
        as_they_are="median",
        pipeline="MarigoldDepthPipeline",
    ),
    "normals": Quantity(
        description="surface normals",
        task="normals",
        channels={"x": (0,), "y": (1,), "z": (2,)},
        encoding=_normals,
        reduction="closest",
        as_they_are="closest",
        pipeline="MarigoldNormalsPipeline",
        unstated="no file says which way the axes of its normals point: x is taken to point {x}, "
        "y up and z to the viewer, as the family's own code has them",
    ),
}


def chosen_quantity(request: Request, index: Config) -> Quantity:
    """What is predicted: as the index states it, or as the request says where it does not."""
    stated = index.maybe("prediction_type", str) or _implied(index)
    if stated is not None and request.predicts not in (None, stated):
        raise ConvertError(
            f"{index.path} states prediction_type {stated!r}, against --predicts {request.predicts}"
        )
    name = stated or request.predicts
    if name is None:
        raise ConvertError(
            f"{index.path} does not state prediction_type: pass --predicts "
            f"{' or --predicts '.join(QUANTITIES)}"
        )
    if name not in QUANTITIES:
        raise ConvertError(
            f"{index.path}: prediction_type is {name!r}; known are {', '.join(QUANTITIES)}"
        )
    return QUANTITIES[name]


def _implied(index: Config) -> str | None:
    """The only quantity that folders of such a class hold."""
    pipeline = index.maybe("_class_name", str)
    held = [name for name, quantity in QUANTITIES.items() if quantity.pipeline == pipeline]
    return held[0] if len(held) == 1 else None


def served_task(
    quantity: Quantity,
    encoder: str,
    encoding: Encoding,
    *,
    steps: int,
    max_steps: int,
    members: int,
    reduction: Reduction,
) -> ServedTask:
    """The row of a model that paints a quantity into the decoder's channels."""
    if not 1 <= steps <= max_steps:
        raise ConvertError(f"--steps must be in 1..{max_steps} for such a checkpoint, not {steps}")
    if not 1 <= members <= MAX_MEMBERS:
        raise ConvertError(f"--ensemble must be in 1..{MAX_MEMBERS}, not {members}")
    return ServedTask(
        task=quantity.task,
        encoder=encoder,
        prompt="none",
        prompt_value=0.0,
        encoder_label=0,
        components=(Component(quantity.task, 0, quantity.channels),),
        encoding=encoding,
        steps=steps,
        max_steps=max_steps,
        members=members,
        reduction=reduction,
        calibration=(),
        error_metric="",
    )
