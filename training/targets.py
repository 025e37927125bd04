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
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from service.core.artifact import Component
from service.core.encodings import AmodalEncoding, DepthEncoding, Encoding, FlowEncoding
from service.core.tasks import TaskName
from training.data.sample import AmodalBatch, Batch, DepthBatch, FlowBatch
from training.regridding import fill, shrink_known
from training.regridding import shrink as shrink  # whoever makes targets resizes pictures alike

Targets = Literal["percept", "paper"]  # which table of targets a model learns

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
class TargetTable:
    """What every task's answers are encoded as, and which components of which labels they fill.

    Labels count from 0; a model that has others before them, such as ImageNet's classes, adds their
    number. Depth may have a prompt that says where its truth is known: a model is served with
    "known everywhere".
    """

    components: Mapping[TaskName, tuple[Component, ...]]
    depth: DepthEncoding
    flow: FlowEncoding
    amodal: AmodalEncoding
    depth_prompt: Literal["none", "valid"]

    @property
    def num_labels(self) -> int:
        """How many rows of labels the components need."""
        return 1 + max(c.label for row in self.components.values() for c in row)

    def encoding(self, task: TaskName) -> Encoding:
        """How the answers of a task are encoded."""
        encodings: Mapping[TaskName, Encoding] = {
            encoding.kind: encoding for encoding in (self.depth, self.flow, self.amodal)
        }
        return encodings[task]


PERCEPT = TargetTable(COMPONENTS, DEPTH, FLOW, AMODAL, depth_prompt="none")

# As the paper's release has it: every answer is a grey picture or the object's look, motion takes
# two runs, in units of 75 px of its 512 x 384 frames.
PAPER = TargetTable(
    components=MappingProxyType(
        {
            "depth": (Component("depth", 0, {"depth": (0, 1, 2)}),),
            "flow": (
                Component("flow_x", 2, {"u": (0, 1, 2)}),
                Component("flow_y", 3, {"v": (0, 1, 2)}),
            ),
            "amodal": (Component("appearance", 1, {"red": (0,), "green": (1,), "blue": (2,)}),),
        }
    ),
    depth=DepthEncoding(low_quantile=0.02, high_quantile=0.98, companding=0.0),
    flow=FlowEncoding(
        divisor_x=75.0,
        divisor_y=75.0,
        reference_width=512,
        reference_height=384,
        companding=0.0,
    ),
    amodal=AmodalEncoding(background=1.0, threshold=0.04),  # as pix2gestalt: 250 of 255 is white
    depth_prompt="valid",
)

TABLES: Mapping[Targets, TargetTable] = MappingProxyType({"percept": PERCEPT, "paper": PAPER})


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
    valid: Tensor | None = None  # (B, 1, P, P), bool; None where every pixel is


def depth_picture(
    depth: Tensor, encoding: DepthEncoding = DEPTH, valid: Tensor | None = None
) -> Tensor:
    """Depth (B, 1, H, W) > 0 to its encoded picture (B, 3, H, W): near -1, far +1.

    What is not `valid` counts as far, and has no say in what near and far are.
    """
    low, high = _depth_range(depth, encoding, valid)
    unit = ((depth - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    if c := encoding.companding:
        unit = torch.log1p(c * unit) / math.log1p(c)
    if valid is not None:
        unit = torch.where(valid, unit, 1.0)
    return (2 * unit - 1).expand(-1, 3, -1, -1)


def _depth_range(
    depth: Tensor, encoding: DepthEncoding, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The low and the high quantile of every picture, (B, 1, 1, 1) each."""
    if valid is None:
        # A strided sample of the pixels fixes the two quantiles as well as all of them would.
        values = depth.flatten(1)[:, ::3]
        low = torch.quantile(values, encoding.low_quantile, dim=1)[:, None, None, None]
        high = torch.quantile(values, encoding.high_quantile, dim=1)[:, None, None, None]
        return low, high
    # Every pixel, since few may be valid, and row by row, since a quantile takes no more at once.
    wanted = depth.new_tensor([encoding.low_quantile, encoding.high_quantile])
    known = torch.where(valid, depth, torch.nan).flatten(1)
    bounds = torch.stack([torch.nanquantile(row, wanted) for row in known]).nan_to_num(0.0)
    return bounds[:, 0, None, None, None], bounds[:, 1, None, None, None]


def component_picture(component: Component, fields: Mapping[str, Tensor]) -> Tensor:
    """The picture (B, 3, P, P) whose channels are the component's fields (B, 1, P, P) each."""
    first = next(iter(fields.values()))
    channels = [torch.zeros_like(first)] * 3
    for name, places in component.channels.items():
        for place in places:
            channels[place] = fields[name]
    return torch.cat(channels, dim=1)


def prepare(batch: Batch, size: int, table: TargetTable = PERCEPT) -> Example:
    """The training example of a batch, with target pictures of `size` px by a table."""
    return _prepare(batch, size, table)


def _pictures(task: TaskName, fields: Mapping[str, Tensor], table: TargetTable) -> Tensor:
    return torch.stack(
        [component_picture(component, fields) for component in table.components[task]], dim=1
    )


@singledispatch
def _prepare(batch: Batch, size: int, table: TargetTable) -> Example:
    raise TypeError(f"no target of {size} px is defined for {type(batch).__name__} in {table}")


@_prepare.register
def _(batch: DepthBatch, size: int, table: TargetTable) -> Example:
    if batch.valid is None:
        depth, valid = shrink(batch.depth, size), None
    else:
        depth, valid = shrink_known(batch.depth, batch.valid, size)
    fields = {"depth": depth_picture(depth, table.depth, valid)[:, :1]}
    prompt = None
    if table.depth_prompt == "valid" and batch.valid is not None:
        prompt = batch.valid.float().expand(-1, 3, -1, -1)  # 0 or 1, not -1 or 1, in the release
    targets = _pictures("depth", fields, table)
    return Example("depth", 2 * batch.image - 1, prompt, targets, valid=valid)


@_prepare.register
def _(batch: FlowBatch, size: int, table: TargetTable) -> Example:
    flow, valid = batch.flow / batch.flow.shape[-1], None
    if batch.valid is not None:
        flow = fill(flow, batch.valid)
        valid = shrink(batch.valid.float(), size) > 0.5
    u, v = FlowCode(table.flow).compand(shrink(flow, size)).chunk(2, dim=1)
    targets = _pictures("flow", {"u": u, "v": v}, table)
    return Example("flow", 2 * batch.frame1 - 1, 2 * batch.frame2 - 1, targets, flow, valid)


@_prepare.register
def _(batch: AmodalBatch, size: int, table: TargetTable) -> Example:
    red, green, blue = (2 * shrink(batch.whole, size) - 1).chunk(3, dim=1)
    mask = 2 * shrink(batch.amodal, size) - 1
    fields = {"mask": mask, "red": red, "green": green, "blue": blue}
    prompt = (2 * batch.visible - 1).expand(-1, 3, -1, -1)
    return Example("amodal", 2 * batch.image - 1, prompt, _pictures("amodal", fields, table))
