"""The public data sets that can be read, by name: what they hold, and how they are opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from training.data.amodal_sets import AMODAL_SETS
from training.data.depth_sets import DEPTH_SETS
from training.data.files import folder_of
from training.data.flow_sets import FLOW_SETS
from training.data.sample import DataError, Sample
from training.data.set_info import SetInfo

__all__ = ["SETS", "SetInfo", "find_set", "open_set"]

SETS: Mapping[str, SetInfo] = MappingProxyType(
    {info.name: info for info in (*DEPTH_SETS, *FLOW_SETS, *AMODAL_SETS)}
)


def find_set(name: str) -> SetInfo:
    """The set of this name. Raises DataError."""
    if name not in SETS:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(SETS)}")
    return SETS[name]


def open_set(name: str, path: Path, split: str) -> Sequence[Sample]:
    """The samples of a split, read one at a time from the folder `path`.

    Raises DataError for an unknown set or split and for a folder that does not hold it; so does
    reading a sample whose files are wrong.
    """
    info = find_set(name)
    if split not in info.splits:
        raise DataError(f"{name} has no split {split!r}; there are {', '.join(info.splits)}")
    return info.open(folder_of(path, f"the data set {name}"), split)
