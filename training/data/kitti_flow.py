"""KITTI flow 2015: pictures from a car, about 1242 x 375 px, with flow where the laser measured it.

`training/image_2/000000_10.png` and `..._11.png` make one sample with `flow_occ/000000_10.png`, a
16-bit RGB PNG that holds all measured flow. `flow_noc` leaves out pixels whose match lies outside
of the second picture; so pixels known in the one and not in the other are occluded. Split `train`
scores all measured pixels, the benchmark's main table; `train_noc` those of `flow_noc`. The test
part has no published flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from training.data.files import folder_of, need_files, read_kitti_flow, read_picture
from training.data.sample import DataError, FlowTruth, Sample, Samples

_ALL, _INSIDE = "flow_occ", "flow_noc"
_FLOW: Mapping[str, str] = MappingProxyType({"train": _ALL, "train_noc": _INSIDE})


@dataclass(frozen=True)
class _Pair:
    training: Path
    number: str
    known_in: str  # the folder that says which pixels count

    def file(self, folder: str, frame: int = 10) -> Path:
        return self.training / folder / f"{self.number}_{frame}.png"


def open_kitti_flow(root: Path, split: str) -> Sequence[Sample]:
    """The pairs in order of their number. Raises DataError if a file of a pair is missing."""
    training = root / "training"
    folder = folder_of(training / _ALL, "KITTI's measured flow")
    flows = need_files(folder.glob("*_10.png"), folder, "*_10.png")
    pairs = [_Pair(training, path.stem.removesuffix("_10"), _FLOW[split]) for path in flows]
    for pair in pairs:
        for path in (pair.file("image_2"), pair.file("image_2", 11), pair.file(_INSIDE)):
            if not path.is_file():
                raise DataError(f"{path} is missing")
    return Samples(pairs, _read)


def _read(pair: _Pair) -> Sample:
    flow, known = read_kitti_flow(pair.file(_ALL))
    _, inside = read_kitti_flow(pair.file(_INSIDE))
    if inside.shape != known.shape:
        raise DataError(f"{pair.file(_ALL)} and {pair.file(_INSIDE)} differ in size")
    truth = FlowTruth(
        flow, valid=known if pair.known_in == _ALL else inside, occluded=known & ~inside
    )
    frames = (read_picture(pair.file("image_2")), read_picture(pair.file("image_2", 11)))
    return Sample(f"training/image_2/{pair.number}_10.png", frames, truth)
