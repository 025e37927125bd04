"""The wire: a form's text fields coming in, JSON answers and model listings going out."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.core.artifact import MAX_MEMBERS, MAX_STEPS, Artifact, ServedTask
from service.core.ensemble import Reduction
from service.core.tasks import TASKS, Task, TaskName
from service.errors import InvalidField

MAX_SEED = 2**64 - 1


class Knobs(BaseModel):
    """What a caller may choose about a prediction; None is the model's or the task's choice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Annotated[
        int | None, Field(ge=1, le=MAX_STEPS, description="Denoising steps; default: the model's")
    ] = None
    ensemble: Annotated[
        int | None, Field(ge=1, le=MAX_MEMBERS, description="Members; default: the model's")
    ] = None
    seed: Annotated[
        int | None,
        Field(
            ge=0,
            le=MAX_SEED,
            description="Up to 64 bits. Same seed, model and knobs: same answer. "
            "Default: random, and returned",
        ),
    ] = None
    reduction: Annotated[
        Reduction | None, Field(description="How members become one; default: the model's")
    ] = None
    uncertainty: Annotated[
        bool,
        Field(
            description="Add the members' spread: a map in npz and json, its mean in "
            "X-Percept-Uncertainty with every output"
        ),
    ] = False
    all_members: Annotated[
        bool, Field(description="Add every member's own prediction; npz only")
    ] = False
    output: Annotated[str | None, Field(description="Form of the answer")] = None
    model: Annotated[
        str | None, Field(description="Served model, `name` or `name:version`; see /models")
    ] = None


def parse_knobs(texts: Mapping[str, str], task: Task) -> Knobs:
    """Validate a form's text fields for a task; raises InvalidField for the first that is wrong."""
    try:
        knobs = Knobs.model_validate(texts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][0])
        raise InvalidField(
            f"{field}: {first['msg']}", field=field, limit=allowed(field, task)
        ) from error
    for field, value in (("output", knobs.output), ("reduction", knobs.reduction)):
        if value is not None and value not in choices(task)[field]:
            raise InvalidField(
                f"{task.name} has no {field} {value!r}", field=field, limit=allowed(field, task)
            )
    if knobs.all_members and (knobs.output or task.default_output) != "npz":
        raise InvalidField(
            "Only npz can hold every member", field="all_members", limit="output=npz"
        )
    return knobs


def choices(task: Task) -> Mapping[str, Sequence[str]]:
    """Return the values of the fields that a task's row enumerates."""
    return {"output": tuple(task.outputs), "reduction": task.reductions}


def allowed(field: str, task: Task) -> str:
    """Describe what a text field may hold."""
    limits = {
        "steps": f"1..{MAX_STEPS}",
        "ensemble": f"1..{MAX_MEMBERS}",
        "seed": f"0..{MAX_SEED}",
        "uncertainty": "true or false",
        "all_members": "true or false",
        **{name: ", ".join(values) for name, values in choices(task).items()},
    }
    return limits.get(field, ", ".join(Knobs.model_fields))


class ImageData(BaseModel):
    """A map as a PNG; its values are `sample * scale + offset`, in the prediction's unit."""

    media_type: Literal["image/png"] = "image/png"
    data: str = Field(description="base64")
    scale: float
    offset: float


class UncertaintyData(BaseModel):
    """The members' spread, in the prediction's unit."""

    mean: float
    maps: Sequence[ImageData] = Field(description="16-bit grey; flow has two, for u and for v")


class RunData(BaseModel):
    """How an answer was made: enough to get it again."""

    task: TaskName
    model: str
    steps: int
    ensemble: int
    evaluations: int
    seed: int
    reduction: Reduction
    width: int
    height: int


class AnswerData(BaseModel):
    """What every JSON answer holds. Timings are in ms."""

    run: RunData
    timings: Mapping[str, float]
    prediction: ImageData
    uncertainty: UncertaintyData | None


class DepthData(AnswerData):
    """Relative depth, 0 nearest and 1 farthest, as a 16-bit grey PNG."""


class FlowData(AnswerData):
    """Motion in px as a KITTI PNG: red is u, green is v, blue is 1 where valid (below 512 px)."""

    mean_length_px: float
    max_length_px: float


class AmodalData(AnswerData):
    """The whole object's mask as an 8-bit grey PNG, with what it says about the object."""

    visible_pixels: int
    whole_pixels: int
    hidden_fraction: float = Field(description="Share of the whole object that is hidden, 0..1")
    box: tuple[int, int, int, int] = Field(
        description="Left, top, right, bottom of the whole object; right and bottom exclusive"
    )


class CalibrationData(BaseModel):
    """Measured error of one choice of steps and ensemble."""

    steps: int
    ensemble: int
    error: float


class ServedTaskData(BaseModel):
    """What a model does for one task, with its defaults and what they were chosen from."""

    task: TaskName
    outputs: Sequence[str]
    steps: int
    ensemble: int
    reduction: Reduction
    error_metric: str
    calibration: Sequence[CalibrationData]

    @classmethod
    def of(cls, served: ServedTask) -> "ServedTaskData":
        """Describe a model's row for a task."""
        return cls(
            task=served.task,
            outputs=[o for o in TASKS[served.task].outputs if served.components_for(o)],
            steps=served.steps,
            ensemble=served.members,
            reduction=served.reduction,
            error_metric=served.error_metric,
            calibration=[
                CalibrationData(steps=p.steps, ensemble=p.members, error=p.error)
                for p in served.calibration
            ],
        )


class ModelData(BaseModel):
    """One served model."""

    name: str
    version: int
    description: str
    licence: str
    provenance: Mapping[str, str]
    tasks: Sequence[ServedTaskData]

    @classmethod
    def of(cls, artifact: Artifact) -> "ModelData":
        """Describe a model by its artifact."""
        return cls(
            name=artifact.name,
            version=artifact.version,
            description=artifact.description,
            licence=artifact.licence,
            provenance=artifact.provenance,
            tasks=[ServedTaskData.of(served) for served in artifact.tasks],
        )


class ModelList(BaseModel):
    """Every served model; `default` answers requests that name none."""

    default: str
    models: Sequence[ModelData]


class Health(BaseModel):
    """The service answers."""

    status: Literal["ok"]
