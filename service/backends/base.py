"""What the engine asks of whatever runs the networks, and the tensors of a served model.

Knows no runtime. `model_tensors` is the exported model's contract as data: backends check what they
load against it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from service.core.artifact import Artifact, FixedSize, InputGrid
from service.core.sizes import Size

DType = Literal["float32", "int64"]


class BackendError(Exception):
    """A model could not be loaded, or a call of it failed; the message says which and why."""


class LoadError(BackendError):
    """A model could not be read or forgotten; what was served before still is."""


class UnknownModel(BackendError):
    """There is no model of that name to read."""


@runtime_checkable
class Worker(Protocol):
    """One device that runs the networks of a model repository, one batch at a time."""

    @property
    def name(self) -> str:
        """What it is called in logs and metrics, such as `cpu:0`; no two workers share a name."""

    @property
    def device(self) -> str:
        """The kind of device: workers of equal speed share it, and what is learnt of its costs."""

    @property
    def max_calls(self) -> int:
        """Calls that may be in flight: 1 where nothing is gained by more, 2 across a network."""

    def serves(self, network: str) -> bool:
        """Whether it has a network ("folder:version") at present; models come and go."""

    async def run(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Call a network ("folder:version") and return its single output, rows in input order.

        Arrays have the names, types and shapes of `model_tensors`. Does not block the event loop.
        Raises BackendError. Equal inputs give equal outputs on every worker, up to rounding.
        """


@runtime_checkable
class Listener(Protocol):
    """Is told by a backend what can be used; quick, and called in the event loop."""

    def worker_joined(self, worker: Worker) -> None:
        """One more worker; no two share a name."""

    def worker_left(self, name: str) -> None:
        """A worker is to get no more calls."""

    def models_changed(self) -> None:
        """`artifacts`, or what some worker serves, is another than before."""


@runtime_checkable
class WorkerSource(Protocol):
    """Has workers."""

    @property
    def workers(self) -> Sequence[Worker]:
        """One per device or server."""


@runtime_checkable
class Backend(WorkerSource, Protocol):
    """The workers of one kind, and the models that they serve.

    Both are there from the start or come while it is open; who opens it is told.
    """

    @property
    def artifacts(self) -> Sequence[Artifact]:
        """Every version of every model that at least one worker serves."""

    async def open(self, listener: Listener) -> None:
        """Begin to look for workers and models where these come and go; tell of each change."""

    async def load(self, name: str) -> None:
        """Read a model again: new versions are served beside those that are.

        Raises LoadError, which leaves what was served, and UnknownModel.
        """

    async def unload(self, artifacts: Sequence[Artifact]) -> None:
        """Forget these versions, which nobody uses any more. Raises LoadError."""

    async def close(self) -> None:
        """Let go of models and threads, after the calls in flight."""


@dataclass(frozen=True)
class Tensor:
    """An input or output; `shape` is one row's, without the batch axis, None for any size.

    `example` is a shape that it may have.
    """

    name: str
    dtype: DType
    shape: tuple[int | None, ...]
    example: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """Inputs and the single output of one network."""

    inputs: tuple[Tensor, ...]
    output: Tensor


def model_tensors(artifact: Artifact) -> dict[str, Signature]:
    """Signature of each network of an artifact, by "folder:version"."""
    latent, first = artifact.latent, artifact.encoders[0].size
    channels, *grid = latent.shape(first.example)
    follows = isinstance(latent.size, InputGrid)

    def of_grid(name: str, depth: int) -> Tensor:
        return _picture(name, depth, (grid[0], grid[1]), varies=follows)

    condition = of_grid("condition", artifact.condition_channels)
    label = Tensor("task", "int64", (), ())
    signatures = {
        artifact.network(artifact.denoiser): Signature(
            (
                of_grid("noisy", channels),
                condition,
                Tensor("timestep", artifact.timestep_dtype, (), ()),
                *((label,) if artifact.has_labels else ()),
            ),
            of_grid("prediction", channels),
        ),
        artifact.network(artifact.decoder): Signature(
            (of_grid("latent", channels),), _picture("image", 3, first.example, varies=True)
        ),
    }
    for encoder in artifact.encoders:
        varies = not isinstance(encoder.size, FixedSize)
        inputs = [_picture("image", 3, encoder.size.example, varies=varies)]
        if encoder.prompt:
            inputs.append(_picture("prompt", 3, encoder.size.example, varies=varies))
        if encoder.label:
            inputs.append(label)
        signatures[artifact.network(encoder.model)] = Signature(tuple(inputs), condition)
    return signatures


def _picture(name: str, channels: int, size: Size, *, varies: bool) -> Tensor:
    example = (channels, *size)
    return Tensor(name, "float32", (channels, None, None) if varies else example, example)
