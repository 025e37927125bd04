"""What a caller asks of the engine, what it gets, and the state of a request while it runs.

Knows no clock, no event loop and no backend: everything that changes during a run is plain data in
`Run` and its `Trajectory` rows, so any worker may take any row's next step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from jaxtyping import Float32

from service.core.artifact import (
    MAX_MEMBERS,
    MAX_STEPS,
    Artifact,
    Component,
    EncoderSpec,
    ScheduleSpec,
    ServedTask,
)
from service.core.ddim import ddim_coefficients

MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class Plan:
    """How much compute one answer may use: `steps` 1..200, `members` 1..20, `seed` a u64.

    Raises ValueError when a number is out of range.
    """

    steps: int
    members: int
    seed: int

    def __post_init__(self) -> None:
        for name, value, lowest, highest in (
            ("steps", self.steps, 1, MAX_STEPS),
            ("members", self.members, 1, MAX_MEMBERS),
            ("seed", self.seed, 0, MAX_SEED),
        ):
            if not lowest <= value <= highest:
                raise ValueError(f"{name} must be in {lowest}..{highest}, not {value}")


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

    def __post_init__(self) -> None:
        encoder = self.encoder
        size = (3, encoder.height, encoder.width)
        if self.image.shape != size:
            raise ValueError(f"image must be {size} for {encoder.model}, not {self.image.shape}")
        if (self.prompt is not None) != (self.task.prompt == "second"):
            raise ValueError(f"prompt does not fit a task whose prompt is {self.task.prompt!r}")
        if self.prompt is not None and self.prompt.shape != size:
            raise ValueError(f"prompt must be {size} for {encoder.model}, not {self.prompt.shape}")
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
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the model's latent."""
        latent = self.artifact.latent
        return (latent.channels, latent.height, latent.width)

    @property
    def evaluations(self) -> int:
        """Rows of denoiser calls that the answer costs: steps x members x components."""
        return self.plan.steps * self.plan.members * len(self.components)


class EngineError(Exception):
    """A request could not be answered; the message says why."""


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
    evaluations: int
    timings: Timings


@dataclass(frozen=True)
class Sampling:
    """One DDIM run: at step i of `steps`, evaluate at `timesteps[i]`, x_t <- a[i] x_t + b[i] out.

    Python scalars, because batches gather them one row at a time; a and b are exact float32.
    """

    timesteps: tuple[int, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]


@lru_cache(maxsize=512)
def make_sampling(spec: ScheduleSpec, steps: int) -> Sampling:
    """The `steps` timesteps of a checkpoint's schedule with their DDIM coefficients."""
    t, t_prev = np.array(spec.step_pairs(steps), dtype=np.int64).T
    a, b = ddim_coefficients(spec.build(), spec.prediction_type, t, t_prev)
    return Sampling(tuple(t.tolist()), tuple(a.tolist()), tuple(b.tolist()))


def draw_noise(
    seed: int, member: int, component: int, shape: tuple[int, int, int]
) -> Float32[np.ndarray, "c h w"]:
    """Standard normal x_T of one trajectory.

    Philox is counter-based, so every (seed, member, component) key has its own stream: the first
    members of a larger ensemble are those of a smaller one, and a component asked for alone is the
    one asked for with others.
    """
    key = np.array([seed, member << 32 | component], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    return generator.standard_normal(shape, dtype=np.float32)


@dataclass(slots=True, eq=False)
class Trajectory:
    """One member of one component on its way from noise to a decoded image. Mutable.

    `x_t` is float32 (C, h, w) at `step` (0-based: the step it takes next), `component` the place
    of its component in the request, `image` the decoder's (3, H, W) once there is one.
    """

    owner: int
    run: "Run"
    component: int
    label: int
    member: int
    x_t: np.ndarray
    step: int = 0
    image: np.ndarray | None = None


@dataclass(slots=True, eq=False)
class Run:
    """A request while it runs: what its trajectories share. Mutable.

    `owner` is the number it was admitted under; `condition` is the encoder's (K, h, w), empty
    until there is one.
    """

    owner: int
    request: PredictionRequest
    sampling: Sampling
    condition: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    trajectories: tuple[Trajectory, ...] = field(default=())


def make_run(owner: int, request: PredictionRequest) -> Run:
    """A run at its beginning: a trajectory of pure noise per component and member."""
    run = Run(owner, request, make_sampling(request.artifact.schedule, request.plan.steps))
    run.trajectories = tuple(_trajectories(run))
    return run


def _trajectories(run: Run) -> Iterator[Trajectory]:
    request = run.request
    for place, index in enumerate(request.component_indices):
        label = request.components[place].label
        for member in range(request.plan.members):
            # keyed by the place in the task, not in the request: an answer does not depend on
            # which other components were asked for
            x_t = draw_noise(request.plan.seed, member, index, request.latent_shape)
            yield Trajectory(run.owner, run, place, label, member, x_t)


def collect_fields(run: Run) -> dict[str, Float32[np.ndarray, "members height width"]]:
    """Every field of a run whose trajectories all have their image: (N, H, W), members in order."""
    fields: dict[str, list[np.ndarray]] = {}
    for row in run.trajectories:
        if row.image is None:
            raise ValueError("a trajectory has no image yet")
        for name, channels in run.request.components[row.component].channels.items():
            plane = row.image[list(channels)].mean(axis=0, dtype=np.float32)
            fields.setdefault(name, []).append(plane)
    return {name: np.stack(planes) for name, planes in fields.items()}
