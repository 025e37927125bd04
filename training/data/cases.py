"""Real photographs with known answers, from a folder with a manifest: never for training.

`manifest.json` holds a list per task, `depth`, `flow` and `amodal`. Each entry names its files,
below the folder of its task where there is one, and says what their numbers mean: depth (`kind`
`depth_m` or `inv_depth_affine`, 16-bit PNG over `gt_png_scale`, `invalid_value`), flow (a `.flo`
file, or a KITTI 16-bit RGB PNG), amodal (`visible` and `amodal` masks, 8-bit, set above 127).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from training.data.files import read_flo, read_kitti_flow
from training.data.sample import Array, DataError, Mask


@dataclass(frozen=True)
class DepthCase:
    """A photograph and its depth or inverse depth (H, W), known where `valid`."""

    name: str
    image: Image.Image
    truth: Array
    valid: Mask
    inverse: bool


@dataclass(frozen=True)
class FlowCase:
    """Two frames and the flow (2, H, W) of the first in px, known where `valid` (H, W)."""

    name: str
    frame1: Image.Image
    frame2: Image.Image
    truth: Array
    valid: Mask


@dataclass(frozen=True)
class AmodalCase:
    """A photograph and an object's visible and whole mask (H, W)."""

    name: str
    image: Image.Image
    visible: Mask
    amodal: Mask


_INVERSE = MappingProxyType({"depth_m": False, "inv_depth_affine": True})


@dataclass(frozen=True)
class Cases:
    """All cases of one manifest, read one at a time. Reading raises DataError."""

    folder: Path

    def depth(self) -> Iterator[DepthCase]:
        """Depth cases in the manifest's order."""
        for entry in self._entries("depth"):
            raw = np.asarray(_open(entry.file("gt")), dtype=np.float32)
            kind = entry.text("kind")
            if kind not in _INVERSE:
                raise DataError(f"{entry.where} has kind {kind!r}, not one of {list(_INVERSE)}")
            yield DepthCase(
                entry.text("id"),
                _read_picture(entry.file("image")),
                truth=raw / np.float32(entry.number("gt_png_scale")),
                valid=raw != entry.number("invalid_value"),
                inverse=_INVERSE[kind],
            )

    def flow(self) -> Iterator[FlowCase]:
        """Flow cases in the manifest's order."""
        for entry in self._entries("flow"):
            path = entry.file("gt")
            truth, valid = read_flo(path) if path.suffix == ".flo" else read_kitti_flow(path)
            frame1, frame2 = (_read_picture(entry.file(name)) for name in ("image0", "image1"))
            yield FlowCase(entry.text("id"), frame1, frame2, truth, valid)

    def amodal(self) -> Iterator[AmodalCase]:
        """Amodal cases in the manifest's order."""
        for entry in self._entries("amodal"):
            visible, amodal = (
                np.asarray(_open(entry.file(name)).convert("L")) > 127
                for name in ("visible", "amodal")
            )
            image = _read_picture(entry.file("image"))
            yield AmodalCase(entry.text("id"), image, visible, amodal)

    def _entries(self, task: str) -> list[_Entry]:
        path = self.folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        below = self.folder / task
        folder = below if below.is_dir() else self.folder
        return [
            _Entry(f"{path}: {task}[{i}]", folder, values)
            for i, values in enumerate(manifest.get(task, []))
        ]


@dataclass(frozen=True)
class _Entry:
    """One case of a manifest, which may say more than is asked for."""

    where: str
    folder: Path
    values: Mapping[str, object]

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            raise DataError(f"{self.where}.{name} is {value!r}, not a text")
        return value

    def number(self, name: str) -> float:
        value = self._get(name)
        if not isinstance(value, int | float):
            raise DataError(f"{self.where}.{name} is {value!r}, not a number")
        return value

    def file(self, name: str) -> Path:
        return self.folder / self.text(name)

    def _get(self, name: str) -> object:
        if name not in self.values:
            raise DataError(f"{self.where} has no {name!r}")
        return self.values[name]


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_picture(path: Path) -> Image.Image:
    return _open(path).convert("RGB")
