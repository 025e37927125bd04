"""The tensors of a served model's networks: the exported model's contract as data.

Backends check what they load against it, and the exporter writes Triton's configuration from it.
"""

from dataclasses import dataclass
from typing import Literal

from service.core.artifact import Artifact, FixedSize, InputGrid
from service.core.sizes import Size

DType = Literal["float32", "int64"]


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
