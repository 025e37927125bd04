"""Pictures in ImageNet's layout: a folder per class, `train/n01440764/n01440764_10026.JPEG`.

Labels are the positions of the folders' names in sorted order, as in torchvision's ImageFolder, so
that row k of a label table means what it means in public checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.data.files import read_bytes
from training.data.labelled import LabelledPicture, decode_square
from training.data.sample import DataError

_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm"})


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Centred squares of `size` px of all pictures below `root`, by class, then by name."""

    root: Path
    size: int
    classes: tuple[str, ...]
    files: tuple[tuple[str, int], ...]  # path below `root`, label

    @property
    def identity(self) -> str:
        """Place, size and count: a cache of another folder must not go on with this one."""
        return f"folder {self.root.resolve()}, {len(self)} pictures at {self.size} px"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> LabelledPicture:
        name, label = self.files[index]
        path = self.root / name
        return LabelledPicture(name, decode_square(read_bytes(path), self.size, str(path)), label)


def open_image_folder(root: Path, size: int) -> ImageFolder:
    """Lists the pictures; `root` holds the class folders, or a `train` folder that does.

    Raises DataError naming the folder that is missing, empty or without classes.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    if (root / "train").is_dir():
        root = root / "train"
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    if not folders:
        raise DataError(f"{root} has no class folders; expected {root}/<class>/<picture>.JPEG")
    files: list[tuple[str, int]] = []
    for label, folder in enumerate(folders):
        found = sorted(
            path.relative_to(root).as_posix()
            for path in (root / folder).rglob("*")
            if path.suffix.lower() in _ENDINGS
        )
        if not found:
            raise DataError(f"{root / folder} has no pictures ({', '.join(sorted(_ENDINGS))})")
        files.extend((name, label) for name in found)
    return ImageFolder(root, size, tuple(folders), tuple(files))
