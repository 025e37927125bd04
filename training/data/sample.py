"""What a data source yields: single samples of public data sets, or batches of rendered pictures.

A `Sample` is one picture (or pair) of a data set in its own size, uint8, with the exact answer of
one task. A batch holds pictures of one size: images are float32 RGB in [0, 1]; masks are float32
0 or 1; B is the batch, S the side of the square pictures in px.
A source does not know how a model encodes its answers: that is `training.targets`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Record = TypeVar("Record")
Picture = NDArray[np.uint8]  # (H, W, 3), RGB
Array = NDArray[np.float32]
Mask = NDArray[np.bool_]  # (H, W)


class DataError(Exception):
    """A data set or one of its files is not what it should be; the message names it."""


@dataclass(frozen=True, eq=False)
class DepthTruth:
    """Distance of every pixel along the optical axis; 0 where it is not known."""

    depth: Array  # (H, W), metres
    valid: Mask  # (H, W)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.valid.shape[0], self.valid.shape[1]


@dataclass(frozen=True, eq=False)
class FlowTruth:
    """Where every pixel of the first frame went; 0 where it is not known."""

    flow: Array  # (2, H, W), px, x right, y down
    valid: Mask  # (H, W)
    occluded: Mask | None = None  # (H, W), the point is not visible in the second frame

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.valid.shape[0], self.valid.shape[1]


@dataclass(frozen=True, eq=False)
class AmodalTruth:
    """What is seen of an object, its whole shape, and its look as a whole where that is known."""

    visible: Mask  # (H, W)
    amodal: Mask  # (H, W)
    whole: Picture | None = None  # (H, W, 3), the whole object on white

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.visible.shape[0], self.visible.shape[1]


Truth = DepthTruth | FlowTruth | AmodalTruth


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture, or two frames, and the answer of one task in the same size.

    `name` is the picture's path below the root of its set: it stays the same between machines.
    Raises DataError if the pictures and the answer differ in size.
    """

    name: str
    images: tuple[Picture, ...]  # one or two, (H, W, 3)
    truth: Truth

    def __post_init__(self) -> None:
        for image in self.images:
            if image.shape != (*self.truth.shape, 3):
                raise DataError(
                    f"{self.name}: the picture is {image.shape[1]} x {image.shape[0]} px, "
                    f"its answer {self.truth.shape[1]} x {self.truth.shape[0]}"
                )


@dataclass(frozen=True, eq=False)
class Samples(Sequence[Sample], Generic[Record]):
    """Samples that are read from their files when they are asked for. Reading raises DataError.

    A slice is again lazy.
    """

    records: Sequence[Record]
    read: Callable[[Record], Sample]

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples[Record]: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples[Record]:
        if isinstance(index, slice):
            return Samples(self.records[index], self.read)
        return self.read(self.records[index])

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, self.records)


@dataclass(frozen=True)
class DepthBatch:
    """One picture each and the distance of every pixel along the optical axis."""

    image: Tensor  # (B, 3, S, S)
    depth: Tensor  # (B, 1, S, S), > 0 where valid, plane depth in scene units
    valid: Tensor | None = None  # (B, 1, S, S), bool; None where every pixel is


@dataclass(frozen=True)
class FlowBatch:
    """Two frames each, and where every pixel of the first one went."""

    frame1: Tensor  # (B, 3, S, S)
    frame2: Tensor  # (B, 3, S, S)
    flow: Tensor  # (B, 2, S, S), px of these frames, x right, y down
    occluded: Tensor  # (B, 1, S, S), bool: the point is known to be hidden in the second frame
    valid: Tensor | None = None  # (B, 1, S, S), bool; None where every pixel is


@dataclass(frozen=True)
class AmodalBatch:
    """A half-hidden object each: what is seen of it, its whole shape, its look as a whole."""

    image: Tensor  # (B, 3, S, S)
    visible: Tensor  # (B, 1, S, S), 0 or 1
    amodal: Tensor  # (B, 1, S, S), 0 or 1, contains `visible`
    whole: Tensor  # (B, 3, S, S), the whole object on white


Batch = DepthBatch | FlowBatch | AmodalBatch
