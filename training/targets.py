"""From exact answers to what a network is trained on: inputs and a target picture per component.

The torch side of `service.core.encodings`: the same formulas, on the device and differentiable
where an encoder needs them; `tests/parity` holds the two together. Pictures are float32
(B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from service.core.artifact import Component
from service.core.encodings import AmodalEncoding, DepthEncoding, FlowEncoding
from service.core.tasks import TaskName
from training.data.sample import AmodalBatch, Batch, DepthBatch, FlowBatch

# The ratio of far to near is about 4 in rooms and 20 in streets: companding by 6 is close to the
# logarithm of depth for both, so that an error costs what it costs in AbsRel.
DEPTH = DepthEncoding(low_quantile=0.02, high_quantile=0.98, companding=6.0)
# A quarter of the frame encodes to 1; companding keeps a third of a pixel apart from nothing, and
# wide motion in range.
FLOW = FlowEncoding(
    divisor_x=64.0,
    divisor_y=64.0,
    reference_width=256,
    reference_height=256,
    companding=50.0,
)
AMODAL = AmodalEncoding(background=1.0, threshold=0.1)

# One label per component: the rows that a denoiser tells apart.
COMPONENTS: Mapping[TaskName, tuple[Component, ...]] = MappingProxyType(
    {
        "depth": (Component("depth", 0, {"depth": (0, 1, 2)}),),
        "flow": (Component("flow", 1, {"u": (0,), "v": (1,)}),),
        "amodal": (
            Component("mask", 2, {"mask": (0, 1, 2)}),
            Component("appearance", 3, {"red": (0,), "green": (1,), "blue": (2,)}),
        ),
    }
)
NUM_LABELS = sum(len(components) for components in COMPONENTS.values())


@dataclass(frozen=True)
class FlowCode:
    """Displacements as fractions of the frame to encoded values and back (see `FlowEncoding`)."""

    encoding: FlowEncoding = FLOW

    def compand(self, flow: Tensor) -> Tensor:
        """Fractions (B, 2, h, w) to encoded values."""
        z = flow * self._scale(flow)
        k = self.encoding.companding
        return torch.asinh(k * z) / math.asinh(k) if k else z

    def expand(self, encoded: Tensor) -> Tensor:
        """Encoded values (B, 2, h, w) to fractions of the frame."""
        k = self.encoding.companding
        z = torch.sinh(encoded * math.asinh(k)) / k if k else encoded
        return z / self._scale(encoded)

    def picture(self, flow: Tensor) -> Tensor:
        """Fractions (B, 2, h, w) to a picture (B, 3, h, w) whose channels are u, v and nothing."""
        return functional.pad(self.compand(flow), (0, 0, 0, 0, 0, 1))

    def _scale(self, like: Tensor) -> Tensor:
        encoding = self.encoding
        x = encoding.reference_width / encoding.divisor_x
        y = encoding.reference_height / encoding.divisor_y
        return torch.tensor([x, y], device=like.device, dtype=like.dtype)[:, None, None]


@dataclass(frozen=True)
class Example:
    """What one training step sees of a batch; S is the encoder's input side, P the prediction's."""

    task: TaskName
    image: Tensor  # (B, 3, S, S)
    prompt: Tensor | None  # (B, 3, S, S)
    targets: Tensor  # (B, N, 3, P, P), one picture per component
    flow: Tensor | None = None  # (B, 2, S, S) as a fraction of the frame


def shrink(picture: Tensor, size: int) -> Tensor:
    """`picture` (B, C, S, S) averaged down to (B, C, size, size)."""
    if picture.shape[-1] == size:
        return picture
    return functional.interpolate(
        picture, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def depth_picture(depth: Tensor, encoding: DepthEncoding = DEPTH) -> Tensor:
    """Depth (B, 1, H, W) > 0 to its encoded picture (B, 3, H, W): near -1, far +1."""
    # A strided sample of the pixels fixes the two quantiles as well as all of them would.
    values = depth.flatten(1)[:, ::3]
    low = torch.quantile(values, encoding.low_quantile, dim=1)[:, None, None, None]
    high = torch.quantile(values, encoding.high_quantile, dim=1)[:, None, None, None]
    unit = ((depth - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    if c := encoding.companding:
        unit = torch.log1p(c * unit) / math.log1p(c)
    return (2 * unit - 1).expand(-1, 3, -1, -1)


@singledispatch
def prepare(batch: Batch, size: int) -> Example:
    """The training example of a batch, with target pictures of `size` px."""
    raise TypeError(f"no target of {size} px is defined for {type(batch).__name__}")


@prepare.register
def _(batch: DepthBatch, size: int) -> Example:
    target = depth_picture(shrink(batch.depth, size))
    return Example("depth", 2 * batch.image - 1, None, target[:, None])


@prepare.register
def _(batch: FlowBatch, size: int) -> Example:
    flow = batch.flow / batch.flow.shape[-1]
    target = FlowCode().picture(shrink(flow, size))
    return Example("flow", 2 * batch.frame1 - 1, 2 * batch.frame2 - 1, target[:, None], flow)


@prepare.register
def _(batch: AmodalBatch, size: int) -> Example:
    mask = (2 * shrink(batch.amodal, size) - 1).expand(-1, 3, -1, -1)
    appearance = 2 * shrink(batch.whole, size) - 1
    prompt = (2 * batch.visible - 1).expand(-1, 3, -1, -1)
    return Example("amodal", 2 * batch.image - 1, prompt, torch.stack([mask, appearance], dim=1))
