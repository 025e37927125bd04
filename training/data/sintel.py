"""MPI Sintel: a rendered film, 1024 x 436 px, in a clean pass and a final pass with blur and fog.

`training/clean/alley_1/frame_0001.png` and the next frame of the scene make one sample with
`training/flow/alley_1/frame_0001.flo`; both passes share the flow. `occlusions/` marks pixels that
are not visible in the next frame (white), `invalid/` those whose flow is not to be trusted (white).
The two mask folders may be absent, as in copies that keep pictures and flow alone: then no
occlusion is known, and only flow above 1e9 is invalid. The test part has no published flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from training.data.files import folder_of, need_files, read_flo, read_grey, read_picture
from training.data.sample import DataError, FlowTruth, Mask, Sample, Samples

_FOLDERS: Mapping[str, str] = MappingProxyType({"train": "training"})


@dataclass(frozen=True)
class _Pair:
    training: Path
    frame1: Path
    frame2: Path

    def beside(self, folder: str, suffix: str) -> Path:
        """The first frame's file in another folder of the set."""
        return self.training / folder / self.frame1.parent.name / f"{self.frame1.stem}{suffix}"


def open_sintel_clean(root: Path, split: str) -> Sequence[Sample]:
    """The pairs of the clean pass in order of scene and frame. Raises DataError."""
    return _open(root / _FOLDERS[split], "clean")


def open_sintel_final(root: Path, split: str) -> Sequence[Sample]:
    """The pairs of the final pass in order of scene and frame. Raises DataError."""
    return _open(root / _FOLDERS[split], "final")


def _open(training: Path, render_pass: str) -> Sequence[Sample]:
    folder = folder_of(training / render_pass, f"the scenes of Sintel's {render_pass} pass")
    scenes = need_files((path for path in folder.iterdir() if path.is_dir()), folder, "scene")
    pairs = [
        _Pair(training, frame1, frame2)
        for scene in scenes
        for frame1, frame2 in pairwise(_frames(scene))
    ]
    for pair in pairs:
        if not pair.beside("flow", ".flo").is_file():
            raise DataError(f"{pair.beside('flow', '.flo')} is missing")
    return Samples(pairs, _read)


def _frames(scene: Path) -> list[Path]:
    """A scene's frames, which must follow each other: a gap would join frames that do not."""
    frames = need_files(scene.glob("frame_*.png"), scene, "frame_*.png")
    for frame1, frame2 in pairwise(frames):
        if _number(frame2) != _number(frame1) + 1:
            raise DataError(f"{scene} has no frame between {frame1.name} and {frame2.name}")
    return frames


def _number(frame: Path) -> int:
    digits = frame.stem.removeprefix("frame_")
    if not digits.isdecimal():
        raise DataError(f"{frame} should be called frame_ and a number")
    return int(digits)


def _read(pair: _Pair) -> Sample:
    flow, known = read_flo(pair.beside("flow", ".flo"))
    invalid = _read_mask(pair, "invalid", known)
    truth = FlowTruth(
        flow,
        valid=known if invalid is None else known & ~invalid,
        occluded=_read_mask(pair, "occlusions", known),
    )
    frames = (read_picture(pair.frame1), read_picture(pair.frame2))
    return Sample(str(pair.frame1.relative_to(pair.training.parent)), frames, truth)


def _read_mask(pair: _Pair, folder: str, like: Mask) -> Mask | None:
    """True where white; None if the set was copied without this folder."""
    if not (pair.training / folder).is_dir():
        return None
    path = pair.beside(folder, ".png")
    mask = read_grey(path) > 127
    if mask.shape != like.shape:
        raise DataError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} px, "
            f"its flow {like.shape[1]} x {like.shape[0]}"
        )
    return mask
