"""DIODE: laser-scanned indoor and outdoor scenes, 1024 x 768.

`SPLIT/{indoors,outdoor}/scene_*/scan_*/NAME.png`, `NAME_depth.npy` (float, m, (H, W, 1)) and
`NAME_depth_mask.npy` (1 where the scanner had a return), with or without the split's folder.
What is valid is the mask's word alone, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from training.data.depth_pairs import below, depth_truth
from training.data.files import need_files, read_picture
from training.data.sample import DataError, Sample, Samples

RANGE = (0.6, 350.0)  # m; answers are clipped to it
_EVERYWHERE = (0.0, float("inf"))
_KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "train": ("train", "*"),
        "val": ("val", "*"),
        "val_indoor": ("val", "indoors"),
        "val_outdoor": ("val", "outdoor"),
    }
)


def open_diode(root: Path, split: str) -> Sequence[Sample]:
    """Pictures of the split by path. Raises DataError."""
    folder, kind = _KINDS[split]
    base = root / folder if (root / folder).is_dir() else root
    pattern = f"{kind}/scene_*/scan_*/*.png"
    pictures = need_files(base.glob(pattern), base, pattern)
    return Samples([below(path, root) for path in pictures], partial(_read, root))


def _read(root: Path, name: str) -> Sample:
    picture = read_picture(root / name)
    stem = root / name.removesuffix(".png")
    depth = _read_plane(stem.with_name(f"{stem.name}_depth.npy"))
    mask_path = stem.with_name(f"{stem.name}_depth_mask.npy")
    mask = _read_plane(mask_path)
    if mask.shape != depth.shape or not np.isin(mask, (0, 1)).all():
        raise DataError(f"{mask_path} should hold 0 and 1 for every depth, {depth.shape}")
    return Sample(name, (picture,), depth_truth(depth, _EVERYWHERE, mask == 1))


def _read_plane(path: Path) -> NDArray[np.float32]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 or values.dtype.kind not in "fbiu":
        raise DataError(f"{path} holds {values.dtype} {values.shape}, not one number per pixel")
    return values.astype(np.float32)
