"""Virtual KITTI 2: rendered drives, JPEG pictures and plane depth in 16-bit cm, 1242 x 375.

`SceneXX/VARIANT/frames/rgb/Camera_K/rgb_%05d.jpg` and `.../depth/Camera_K/depth_%05d.png`, as the
archives unpack, or with each archive in a folder of its own, `rgb/` and `depth/`.
The splits are Marigold's: scenes for either, six of the ten variants. The sky is stored as
655.35 m, which the range excludes. Pictures are whole: KITTI's crop belongs to an evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from training.data.depth_pairs import Pair, below, need, open_pairs
from training.data.sample import Sample

RANGE = (1e-5, 80.0)
VARIANTS = ("clone", "morning", "overcast", "sunset", "15-deg-left", "15-deg-right")
_SCENES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"train": ("Scene02", "Scene06", "Scene18", "Scene20"), "val": ("Scene01",)}
)
_PER_METRE = 100.0
_PATTERN = "Scene*/*/frames/rgb/Camera_*/rgb_*.jpg"


def open_virtual_kitti(root: Path, split: str) -> Sequence[Sample]:
    """Frames of the split's scenes, by path. Raises DataError."""
    apart = (root / "rgb").is_dir()
    folder = root / "rgb" if apart else root
    pictures = [
        below(path, folder)
        for scene in _SCENES[split]
        for variant in VARIANTS
        for path in folder.glob(f"{scene}/{variant}/frames/rgb/Camera_*/rgb_*.jpg")
    ]
    pairs: list[Pair] = [
        (f"rgb/{picture}", f"depth/{_depth(picture)}") if apart else (picture, _depth(picture))
        for picture in pictures
    ]
    return open_pairs(root, need(pairs, folder, _PATTERN), _PER_METRE, RANGE)


def _depth(picture: str) -> str:
    folder, name = picture.rsplit("/", 1)
    number = name.removeprefix("rgb_").removesuffix(".jpg")
    return f"{folder.replace('/frames/rgb/', '/frames/depth/')}/depth_{number}.png"
