"""Everything about a served model that is not a weight: `artifact.json` beside its denoiser.

Version V of a model is `1/model.onnx`, with V for 1, of each of its networks, and
`NAME_denoiser/V/artifact.json`: versions lie side by side, as Triton keeps them.

No constant of a checkpoint lives in code, since public checkpoints disagree on all of them. Loading
is strict (`core/record.py`), and every record checks itself, so an exporter fails where it errs.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from service.core.encodings import Encoding
from service.core.ensemble import Reduction
from service.core.lcm import ORIGINAL_STEPS
from service.core.record import ArtifactError as ArtifactError  # its callers import it from here
from service.core.record import dump_record, load_record, require
from service.core.schedule_spec import MAX_STEPS as MAX_STEPS
from service.core.schedule_spec import ScheduleSpec as ScheduleSpec
from service.core.sizes import FixedGrid as FixedGrid  # as parts of an artifact
from service.core.sizes import FixedSize as FixedSize
from service.core.sizes import InputGrid as InputGrid
from service.core.sizes import InputSize, LatentSize, Size
from service.core.sizes import LongestEdge as LongestEdge
from service.core.tasks import TASKS, TaskName

MAX_MEMBERS = 20

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RELATIVE_PATH = re.compile(r"(?!.*(^|/)\.{0,2}(/|$))[A-Za-z0-9_./-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LatentSpec:
    """Channels and size of a latent; the decoder is fed x_0 / scale."""

    channels: int
    size: LatentSize
    scale: float

    def __post_init__(self) -> None:
        for name in ("channels", "scale"):
            require(getattr(self, name) > 0, name, "must be positive")

    def shape(self, image: Size) -> tuple[int, int, int]:
        """Return (C, h, w) for an encoder's input of that size."""
        return (self.channels, *self.size.of(image))


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder: its model name, input size in pixels, and which inputs it has beside `image`."""

    model: str
    size: InputSize
    prompt: bool
    label: bool

    def __post_init__(self) -> None:
        _require_model_name("model", self.model)


@dataclass(frozen=True)
class Component:
    """One denoising run: its task label, and the image channels whose mean is each field."""

    name: str
    label: int
    channels: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        require(self.label >= 0, "label", "must not be negative")
        require(len(self.channels) > 0, "channels", "must yield a field")
        for field, channels in self.channels.items():
            fits = (
                bool(channels)
                and len(set(channels)) == len(channels)
                and set(channels) <= {0, 1, 2}
            )
            require(fits, f"channels.{field}", "must be distinct channels out of 0, 1, 2")


@dataclass(frozen=True)
class CalibrationPoint:
    """Measured error of one (steps, members) choice, in the task's `error_metric`."""

    steps: int
    members: int
    error: float

    def __post_init__(self) -> None:
        _require_budget(self.steps, self.members)
        require(self.error >= 0, "error", "must not be negative")


@dataclass(frozen=True)
class ServedTask:
    """How this model does one task.

    `prompt` says what goes into the encoder's `prompt` input: nothing, the task's second image, or
    `prompt_value` everywhere. `steps`, `members` and `reduction` are the model's defaults; more
    than `max_steps` it was not made for.
    """

    task: TaskName
    encoder: str
    prompt: Literal["none", "second", "constant"]
    prompt_value: float
    encoder_label: int
    components: tuple[Component, ...]
    encoding: Encoding
    steps: int
    max_steps: int
    members: int
    reduction: Reduction
    calibration: tuple[CalibrationPoint, ...]
    error_metric: str

    def __post_init__(self) -> None:
        task = TASKS[self.task]
        _require_budget(self.max_steps, self.members)
        for name, steps in (
            ("steps", self.steps),
            *((f"calibration[{i}].steps", point.steps) for i, point in enumerate(self.calibration)),
        ):
            require(1 <= steps <= self.max_steps, name, f"must be in 1..{self.max_steps}")
        require(self.encoder_label >= 0, "encoder_label", "must not be negative")
        require(self.encoding.kind == self.task, "encoding.kind", f"must be {self.task}")
        require(self.reduction in task.reductions, "reduction", f"is not one of {task.reductions}")
        has_second = self.prompt != "second" or len(task.images) > 1
        require(has_second, "prompt", f"must not be second: {self.task} has one image")
        _require_unique("components", (component.name for component in self.components))
        _require_unique("components", self._fields())
        for field in self._fields():
            require(field in task.fields, "components", f"{self.task} has no field {field}")
        enough = task.fields_for(task.default_output, self._fields()) is not None
        require(enough, "components", f"have too few fields for {task.default_output}")

    def _fields(self) -> tuple[str, ...]:
        return tuple(field for component in self.components for field in component.channels)

    def components_for(self, output: str) -> tuple[Component, ...]:
        """Return the components that must run for an output form, in the artifact's order.

        Empty when the model lacks fields that the form needs; KeyError for a form the task lacks.
        """
        fields = TASKS[self.task].fields_for(output, self._fields())
        needed = frozenset(fields or ())
        return tuple(c for c in self.components if not needed.isdisjoint(c.channels))


@dataclass(frozen=True)
class Artifact:
    """One version of one served model; `files` maps each relative path to its sha256."""

    format: Literal[1]
    name: str
    version: int
    description: str
    licence: str
    provenance: Mapping[str, str]
    schedule: ScheduleSpec
    latent: LatentSpec
    condition_channels: int
    timestep_dtype: Literal["int64", "float32"]
    has_labels: bool
    encoders: tuple[EncoderSpec, ...]
    denoiser: str
    decoder: str
    tasks: tuple[ServedTask, ...]
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        for field in ("name", "denoiser", "decoder"):
            _require_model_name(field, getattr(self, field))
        for field in ("version", "condition_channels"):
            require(getattr(self, field) > 0, field, "must be positive")
        _require_unique("encoders", (encoder.model for encoder in self.encoders))
        _require_unique("tasks", (served.task for served in self.tasks))
        require(len(self.tasks) > 0, "tasks", "must not be empty")
        for i, served in enumerate(self.tasks):
            self._check_encoder(served, f"tasks[{i}]")
            if self.schedule.sampler == "lcm":
                few = served.max_steps <= ORIGINAL_STEPS
                require(few, f"tasks[{i}].max_steps", f"must be at most {ORIGINAL_STEPS} for lcm")
        for path, digest in self.files.items():
            require(_RELATIVE_PATH.fullmatch(path) is not None, f"files.{path}", "is no plain path")
            require(_SHA256.fullmatch(digest) is not None, f"files.{path}", "is no sha256")
            own = path.split("/")[1:2] == [str(self.version)]
            require(own, f"files.{path}", f"must lie under NETWORK/{self.version}/")

    def _check_encoder(self, served: ServedTask, path: str) -> None:
        encoder = next((e for e in self.encoders if e.model == served.encoder), None)
        if encoder is None:
            raise ArtifactError(f"{path}.encoder", f"no encoder is named {served.encoder!r}")
        grid = self.latent.size
        if isinstance(grid, InputGrid):
            whole = all(side % grid.factor == 0 for side in encoder.size.example)
            require(whole, "latent.size.factor", f"must divide the input sides of {encoder.model}")
        else:
            fixed = isinstance(encoder.size, FixedSize)
            require(fixed, "latent.size", f"must follow the inputs of {encoder.model}")
        prompted = served.prompt != "none"
        require(prompted == encoder.prompt, f"{path}.prompt", "disagrees with the encoder's prompt")

    @property
    def key(self) -> str:
        """ "name:version", by which requests and answers name the model."""
        return f"{self.name}:{self.version}"

    def network(self, folder: str) -> str:
        """Return "folder:version", by which backends know this version of a network."""
        return f"{folder}:{self.version}"

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of the model's networks in the repository: encoders, denoiser, decoder."""
        return (*(encoder.model for encoder in self.encoders), self.denoiser, self.decoder)

    def checksum(self, folder: str) -> str:
        """Return the sha256, in hexadecimal, of what is listed of a network's version: its files.

        Over "path sha256" lines, sorted: one value, however many files hold the weights.
        """
        under = f"{folder}/{self.version}/"
        lines = sorted(
            f"{path} {digest}\n" for path, digest in self.files.items() if path.startswith(under)
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def served(self, task: TaskName) -> ServedTask:
        """Return the model's row for a task; raises KeyError when it does not do that task."""
        return {served.task: served for served in self.tasks}[task]

    def encoder(self, model: str) -> EncoderSpec:
        """Return the encoder of that model name; raises KeyError when there is none."""
        return {encoder.model: encoder for encoder in self.encoders}[model]


def load_artifact(text: str) -> Artifact:
    """Read `artifact.json`; raises ArtifactError with the path of the first field that is wrong."""
    return load_record(Artifact, text)


def dump_artifact(artifact: Artifact) -> str:
    """Write an artifact as JSON that `load_artifact` turns into an equal one."""
    return dump_record(artifact)


def _require_budget(steps: int, members: int) -> None:
    require(1 <= steps <= MAX_STEPS, "steps", f"must be in 1..{MAX_STEPS}")
    require(1 <= members <= MAX_MEMBERS, "members", f"must be in 1..{MAX_MEMBERS}")


def _require_model_name(path: str, name: str) -> None:
    require(_MODEL_NAME.fullmatch(name) is not None, path, "must be letters, digits and ._-")


def _require_unique(path: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        require(name not in seen, path, f"{name} appears twice")
        seen.add(name)
