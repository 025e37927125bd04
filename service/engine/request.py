"""What a caller asks of the engine, what it gets, and the state of a request while it runs.

Knows no clock, no event loop and no backend: everything that changes during a run is plain data in
`Run` and its `Trajectory` rows, so any worker may take any row's next step.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from service.core.artifact import (
    MAX_MEMBERS,
    MAX_STEPS,
    Artifact,
    Component,
    EncoderSpec,
    ServedTask,
)
from service.core.sizes import Size
from service.engine.adaptive import next_round
from service.engine.groups import Network, Networks
from service.engine.sampling import STARTS, Sampling, draw_noise, make_sampling

MAX_SEED = 2**64 - 1

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)


@dataclass(frozen=True)
class Plan:
    """How much compute one answer may use: `steps` 1..200, `members` 1..20, `seed` a u64.

    With a `tolerance` (encoded units, of a range of 2) members are added in rounds until the next
    ones would move the mean by less, `members` at most; without one all of them are computed.
    Raises ValueError when a number is out of range.
    """

    steps: int
    members: int
    seed: int
    tolerance: float | None = None

    def __post_init__(self) -> None:
        for name, value, lowest, highest in (
            ("steps", self.steps, 1, MAX_STEPS),
            ("members", self.members, 1, MAX_MEMBERS),
            ("seed", self.seed, 0, MAX_SEED),
        ):
            if not lowest <= value <= highest:
                raise ValueError(f"{name} must be in {lowest}..{highest}, not {value}")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance must be above 0, not {self.tolerance}")


@dataclass(frozen=True)
class Terms:
    """How a request stands among others; moments are seconds on the engine's clock.

    Callers share the workers evenly, whatever each of them asks for. Past its `deadline` a request
    is given up. A plan with a tolerance adds no members after `grow_until`.
    """

    caller: str = ""
    priority: Priority = "normal"
    deadline: float | None = None
    grow_until: float | None = None


@dataclass(frozen=True)
class PredictionRequest:
    """One picture (or pair) to answer for, already at the encoder's input size.

    `model` is "name:version"; `task` one of `artifact.tasks`; `image` and `prompt` are RGB in
    [-1, 1], (3, H, W) of the task's encoder. `prompt` is given exactly when the task's prompt is
    "second"; a "constant" one is made by the engine. `components` are those of `task.components`
    that the wanted output needs. Raises ValueError naming the argument that does not fit.
    """

    model: str
    artifact: Artifact
    task: ServedTask
    image: Float32[np.ndarray, "3 image_height image_width"]
    prompt: Float32[np.ndarray, "3 prompt_height prompt_width"] | None
    plan: Plan
    components: tuple[Component, ...]
    terms: Terms = field(default_factory=Terms)

    def __post_init__(self) -> None:
        encoder, size = self.encoder, self.image.shape
        if not encoder.size.takes(size[1:]):
            raise ValueError(f"image must be of {encoder.size} for {encoder.model}, not {size}")
        if (self.prompt is not None) != (self.task.prompt == "second"):
            raise ValueError(f"prompt does not fit a task whose prompt is {self.task.prompt!r}")
        if self.prompt is not None and self.prompt.shape != size:
            raise ValueError(f"prompt must be {size}, like the image, not {self.prompt.shape}")
        if not self.components or len(set(self.component_indices)) != len(self.components):
            raise ValueError("components must be one or more different components of the task")

    @property
    def encoder(self) -> EncoderSpec:
        """The encoder of this request's task."""
        return self.artifact.encoder(self.task.encoder)

    @property
    def component_indices(self) -> tuple[int, ...]:
        """Place of each wanted component among the task's. ValueError for a foreign component."""
        return tuple(self.task.components.index(component) for component in self.components)

    @property
    def networks(self) -> Networks:
        """What its calls cost by."""
        return networks_of(self.artifact, self.task, self.image.shape[1:])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture of this size."""
        return self.artifact.latent.shape(self.image.shape[1:])

    @property
    def evaluations(self) -> int:
        """Most rows of denoiser calls that the answer costs: steps x members x components."""
        return self.plan.steps * self.plan.members * len(self.components)


def networks_of(artifact: Artifact, task: ServedTask, size: Size) -> Networks:
    """What calls for a task cost by, for an encoder's input of `size`."""
    latent = artifact.latent.shape(size)
    return Networks(
        Network(artifact.network(task.encoder), (3, *size)),
        Network(artifact.network(artifact.denoiser), latent),
        Network(artifact.network(artifact.decoder), latent),
    )


@dataclass(frozen=True)
class Timings:
    """Wall time in ms; the four follow each other and add up to the time inside the engine.

    `queue`: admission until the encoder call starts. `encode`: that call. `denoise`: until the
    last row has taken its last step, turns of other requests included. `decode`: the rest.
    """

    queue_ms: float
    encode_ms: float
    denoise_ms: float
    decode_ms: float


@dataclass(frozen=True)
class EngineResult:
    """Encoded fields as the decoder gives them, one (N, H, W) per field, N members in order.

    Values are in the encoded range, nominally [-1, 1]; they may exceed it. A field is the mean of
    the decoder channels its component names. `evaluations` is steps x members x components.
    """

    fields: dict[str, Float32[np.ndarray, "members height width"]]
    members: int
    evaluations: int
    timings: Timings


@dataclass(frozen=True)
class Progress:
    """How far a request is: `done` of at most `total` evaluations.

    `fields` are those of the members that are finished, as in EngineResult; None while none are.
    """

    done: int
    total: int
    fields: Mapping[str, Float32[np.ndarray, "members height width"]] | None


Follow = Callable[[Progress], None]
"""Told of a request's progress, in the event loop: must be quick and not raise."""


@dataclass(slots=True, eq=False)
class Trajectory:
    """One member of one component on its way from noise to a decoded image. Mutable.

    `x_t` is float32 (C, h, w) at `step` (0-based: the step it takes next), `component` the place
    of its component in the request, `image` the decoder's (3, H, W) once there is one.
    `failed_on` names the workers on which its next call failed, `num_lost` counts those that were
    lost under it.
    """

    owner: int
    run: "Run"
    component: int
    label: int
    member: int
    x_t: np.ndarray
    step: int = 0
    image: np.ndarray | None = None
    failed_on: tuple[str, ...] = ()
    num_lost: int = 0

    def fresh_noise(self) -> np.ndarray:
        """Noise (C, h, w) that the present step adds, of this row and step alone."""
        request = self.run.request
        component = request.component_indices[self.component]
        seed = request.plan.seed
        return draw_noise(seed, self.member, component, request.latent_shape, self.step + 1)


@dataclass(slots=True, eq=False)
class Run:
    """A request while it runs: what its trajectories share. Mutable.

    `owner` is the number it was admitted under; `condition` is the encoder's (K, h, w), empty
    until there is one; `trajectories` grow by members while a plan with a tolerance wants more.
    """

    owner: int
    request: PredictionRequest
    sampling: Sampling
    condition: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    trajectories: tuple[Trajectory, ...] = field(default=())

    @property
    def num_members(self) -> int:
        """Members that the run has so far."""
        return len(self.trajectories) // len(self.request.components)

    @property
    def evaluations(self) -> int:
        """Rows of denoiser calls that its members take from noise to their end."""
        return len(self.trajectories) * self.request.plan.steps


def make_run(owner: int, request: PredictionRequest, *, in_rounds: bool = False) -> Run:
    """A run at its beginning: a trajectory of pure noise per component and member.

    `in_rounds` there are only those of the first round, as for a plan with a tolerance.
    """
    run = Run(owner, request, make_sampling(request.artifact.schedule, request.plan.steps))
    plan = request.plan
    grow(run, next_round(1, plan.members) if in_rounds else plan.members)
    return run


def grow(run: Run, members: int) -> tuple[Trajectory, ...]:
    """Add members to a run until it has so many; return the new trajectories."""
    new = tuple(_trajectories(run, range(run.num_members, members)))
    run.trajectories += new
    return new


def _trajectories(run: Run, members: range) -> Iterator[Trajectory]:
    request = run.request
    starts = STARTS[request.artifact.schedule.start]
    for place, index in enumerate(request.component_indices):
        label = request.components[place].label
        for member in members:
            # keyed by the place in the task, not in the request: an answer does not depend on
            # which other components were asked for
            x_t = starts(request.plan.seed, member, index, request.latent_shape)
            yield Trajectory(run.owner, run, place, label, member, x_t)


def collect_fields(run: Run) -> dict[str, Float32[np.ndarray, "members height width"]]:
    """Every field of a run whose trajectories all have their image: (N, H, W), members in order."""
    fields: dict[str, list[np.ndarray]] = {}
    for row in sorted(run.trajectories, key=attrgetter("component", "member")):
        if row.image is None:
            raise ValueError("a trajectory has no image yet")
        for name, channels in run.request.components[row.component].channels.items():
            plane = row.image[list(channels)].mean(axis=0, dtype=np.float32)
            fields.setdefault(name, []).append(plane)
    return {name: np.stack(planes) for name, planes in fields.items()}
