"""Hypersim as Apple publishes it: HDF5 of linear colour, distance and the object of every pixel.

Below `ai_XXX_YYY/images/`: `scene_cam_CC_final_hdf5/frame.FFFF.color.hdf5` (768, 1024, 3), and in
`scene_cam_CC_geometry_hdf5` `frame.FFFF.depth_meters.hdf5` and `frame.FFFF.render_entity_id.hdf5`
(768, 1024); each file holds one array, `dataset`.
The splits are those of `metadata_images_split_scene_v1.csv` in the root; `all` needs no such file.
The same pinhole camera is assumed for every scene, as in Marigold's preparation, although some
scenes were rendered with a shifted lens.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.depth_pairs import depth_truth
from training.data.sample import Array, DataError, Mask, Picture, Sample, Samples

RANGE = (1e-5, 65.0)
WIDTH, HEIGHT = 1024, 768
FOCAL_LENGTH_PX = 886.81
SPLITS_FILE = "metadata_images_split_scene_v1.csv"
_PATTERN = "ai_*/images/scene_*_final_hdf5/frame.*.color.hdf5"
_COLOR = re.compile(r"(ai_\w+)/images/scene_(\w+)_final_hdf5/frame\.(\d+)\.color\.hdf5$")
_COLUMNS = (
    "scene_name",
    "camera_name",
    "frame_id",
    "included_in_public_release",
    "split_partition_name",
)
_NO_ENTITY = -1
_BRIGHTNESS = np.array([0.3, 0.59, 0.11], dtype=np.float32)  # "CCIR601 YIQ"
_GAMMA = 1 / 2.2


class Frame(NamedTuple):
    """One picture of one camera in one scene, all three as in the file names."""

    scene: str
    camera: str
    frame: str

    def color(self) -> str:
        """Where the linear colour lies below the root."""
        return f"{self.scene}/images/scene_{self.camera}_final_hdf5/frame.{self.frame}.color.hdf5"

    def geometry(self, what: str) -> str:
        """Where a geometry array lies below the root."""
        folder = f"{self.scene}/images/scene_{self.camera}_geometry_hdf5"
        return f"{folder}/frame.{self.frame}.{what}.hdf5"


def open_hypersim_raw(root: Path, split: str) -> Sequence[Sample]:
    """The released frames of the split, or `all` frames that are there. Raises DataError."""
    frames = _frames_on_disk(root) if split == "all" else _frames_of(root / SPLITS_FILE, split)
    return Samples(frames, partial(_read, root))


def _frames_on_disk(root: Path) -> list[Frame]:
    matches = (_COLOR.search(path.as_posix()) for path in sorted(root.glob(_PATTERN)))
    frames = [Frame(*match.groups()) for match in matches if match]
    if not frames:
        raise DataError(f"{root} holds no {_PATTERN}")
    return frames


def _frames_of(path: Path, split: str) -> list[Frame]:
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; it says which frame is where") from error
    missing = set(_COLUMNS) - set(rows[0] if rows else ())
    if missing:
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}")
    chosen = [
        Frame(row["scene_name"], row["camera_name"], f"{int(row['frame_id']):04d}")
        for row in rows
        if row["split_partition_name"] == split and row["included_in_public_release"] == "True"
    ]
    if not chosen:
        raise DataError(f"{path} names no frame of the split {split!r}")
    return chosen


def _read(root: Path, frame: Frame) -> Sample:
    color = _read_array(root / frame.color(), (HEIGHT, WIDTH, 3), "f").astype(np.float32)
    distance = _read_array(root / frame.geometry("depth_meters"), (HEIGHT, WIDTH), "f")
    entity_path = root / frame.geometry("render_entity_id")
    entity = _read_array(entity_path, (HEIGHT, WIDTH), "iu")
    if (entity == 0).any():
        raise DataError(f"{entity_path} holds 0, which is no object and not the value for none")
    known = entity != _NO_ENTITY
    depth = plane_depth(distance.astype(np.float32))
    return Sample(frame.color(), (tone_mapped(color, known),), depth_truth(depth, RANGE, known))


def _read_array(path: Path, shape: tuple[int, ...], kinds: str) -> NDArray[np.generic]:
    """The array of an HDF5 file; `kinds` are the numpy kinds that it may have."""
    import h5py  # only raw files need it

    try:
        with h5py.File(path, "r") as file:
            values = np.asarray(file["dataset"])
    except (OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if values.shape != shape or values.dtype.kind not in kinds:
        raise DataError(
            f"{path} holds {values.dtype} {values.shape}, it should hold "
            f"{'integers' if 'i' in kinds else 'floats'} {shape}"
        )
    return values


def plane_depth(distance: Array) -> Array:
    """Depth (H, W) in m along the optical axis from the distance (H, W) to the camera's centre.

    A pixel's ray goes through the plane at the focal length, pixel centres at half numbers
    (apple/ml-hypersim, issue 9).
    """
    height, width = distance.shape
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    y = np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2
    ray = np.sqrt(x**2 + y**2 + FOCAL_LENGTH_PX**2)
    return (distance * np.float32(FOCAL_LENGTH_PX) / ray).astype(np.float32)


def tone_mapped(color: Array, known: Mask) -> Picture:
    """A picture uint8 (H, W, 3) of linear colour, as by Apple's scene_generate_images_tonemap.py.

    The 90th percentile of the brightness of known pixels becomes 0.8 after a gamma of 1/2.2.
    """
    color = np.nan_to_num(color, nan=0.0)
    scale = 1.0
    if known.any():
        bright = float(np.percentile((color @ _BRIGHTNESS)[known], 90))
        scale = 0.8 ** (1 / _GAMMA) / bright if bright >= 1e-4 else 0.0
    mapped = np.maximum(color * np.float32(scale), 0) ** np.float32(_GAMMA)
    return (np.clip(mapped, 0, 1) * 255).astype(np.uint8)
