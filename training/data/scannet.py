"""ScanNet: frames of indoor scans, JPEG pictures and the sensor's depth in 16-bit mm.

`sceneXXXX_YY/color/N.jpg` and `depth/N.png`, in the root or in its folder `scans`, as written by
ScanNet's own SensReader. Depth is 640 x 480, 0 where the sensor saw nothing; pictures of 1296 x 968
are made as small as their depth, the two being aligned over their whole area.
`val` are the 800 frames of `scannet_val_sampled_list_800_1.txt` where that list of Marigold lies in
the root; else, as for `train`, the scenes that `scannetv2_{split}.txt` names. `all` needs no list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.depth_pairs import Pair, below, depth_truth, find_list, need, read_pairs
from training.data.files import read_lines, read_picture, read_png16
from training.data.sample import DataError, Picture, Sample, Samples

RANGE = (1e-3, 10.0)
_PER_METRE = 1000.0
_PATTERN = "scene*/color/*.jpg"
_SAMPLED = "scannet_{split}_sampled_list_800_1.txt"
_MOST_STRETCHED = 0.02  # 1296 x 968 is 0.4 % wider than 640 x 480


def open_scannet(root: Path, split: str) -> Sequence[Sample]:
    """The sampled frames in the list's order, or all frames of the split's scenes.

    Raises DataError.
    """
    folder = root / "scans" if (root / "scans").is_dir() else root
    prefix = "scans/" if folder != root else ""
    sampled = find_list((root,), (_SAMPLED.format(split=split),))
    pairs = _pairs(root, folder, split) if sampled is None else read_pairs(sampled, prefix)
    return Samples(pairs, partial(_read, root))


def _pairs(root: Path, folder: Path, split: str) -> list[Pair]:
    found: Iterable[Path] = folder.glob(_PATTERN)
    if split != "all":
        scenes = set(read_lines(root / f"scannetv2_{split}.txt"))
        found = (path for path in found if path.parents[1].name in scenes)
    pictures = (below(path, root) for path in found)
    pairs = [
        (picture, picture.replace("/color/", "/depth/").removesuffix(".jpg") + ".png")
        for picture in pictures
    ]
    return need(pairs, folder, f"{_PATTERN} of the split {split}")


def _read(root: Path, pair: Pair) -> Sample:
    depth = read_png16(root / pair[1]).astype(np.float32) / np.float32(_PER_METRE)
    height, width = depth.shape
    picture = _fitted(read_picture(root / pair[0]), width, height, pair[0])
    return Sample(pair[0], (picture,), depth_truth(depth, RANGE))


def _fitted(picture: Picture, width: int, height: int, name: str) -> Picture:
    if picture.shape[:2] == (height, width):
        return picture
    stretch = picture.shape[1] * height / (picture.shape[0] * width)
    if abs(stretch - 1) > _MOST_STRETCHED:
        raise DataError(
            f"{name} is {picture.shape[1]} x {picture.shape[0]} px, "
            f"its depth {width} x {height} has another shape"
        )
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(image)
