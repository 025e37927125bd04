"""What a data source yields: batches of images with the exact answer of one task.

Images are float32 RGB in [0, 1]; masks are float32 0 or 1; B is the batch, S the side of the square
pictures in px.
A source does not know how a model encodes its answers: that is `training.targets`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DepthBatch:
    """One picture each and the distance of every pixel along the optical axis."""

    image: Tensor  # (B, 3, S, S)
    depth: Tensor  # (B, 1, S, S), > 0, plane depth in scene units


@dataclass(frozen=True)
class FlowBatch:
    """Two frames each, and where every pixel of the first one went."""

    frame1: Tensor  # (B, 3, S, S)
    frame2: Tensor  # (B, 3, S, S)
    flow: Tensor  # (B, 2, S, S), px of these frames, x right, y down
    occluded: Tensor  # (B, 1, S, S), bool: the point is not visible in the second frame


@dataclass(frozen=True)
class AmodalBatch:
    """A half-hidden object each: what is seen of it, its whole shape, its look as a whole."""

    image: Tensor  # (B, 3, S, S)
    visible: Tensor  # (B, 1, S, S), 0 or 1
    amodal: Tensor  # (B, 1, S, S), 0 or 1, contains `visible`
    whole: Tensor  # (B, 3, S, S), the whole object on white


Batch = DepthBatch | FlowBatch | AmodalBatch
