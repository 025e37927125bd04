"""KITTI's drives with the improved, sparse depth of its benchmark, in Eigen's split.

Raw pictures `DATE/DRIVE_sync/image_02/data/%010d.png`; depth 16-bit in 1/256 m, 0 where there is
none, `DRIVE_sync/proj_depth/groundtruth/image_02/%010d.png`, in the root or in the folders `train`
and `val` that the archive unpacks to.
`train` and `test` need the published lists `eigen_{split}_files_with_gt.txt` in the root (picture,
depth or `None`, focal length; frames without depth are left out); `all` takes every pair.
Pictures are whole: the crops of KITTI, Garg and Eigen belong to an evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.depth_pairs import Pair, below, find_list, need, open_pairs, read_list
from training.data.sample import DataError, Sample

RANGE = (1e-5, 80.0)
_PER_METRE = 256.0
_PICTURES = "*/*_sync/image_0[23]/data/*.png"
_DEPTH_FOLDERS = ("", "train/", "val/")


def open_kitti_eigen(root: Path, split: str) -> Sequence[Sample]:
    """The listed frames in the list's order, or all pairs by path. Raises DataError."""
    pairs = _all_pairs(root) if split == "all" else _listed_pairs(root, split)
    return open_pairs(root, pairs, _PER_METRE, RANGE)


def _listed_pairs(root: Path, split: str) -> list[Pair]:
    name = f"eigen_{split}_files_with_gt.txt"
    path = find_list((root,), (name,))
    if path is None:
        raise DataError(f"{root / name} is missing; it says which frames are in the split")
    entries = ((picture.lstrip("/"), depth.lstrip("/")) for picture, depth in read_list(path, 2))
    return [(picture, _placed(root, depth)) for picture, depth in entries if depth != "None"]


def _all_pairs(root: Path) -> list[Pair]:
    pictures = (below(path, root) for path in root.glob(_PICTURES))
    placed = ((picture, _placed(root, _depth(picture))) for picture in pictures)
    pairs = [(picture, depth) for picture, depth in placed if (root / depth).is_file()]
    return need(pairs, root, f"{_PICTURES} that has depth")


def _depth(picture: str) -> str:
    """Where the benchmark's depth of a raw picture lies below its folder."""
    _, drive, camera, _, name = picture.split("/")
    return f"{drive}/proj_depth/groundtruth/{camera}/{name}"


def _placed(root: Path, depth: str) -> str:
    found = (folder + depth for folder in _DEPTH_FOLDERS if (root / folder / depth).is_file())
    return next(found, depth)
