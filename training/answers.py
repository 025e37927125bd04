"""How the pictures that a model makes become an answer, in the service's order.

A component's picture holds fields in its channels; these are decoded member by member, the members
reduced, and the result resized.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image

from service.core.artifact import Component
from service.core.ensemble import Reduction, reduce_members
from service.core.tasks import APPEARANCE, DEPTH, FLOW, MASK, Fields, TaskName
from training.data.sample import Array
from training.targets import TargetTable

FieldMaps = Mapping[str, Array]  # by field, members' encoded maps (N, P, P)
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as OpenCV weighs RGB
_WHITE = 250  # grey level above which pixels are background to pix2gestalt's evaluation


def fields_of(components: Sequence[Component], pictures: Mapping[str, Array]) -> dict[str, Array]:
    """Every field (..., P, P) of components' pictures (..., 3, P, P): the mean of its channels."""
    return {
        field: pictures[component.name][..., list(channels), :, :].mean(axis=-3)
        for component in components
        for field, channels in component.channels.items()
    }


@dataclass(frozen=True)
class Reading:
    """Which sets of fields an answer can be read from, the preferred first, and how.

    `decode` takes the fields, the encodings, and the answer's height and width, and gives maps
    (N, F, P, P) in the task's units.
    """

    fields: tuple[Fields, ...]
    decode: Callable[[FieldMaps, TargetTable, int, int], Array]

    def wanted(self, components: Sequence[Component]) -> tuple[Component, ...]:
        """Those of a model's components that have to be drawn.

        Raises ValueError for a model that does not have the fields.
        """
        available = {field for component in components for field in component.channels}
        for fields in self.fields:
            if available.issuperset(fields):
                return tuple(c for c in components if not c.channels.keys().isdisjoint(fields))
        needed = " or ".join(", ".join(fields) for fields in self.fields)
        raise ValueError(f"the model makes {', '.join(sorted(available))}, not {needed}")

    def answer(
        self, fields: FieldMaps, height: int, width: int, reduction: Reduction, table: TargetTable
    ) -> Array:
        """Members' fields to an answer (F, height, width)."""
        decoded = self.decode(fields, table, height, width)
        return resize(reduce_members(decoded, reduction).prediction, height, width)


def resize(maps: Array, height: int, width: int) -> Array:
    """Float maps (C, h, w) to (C, height, width), bilinear as the service does it."""
    return np.stack(
        [
            np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
            for plane in maps
        ]
    )


def _depth(fields: FieldMaps, table: TargetTable, height: int, width: int) -> Array:
    del height, width  # relative depth is the same at any size
    return table.depth.decode(fields["depth"])[:, None]


def _flow(fields: FieldMaps, table: TargetTable, height: int, width: int) -> Array:
    axes = table.flow.decode(fields["u"], fields["v"], width, height)
    return np.stack(axes, axis=1).astype(np.float32)


def _mask(fields: FieldMaps, table: TargetTable, height: int, width: int) -> Array:
    if "mask" not in fields:
        return _mask_of_appearance(fields, table, height, width)
    return table.amodal.decode_mask(fields["mask"])[:, None]


def _mask_of_appearance(fields: FieldMaps, table: TargetTable, height: int, width: int) -> Array:
    del height, width
    colours = np.stack([fields[name] for name in APPEARANCE], axis=1)
    return table.amodal.mask_from_appearance(colours)[:, None]


def _mask_on_white(fields: FieldMaps, table: TargetTable, height: int, width: int) -> Array:
    del table, height, width
    colours = np.stack([fields[name] for name in APPEARANCE], axis=1)
    stored = np.floor(np.clip((colours + 1) * 127.5, 0, 255))
    grey = np.rint(np.einsum("c,nchw->nhw", _GREY, stored))
    return (grey <= _WHITE)[:, None].astype(np.float32)


# A whole object's mask comes from the model's own mask, or else its picture of the object; from
# that picture by the encoding's distance from the background; or from it by pix2gestalt's rule.
READINGS: Mapping[TaskName, Mapping[str, Reading]] = MappingProxyType(
    {
        "depth": {"depth": Reading((DEPTH,), _depth)},
        "flow": {"flow": Reading((FLOW,), _flow)},
        "amodal": {
            "mask": Reading((MASK, APPEARANCE), _mask),
            "appearance": Reading((APPEARANCE,), _mask_of_appearance),
            "white": Reading((APPEARANCE,), _mask_on_white),
        },
    }
)
