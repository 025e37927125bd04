"""What may share a model call."""

from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

Stage = Literal["encode", "denoise", "decode"]
STAGES: tuple[Stage, ...] = ("encode", "denoise", "decode")


@runtime_checkable
class Row(Protocol):
    """Anything that can be scheduled: `owner` is the number of its request."""

    owner: int


R = TypeVar("R", bound=Row)


class Network(NamedTuple):
    """What a call costs by: a network ("folder:version"), and the shape of a row's input."""

    model: str
    shape: tuple[int, ...]


class Networks(NamedTuple):
    """What the calls of one request cost by."""

    encoder: Network
    denoiser: Network
    decoder: Network


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of equal groups may share a call.

    `served` is the served model ("name:version"), `model` the network to call ("folder:version"),
    `shape` that of one row's input.
    """

    stage: Stage
    served: str
    model: str
    shape: tuple[int, ...]

    @property
    def network(self) -> Network:
        """What its calls cost by."""
        return Network(self.model, self.shape)


@dataclass(frozen=True, slots=True)
class Batch(Generic[R]):
    """Rows for one call, in the order they were chosen. Never empty."""

    group: Group
    rows: tuple[R, ...]
