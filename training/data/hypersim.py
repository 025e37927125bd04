"""Hypersim as prepared for Marigold: tone-mapped pictures and plane depth in 16-bit mm.

`{split}/ai_XXX_YYY/rgb_cam_CC_frFFFF.png` and, beside it, `depth_plane_cam_CC_frFFFF.png`, both
1024 x 768.
A list of the good frames, `filename_list_{split}_filtered.txt` as published with Marigold, is used
where it lies in the root or in the split's folder; without it every frame is taken.
Depth is 0 where nothing was hit. Preparation wraps depth above 65.535 m, so very far walls come out
near; of `training.data.hypersim_raw` that is not true.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.depth_pairs import below, find_list, need, open_pairs, read_pairs
from training.data.files import folder_of
from training.data.sample import Sample

RANGE = (1e-5, 65.0)
_PER_METRE = 1000.0
_PATTERN = "ai_*/rgb_cam_*.png"


def open_hypersim(root: Path, split: str) -> Sequence[Sample]:
    """Frames of the split, by path or in the order of the published list. Raises DataError."""
    folder = folder_of(root / split, _PATTERN)
    names = (f"filename_list_{split}_filtered.txt", f"filename_list_{split}.txt")
    listed = find_list((root, folder), names)
    if listed is not None:
        return open_pairs(root, read_pairs(listed, f"{split}/"), _PER_METRE, RANGE)
    pictures = (below(path, root) for path in folder.glob(_PATTERN))
    pairs = [(picture, picture.replace("/rgb_cam_", "/depth_plane_cam_")) for picture in pictures]
    return open_pairs(root, need(pairs, folder, _PATTERN), _PER_METRE, RANGE)
