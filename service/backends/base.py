"""What the engine asks of whatever runs the networks, and the tensors of a served model.

Knows no runtime. `model_tensors` is the exported model's contract as data: backends check what they
load against it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from service.core.artifact import Artifact

DType = Literal["float32", "int64"]


class BackendError(Exception):
    """A model could not be loaded, or a call of it failed; the message says which and why."""


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

    async def run(self, model: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Call `model` (its folder's name) and return its single output, rows in input order.

        Arrays have the names, types and shapes of `model_tensors`. Does not block the event loop.
        Raises BackendError. Equal inputs give equal outputs on every worker, up to rounding.
        """


@runtime_checkable
class Backend(Protocol):
    """The workers of one kind, and what they share."""

    @property
    def workers(self) -> Sequence[Worker]:
        """One per device."""

    async def close(self) -> None:
        """Let go of models and threads, after the calls in flight."""


@dataclass(frozen=True)
class Tensor:
    """An input or output; `shape` is one row's, without the batch axis, None for any size."""

    name: str
    dtype: DType
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Signature:
    """Inputs and the single output of one network."""

    inputs: tuple[Tensor, ...]
    output: Tensor


def model_tensors(artifact: Artifact) -> dict[str, Signature]:
    """Signature of each network an artifact names, by the network's name in the repository."""
    latent = artifact.latent
    size = (latent.height, latent.width)
    x_t = (latent.channels, *size)
    condition = Tensor("condition", "float32", (artifact.condition_channels, *size))
    label = Tensor("task", "int64", ())
    signatures = {
        artifact.denoiser: Signature(
            (
                Tensor("noisy", "float32", x_t),
                condition,
                Tensor("timestep", artifact.timestep_dtype, ()),
                *((label,) if artifact.has_labels else ()),
            ),
            Tensor("prediction", "float32", x_t),
        ),
        artifact.decoder: Signature(
            (Tensor("latent", "float32", x_t),), Tensor("image", "float32", (3, None, None))
        ),
    }
    for encoder in artifact.encoders:
        picture = (3, encoder.height, encoder.width)
        inputs = [Tensor("image", "float32", picture)]
        if encoder.prompt:
            inputs.append(Tensor("prompt", "float32", picture))
        if encoder.label:
            inputs.append(label)
        signatures[encoder.model] = Signature(tuple(inputs), condition)
    return signatures
