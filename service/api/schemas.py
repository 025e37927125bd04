"""The wire, going out: JSON answers and model listings."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from service.api.budgets import rounded
from service.api.problems import Problem
from service.core.artifact import Artifact, ServedTask
from service.core.budget import QUALITIES, Choice, Quality, fit_errors
from service.core.ensemble import Reduction
from service.core.tasks import TASKS, TaskName
from service.engine.planner import frontier, plan_quality
from service.stores.base import JobState


class ImageData(BaseModel):
    """A map as a PNG; its values are `sample * scale + offset`, in the prediction's unit."""

    media_type: Literal["image/png"] = "image/png"
    data: str = Field(description="base64")
    scale: float
    offset: float


class UncertaintyData(BaseModel):
    """The members' spread: in the prediction's unit, or as an angle in half turns for normals."""

    mean: float
    maps: Sequence[ImageData] = Field(description="16-bit grey; flow has two, for u and for v")


class RunData(BaseModel):
    """How an answer was made: enough to get it again.

    Steps, ensemble and evaluations are those that were used, whoever chose them.
    """

    task: TaskName
    model: str
    steps: int
    ensemble: int
    evaluations: int
    unit: str = Field(description="What the prediction is in")
    expected_error: float | None = Field(
        description="Measured error of such a choice, in error_metric; null where it was not "
        "measured"
    )
    error_metric: str | None
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


class NormalsData(AnswerData):
    """Unit normals as a 16-bit RGB PNG: red is x (right), green y (up), blue z (to the viewer)."""


class CalibrationData(BaseModel):
    """Measured error of one choice of steps and ensemble."""

    steps: int
    ensemble: int
    error: float


class ChoiceData(BaseModel):
    """A choice of steps and ensemble that no cheaper one matches, and what it costs."""

    evaluations: int
    steps: int
    ensemble: int
    expected_error: float

    @classmethod
    def of(cls, choice: Choice) -> "ChoiceData":
        """Describe a planner's choice."""
        return cls(
            evaluations=choice.evaluations,
            steps=choice.steps,
            ensemble=choice.members,
            expected_error=rounded(choice.expected_error),
        )


class ServedTaskData(BaseModel):
    """What a model does for one task, with its defaults and what they were chosen from.

    `curve` is what more evaluations of the default output buy, by a law fitted to `calibration`;
    `qualities` are the points of it that `quality` chooses. Both are empty without a calibration.
    """

    task: TaskName
    outputs: Sequence[str]
    steps: int
    max_steps: int
    ensemble: int
    reduction: Reduction
    error_metric: str
    calibration: Sequence[CalibrationData]
    curve: Sequence[ChoiceData]
    qualities: Mapping[Quality, ChoiceData]

    @classmethod
    def of(cls, served: ServedTask) -> "ServedTaskData":
        """Describe a model's row for a task."""
        return cls(
            task=served.task,
            outputs=[o for o in TASKS[served.task].outputs if served.components_for(o)],
            steps=served.steps,
            max_steps=served.max_steps,
            ensemble=served.members,
            reduction=served.reduction,
            error_metric=served.error_metric,
            calibration=[
                CalibrationData(steps=p.steps, ensemble=p.members, error=p.error)
                for p in served.calibration
            ],
            curve=_curve(served),
            qualities=_qualities(served),
        )


def _num_components(served: ServedTask) -> int:
    return len(served.components_for(TASKS[served.task].default_output))


def _curve(served: ServedTask) -> Sequence[ChoiceData]:
    if not served.calibration:
        return []
    choices = frontier(fit_errors(served.calibration), _num_components(served))
    return [ChoiceData.of(choice) for choice in choices]


def _qualities(served: ServedTask) -> Mapping[Quality, ChoiceData]:
    if not served.calibration:
        return {}
    model, num_components = fit_errors(served.calibration), _num_components(served)
    return {name: ChoiceData.of(plan_quality(model, num_components, name)) for name in QUALITIES}


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
    """Every served model; `default` answers requests that name none, null while there is none."""

    default: str | None
    models: Sequence[ModelData]


class VersionList(BaseModel):
    """Versions of one model, newest first."""

    name: str
    versions: Sequence[int]


class JobData(BaseModel):
    """An asynchronous call; `done` of at most `total` denoiser evaluations are done."""

    id: str
    state: JobState
    task: str
    model: str
    created: datetime
    started: datetime | None = Field(description="When the present attempt began")
    finished: datetime | None
    done: int
    total: int
    eta_s: float | None = Field(description="Seconds to its end at the pace so far, once known")
    ahead: int | None = Field(description="Jobs that are queued before it, while it is queued")
    problem: Problem | None = Field(description="Why it failed")
    result: str = Field(description="Path of its answer")
    events: str = Field(description="Path of its course, as Server-Sent Events")


class Health(BaseModel):
    """The service answers."""

    status: Literal["ok"]
