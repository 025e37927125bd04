"""The table of tasks: what each needs, what it can answer, and which numbers every answer takes.

A field is one map that a model predicts (depth; u and v; a mask; red, green, blue; x, y, z). Which
component of a model yields which field is the artifact's business; everything else that differs
between tasks and is not an encoding is a row here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from service.core.ensemble import Reduction

TaskName = Literal["depth", "flow", "amodal", "normals"]
Fields = tuple[str, ...]

DEPTH: Fields = ("depth",)
FLOW: Fields = ("u", "v")
MASK: Fields = ("mask",)
APPEARANCE: Fields = ("red", "green", "blue")
NORMALS: Fields = ("x", "y", "z")


@dataclass(frozen=True)
class Task:
    """One task's row.

    `images` are the upload's form fields in model order. `outputs` maps each output form to the
    sets of fields it can be made from, the preferred first: a mask comes from the mask field where
    a model has one, else from the appearance. Reductions default to the paper's, those of
    normals to Marigold's.
    """

    name: TaskName
    images: tuple[str, ...]
    outputs: Mapping[str, tuple[Fields, ...]]
    default_output: str
    reductions: tuple[Reduction, ...]
    default_reduction: Reduction

    @property
    def fields(self) -> frozenset[str]:
        """Every field that any output can use."""
        return frozenset(f for sets in self.outputs.values() for fields in sets for f in fields)

    def fields_for(self, output: str, available: Iterable[str]) -> Fields | None:
        """Return the fields to compute for `output` out of those a model has; None if too few."""
        have = frozenset(available)
        return next((fields for fields in self.outputs[output] if have.issuperset(fields)), None)


_FROM_EITHER = (MASK, APPEARANCE)
_FROM_APPEARANCE = (MASK + APPEARANCE, APPEARANCE)

_ROWS = (
    Task(
        name="depth",
        images=("image",),
        outputs=dict.fromkeys(("color", "png16", "npz", "json"), (DEPTH,)),
        default_output="color",
        reductions=("median", "mean", "aligned"),
        default_reduction="aligned",
    ),
    Task(
        name="flow",
        images=("frame1", "frame2"),
        outputs=dict.fromkeys(("color", "flo", "kitti", "npz", "json"), (FLOW,)),
        default_output="color",
        reductions=("median", "mean"),
        default_reduction="mean",
    ),
    Task(
        name="amodal",
        images=("image", "mask"),
        outputs={
            "mask": _FROM_EITHER,
            "overlay": _FROM_EITHER,
            "rgb": _FROM_APPEARANCE,
            "npz": (*_FROM_APPEARANCE, MASK),
            "json": _FROM_EITHER,
        },
        default_output="mask",
        reductions=("median", "mean"),
        default_reduction="median",
    ),
    Task(
        name="normals",
        images=("image",),
        outputs=dict.fromkeys(("color", "png16", "npz", "json"), (NORMALS,)),
        default_output="color",
        reductions=("closest", "mean"),
        default_reduction="closest",
    ),
)

TASKS: Mapping[TaskName, Task] = MappingProxyType({row.name: row for row in _ROWS})
