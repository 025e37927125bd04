"""FlyingChairs: rendered chairs over photographs, 512 x 384 px, with exact flow.

`data/00001_img1.ppm`, `data/00001_img2.ppm` and `data/00001_flow.flo` make one sample. The split
file is published beside the archive, not in it: `FlyingChairs_train_val.txt` holds one line per
sample in sorted order, 1 for training and 2 for validation. Every pixel's flow is known; which
pixels are occluded is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from training.data.files import folder_of, read_flo, read_lines, read_picture
from training.data.sample import DataError, FlowTruth, Sample, Samples

SPLIT_FILE = "FlyingChairs_train_val.txt"
_PARTS = ("img1.ppm", "img2.ppm", "flow.flo")
_CODES: Mapping[str, str] = MappingProxyType({"train": "1", "val": "2"})


@dataclass(frozen=True)
class _Pair:
    folder: Path
    number: str

    def file(self, part: str) -> Path:
        return self.folder / f"{self.number}_{part}"


def open_flying_chairs(root: Path, split: str) -> Sequence[Sample]:
    """The samples of `train` or `val` in sorted order.

    Raises DataError if a file of a sample is missing, or if the split file does not have a line
    for every sample: its lines have no names, so an incomplete copy would get the wrong split.
    """
    folder = folder_of(root / "data", "FlyingChairs' pictures and flow")
    found = {path.name for path in folder.iterdir()}
    numbers = sorted({name.partition("_")[0] for name in found if name.endswith(_PARTS)})
    for number in numbers:
        for part in _PARTS:
            if f"{number}_{part}" not in found:
                raise DataError(f"{folder / f'{number}_{part}'} is missing")
    codes = _read_codes(root / SPLIT_FILE, len(numbers), folder)
    pairs = [
        _Pair(folder, number)
        for number, code in zip(numbers, codes, strict=True)
        if code == _CODES[split]
    ]
    return Samples(pairs, _read)


def _read_codes(path: Path, expected: int, folder: Path) -> list[str]:
    codes = read_lines(path)
    if len(codes) != expected:
        raise DataError(f"{path} has {len(codes)} lines, but {folder} holds {expected} samples")
    wrong = sorted(set(codes) - set(_CODES.values()))
    if wrong:
        raise DataError(f"{path} should hold 1 (training) or 2 (validation), not {wrong[0]!r}")
    return codes


def _read(pair: _Pair) -> Sample:
    flow, valid = read_flo(pair.file("flow.flo"))
    frames = (read_picture(pair.file("img1.ppm")), read_picture(pair.file("img2.ppm")))
    return Sample(f"data/{pair.number}_img1.ppm", frames, FlowTruth(flow, valid))
