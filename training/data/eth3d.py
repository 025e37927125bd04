"""ETH3D's high-resolution multi-view training scenes: photographs with laser-scanned depth.

`SCENE/images/dslr_images/DSC_*.JPG` and `SCENE/ground_truth_depth/dslr_images/DSC_*.JPG`, as the
archives unpack; or as Marigold places them, `rgb/SCENE/...` and `depth/SCENE_dslr_depth/SCENE/...`.
The depth files are no JPEG in spite of their name: they hold nothing but float32 in m, row after
row, as many as the picture has pixels (6048 x 4032), infinite where nothing was scanned.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from training.data.depth_pairs import Pair, below, depth_truth, find_list, need, read_pairs
from training.data.files import read_bytes, read_picture
from training.data.sample import DataError, Sample, Samples

RANGE = (1e-5, float("inf"))
_PATTERN = "*/images/dslr_images/DSC_*.JPG"


def open_eth3d(root: Path, split: str) -> Sequence[Sample]:
    """Photographs of all scenes that are there, or those of `eth3d_filename_list.txt` in the root.

    There is one split only. Raises DataError.
    """
    listed = find_list((root,), ("eth3d_filename_list.txt",))
    pairs = read_pairs(listed) if listed is not None else _pairs(root, split)
    return Samples(pairs, partial(_read, root))


def _pairs(root: Path, split: str) -> list[Pair]:
    apart = (root / "rgb").is_dir()
    folder = root / "rgb" if apart else root
    place = "depth/{scene}_dslr_depth/{scene}" if apart else "{scene}"
    pairs = [
        (
            below(path, root),
            f"{place.format(scene=path.parents[2].name)}/ground_truth_depth/dslr_images/{path.name}",
        )
        for path in folder.glob(_PATTERN)
    ]
    return need(pairs, folder, f"{_PATTERN} for the split {split}")


def _read(root: Path, pair: Pair) -> Sample:
    picture = read_picture(root / pair[0])
    height, width = picture.shape[:2]
    data = read_bytes(root / pair[1])
    if len(data) != 4 * height * width:
        raise DataError(
            f"{root / pair[1]} holds {len(data)} bytes, "
            f"{width} x {height} float32 are {4 * height * width}"
        )
    depth = np.frombuffer(data, "<f4").reshape(height, width)
    return Sample(pair[0], (picture,), depth_truth(depth, RANGE))
