"""Annotated regions of COCO-A's file format, which MP3D-Amodal shares.

`images` says each picture's `id`, `file_name`, `height` and `width`. `annotations` has one entry
per picture, whose `regions` each hold the whole shape (`segmentation`: one polygon as a flat list
x, y, x, y, ..., or run lengths) and, if something hides a part, what is seen (`visible_mask`, run
lengths). A region without `visible_mask` is seen whole. One can be hidden altogether: then nothing
of its visible mask is set. An entry names its picture by `image_id`; the public evaluation of
MP3D-Amodal takes the picture at the entry's own place instead, as is done here without that field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from training.data.coco_masks import Points, RunLengths, draw
from training.data.files import read_bytes, read_picture
from training.data.sample import AmodalTruth, DataError, Sample

T = TypeVar("T")
Shape = Points | RunLengths


@dataclass(frozen=True, eq=False)
class Region:
    """One object of one picture; `where` names the file and the place, `key` the place alone."""

    where: str
    key: str
    file_name: str
    size: tuple[int, int]  # height and width of the picture in px
    amodal: Shape
    visible: Shape | None  # None if all of it is seen


@dataclass(frozen=True)
class _Picture:
    file_name: str
    size: tuple[int, int]


def load_regions(path: Path) -> list[Region]:
    """All regions of an annotation file, in its order. Raises DataError naming the field."""
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    return list(parse_regions(content, str(path)))


def parse_regions(content: object, where: str) -> Iterator[Region]:
    """The regions of annotations as JSON values. Raises DataError naming the field."""
    images = _field(content, "images", list, where)
    pictures = [_picture(image, f"{where}: images[{i}]") for i, image in enumerate(images)]
    ids = [repr(image.get("id")) for image in images]
    by_id = dict(zip(ids, pictures, strict=True))
    for i, entry in enumerate(_field(content, "annotations", list, where)):
        place = f"{where}: annotations[{i}]"
        own = _mapping(entry, place).get("image_id")
        identity = repr(own) if own is not None else "".join(ids[i : i + 1])
        if identity not in by_id:
            raise DataError(f"{place}: there is no image with the id {own}")
        for j, region in enumerate(_field(entry, "regions", list, place)):
            yield _region(region, by_id[identity], f"{place}.regions[{j}]", f"{i}.{j}")


def read_region(region: Region, folder: Path, name: str) -> Sample:
    """The picture, below `folder`, and the two masks. Raises DataError."""
    image = read_picture(folder / region.file_name)
    if image.shape[:2] != region.size:
        raise DataError(f"{region.where}: {name} has {image.shape[:2]} px, not {region.size}")
    try:
        amodal = draw(region.amodal, region.size)
        visible = amodal if region.visible is None else draw(region.visible, region.size)
    except DataError as error:
        raise DataError(f"{region.where}: {error}") from error
    return Sample(name, (image,), AmodalTruth(visible, amodal))


def _picture(image: object, where: str) -> _Picture:
    name = _field(image, "file_name", str, where)
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DataError(f"{where}.file_name is {name!r}, which is outside of the pictures' folder")
    return _Picture(name, (_field(image, "height", int, where), _field(image, "width", int, where)))


def _region(region: object, picture: _Picture, where: str, key: str) -> Region:
    fields = _mapping(region, where)
    visible = fields.get("visible_mask")
    return Region(
        where,
        key,
        picture.file_name,
        picture.size,
        amodal=_shape(fields.get("segmentation"), f"{where}.segmentation"),
        visible=None if visible is None else _shape(visible, f"{where}.visible_mask"),
    )


def _shape(value: object, where: str) -> Shape:
    """A flat list of coordinates, or a mapping of `size` and `counts`."""
    if isinstance(value, dict):
        size = _whole_numbers(_field(value, "size", list, where), f"{where}.size")
        if len(size) != 2:
            raise DataError(f"{where}.size should be height and width, it is {size}")
        counts = value.get("counts")
        listed = counts if isinstance(counts, str) else _whole_numbers(counts, f"{where}.counts")
        return RunLengths((size[0], size[1]), listed)
    if not isinstance(value, list) or not all(isinstance(x, int | float) for x in value):
        raise DataError(f"{where} should be a flat list of numbers, or run lengths")
    if len(value) % 2:
        raise DataError(f"{where} has {len(value)} numbers, an x without its y")
    return np.array(value, dtype=np.float64).reshape(-1, 2)


def _whole_numbers(value: object, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(x, int) for x in value):
        raise DataError(f"{where} should be a list of whole numbers")
    return tuple(value)


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise DataError(f"{where} should be a mapping of names to values")
    return value


def _field(value: object, name: str, kind: type[T], where: str) -> T:
    found = _mapping(value, where).get(name)
    if not isinstance(found, kind):
        raise DataError(f"{where}.{name} should be of type {kind.__name__}, it is {found!r:.60}")
    return found
