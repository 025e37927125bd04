"""WebDataset shards: tar files whose members `KEY.jpg` and `KEY.cls` make one labelled picture.

Read with tarfile alone. The `webdataset` package is made for endless shuffled streams that workers
share; here every picture is read once, in order, and a killed run goes on in the middle, which
wants the offset of each member instead, and no package that a training machine may lack.
"""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.labelled import LabelledPicture, decode_square
from training.data.sample import DataError

_PICTURES = frozenset({"jpg", "jpeg", "png", "webp"})
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class _Member:
    """Where the bytes of one picture lie, and its label."""

    tar: int
    key: str
    offset: int
    size: int
    label: int


@dataclass(frozen=True, eq=False)
class Shards:
    """Centred squares of `size` px of all pictures of some tar files, in their order."""

    tars: tuple[Path, ...]
    size: int
    classes: tuple[str, ...]
    members: tuple[_Member, ...]

    @property
    def identity(self) -> str:
        """Place, size and count: a cache of other shards must not go on with these."""
        ends = f"{self.tars[0].resolve()} .. {self.tars[-1].name}"
        return f"{len(self.tars)} shards {ends}, {len(self)} pictures at {self.size} px"

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> LabelledPicture:
        member = self.members[index]
        tar = self.tars[member.tar]
        try:
            with tar.open("rb") as file:
                file.seek(member.offset)
                data = file.read(member.size)
        except OSError as error:
            raise DataError(f"{tar} cannot be read: {error}") from error
        image = decode_square(data, self.size, f"{member.key} in {tar}")
        return LabelledPicture(member.key, image, member.label)


def open_shards(where: str, size: int) -> Shards:
    """Indexes the shards that `where` names: `x-{000..099}.tar`, one tar, or a folder of tars.

    Every picture needs a label beside it: `KEY.cls` holding an integer, or `KEY.json` holding one
    or an object with `label` or `cls`. Classes are named by their numbers. Raises DataError naming
    the shard and the key.
    """
    tars = _existing(where)
    members: list[_Member] = []
    for number, tar in enumerate(tars):
        members.extend(_index(number, tar))
    if not members:
        raise DataError(f"{where} holds no pictures ({', '.join(sorted(_PICTURES))})")
    num_classes = 1 + max(member.label for member in members)
    return Shards(tars, size, tuple(str(label) for label in range(num_classes)), tuple(members))


def expand_braces(pattern: str) -> list[str]:
    """`a-{08..10}-{x,y}` as a shell would: ranges keep their leading zeros, commas are choices."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    inner = found[1]
    bounds = inner.split("..")
    if len(bounds) == 2 and all(bound.isdigit() for bound in bounds):
        width = len(bounds[0])
        choices = [f"{n:0{width}d}" for n in range(int(bounds[0]), int(bounds[1]) + 1)]
    else:
        choices = inner.split(",")
    rests = expand_braces(pattern[found.end() :])
    starts = [pattern[: found.start()] + choice for choice in choices]
    return [start + rest for start, rest in itertools.product(starts, rests)]


def _existing(where: str) -> tuple[Path, ...]:
    folder = Path(where)
    paths = sorted(folder.glob("*.tar")) if folder.is_dir() else map(Path, expand_braces(where))
    tars = tuple(paths)
    if not tars:
        raise DataError(f"{where} has no .tar files")
    for tar in tars:
        if not tar.is_file():
            raise DataError(f"shard {tar} does not exist")
    return tars


def _index(number: int, tar: Path) -> Iterator[_Member]:
    """The pictures of one shard; members of one key must lie side by side, as writers put them."""
    try:
        with tarfile.open(tar, "r:") as archive:  # never compressed: members are read by offset
            files = [member for member in archive if member.isfile()]
            for key, group in itertools.groupby(files, key=lambda file: _split(file.name)[0]):
                parts = {_split(file.name)[1].lower(): file for file in group}
                pictures = sorted(_PICTURES & parts.keys())
                if not pictures:
                    continue
                label = _label(archive, parts, f"{key} in {tar}")
                picture = parts[pictures[0]]
                yield _Member(number, key, picture.offset_data, picture.size, label)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"shard {tar} cannot be read: {error}") from error


def _split(name: str) -> tuple[str, str]:
    """Key and ending of a member: what precedes and follows the first dot of its base name."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending


def _label(archive: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], where: str) -> int:
    kinds: Sequence[str] = [kind for kind in ("cls", "json") if kind in parts]
    if not kinds:
        raise DataError(f"{where} has no label: neither .cls nor .json lies beside the picture")
    file = archive.extractfile(parts[kinds[0]])
    text = file.read() if file else b""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: .{kinds[0]} holds {text[:40]!r}, not a number") from error
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    if type(value) is not int or value < 0:
        raise DataError(f"{where}: .{kinds[0]} must hold a class 0, 1, ..., got {value!r}")
    return value
