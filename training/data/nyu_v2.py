"""NYU Depth V2, the 1449 labelled frames, 640 x 480, in either of two forms.

The official one: `nyu_depth_v2_labeled.mat` (HDF5: `images` (N, 3, 640, 480) uint8, `rawDepths`
(N, 640, 480) float32 m, both with the picture's axes swapped) with `splits.mat` beside it
(`trainNdxs` and `testNdxs`, counted from 1).
The one that Marigold evaluates on: `{split}/SCENE/rgb_%04d.png` and `depth_%04d.png`, 16-bit mm.
Depth is the sensor's own, 0 where it saw nothing; the filled version is not an observation.
Pictures are whole: Eigen's crop belongs to an evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from training.data.depth_pairs import below, depth_truth, need, open_pairs
from training.data.files import folder_of
from training.data.sample import DataError, Sample, Samples

RANGE = (1e-3, 10.0)
LABELLED, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
_PER_METRE = 1000.0
_PATTERN = "*/rgb_*.png"


def open_nyu_v2(root: Path, split: str) -> Sequence[Sample]:
    """Frames of the split from the official file where it is, else from pictures.

    Raises DataError.
    """
    if (root / LABELLED).is_file():
        return Samples(_indices(root / SPLITS, split), partial(_read_labelled, root / LABELLED))
    folder = folder_of(root / split, f"{_PATTERN}, or {LABELLED} should lie beside it")
    pictures = (below(path, root) for path in folder.glob(_PATTERN))
    pairs = [(picture, picture.replace("/rgb_", "/depth_")) for picture in pictures]
    return open_pairs(root, need(pairs, folder, _PATTERN), _PER_METRE, RANGE)


def _indices(path: Path, split: str) -> list[int]:
    from scipy.io import loadmat  # only this form needs it

    try:
        numbers = loadmat(path)[f"{split}Ndxs"]
    except (OSError, KeyError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read: {error}; it says which frame is where") from error
    return [int(number) - 1 for number in numbers.ravel()]


def _read_labelled(path: Path, index: int) -> Sample:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            image = np.asarray(file["images"][index])
            depth = np.asarray(file["rawDepths"][index])
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise DataError(f"{path} has no frame {index + 1}: {error}") from error
    if image.dtype != np.uint8 or image.ndim != 3 or depth.dtype.kind != "f":
        raise DataError(
            f"{path} holds {image.dtype} images and {depth.dtype} depth, not uint8 and floats"
        )
    picture = np.ascontiguousarray(image.transpose(2, 1, 0))
    return Sample(f"{path.name}/{index + 1:04d}", (picture,), depth_truth(depth.T, RANGE))
