"""pix2gestalt: objects of SA-1B photographs, each behind a pasted one, 256 x 256 px.

An ID's four files: `occlusion/ID_occlusion.png` (the picture), `whole/ID_whole.png` (the object
alone, on white), `visible_object_mask/ID_visible_mask.png` and `whole_mask/ID_whole_mask.png`
(white where the object is). The last 1 % in order of the pictures' paths is for validation. The
release pairs the folders' sorted paths; here IDs are paired, so that one lost file is an error
instead of a shift of everything behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from training.data.files import folder_of, read_grey, read_picture
from training.data.sample import AmodalTruth, DataError, Mask, Sample, Samples

_ENDINGS: Mapping[str, str] = MappingProxyType(
    {
        "occlusion": "_occlusion.png",
        "whole": "_whole.png",
        "visible_object_mask": "_visible_mask.png",
        "whole_mask": "_whole_mask.png",
    }
)
_NUM_NAMED = 5


@dataclass(frozen=True)
class _Object:
    root: Path
    name: str

    def file(self, folder: str) -> Path:
        return self.root / folder / f"{self.name}{_ENDINGS[folder]}"


def open_pix2gestalt(root: Path, split: str) -> Sequence[Sample]:
    """The objects of `train` (the first 99 %) or `val`, in the release's order.

    Raises DataError naming the IDs that a folder lacks, since the split counts from the first file.
    """
    found = {folder: _ids(root, folder) for folder in _ENDINGS}
    everything = set().union(*found.values())
    for folder, ids in found.items():
        _check_complete(root / folder, everything - ids)
    if not everything:
        raise DataError(f"{root} holds no ID_occlusion.png in the folder occlusion")
    # A path sorts with its ending: ID 12 comes before ID 1, for 2 is before _ in the alphabet.
    ordered = sorted(everything, key=lambda name: f"{name}{_ENDINGS['occlusion']}")
    start = len(ordered) * 99 // 100
    parts = {"train": ordered[:start], "val": ordered[start:]}
    return Samples([_Object(root, name) for name in parts[split]], _read)


def _ids(root: Path, folder: str) -> set[str]:
    ending = _ENDINGS[folder]
    files = folder_of(root / folder, f"pix2gestalt's files ID{ending}").iterdir()
    return {path.name.removesuffix(ending) for path in files if path.name.endswith(ending)}


def _check_complete(folder: Path, missing: set[str]) -> None:
    if missing:
        named = ", ".join(sorted(missing)[:_NUM_NAMED])
        more = f" and {len(missing) - _NUM_NAMED} more" if len(missing) > _NUM_NAMED else ""
        raise DataError(f"{folder} has no file of ID {named}{more}, which another folder has")


def _read(item: _Object) -> Sample:
    visible, amodal = (
        _read_mask(item.file(name)) for name in ("visible_object_mask", "whole_mask")
    )
    whole = read_picture(item.file("whole"))
    if not visible.shape == amodal.shape == whole.shape[:2]:
        raise DataError(f"the masks and the whole object of ID {item.name} differ in size")
    picture = item.file("occlusion")
    truth = AmodalTruth(visible, amodal, whole)
    return Sample(str(picture.relative_to(item.root)), (read_picture(picture),), truth)


def _read_mask(path: Path) -> Mask:
    return np.asarray(read_grey(path) > 127)
