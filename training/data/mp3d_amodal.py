"""MP3D-Amodal: rooms of Matterport3D, where a scan tells the whole shape of what is half hidden.

The pictures are published as `mp3d_eval.zip`, the annotations as a pickle, which could run any code
when it is opened. So they are converted once, by `python -m training.data convert-mp3d PICKLE
JSON`, to `MP3D_seleted_eval_10.29.json` (sic) in the root folder. Its format is COCO-A's, but both
masks are run lengths, and every region is partly hidden. The training part has the same form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from training.data.regions import Region, load_regions, read_region
from training.data.sample import DataError, Sample, Samples


def open_mp3d_amodal(root: Path, split: str) -> Sequence[Sample]:
    """The regions of `eval` or `train` in the file's order. Raises DataError."""
    path = root / f"MP3D_seleted_{split}_10.29.json"
    if not path.is_file():
        raise DataError(
            f"{path} is missing; python -m training.data convert-mp3d "
            f"{path.with_suffix('.pkl').name} {path.name} makes it from the published pickle"
        )
    regions = load_regions(path)
    for region in regions:
        if region.visible is None:
            raise DataError(f"{region.where} has no visible_mask, which every region should have")
    folder = _picture_folder(root, split, regions)
    return Samples(regions, partial(_read, folder=folder))


def _picture_folder(root: Path, split: str, regions: Sequence[Region]) -> Path:
    """Where the archive was unpacked: its own folder, with or without a date, or the root."""
    folders = [root / f"mp3d_{split}", root / f"mp3d_{split}_10.29", root]
    for folder in folders:
        if regions and (folder / regions[0].file_name).is_file():
            return folder
    raise DataError(
        f"{root} has no picture of the annotations in {', '.join(path.name for path in folders)}"
    )


def _read(region: Region, folder: Path) -> Sample:
    return read_region(region, folder, f"{folder.name}/{region.file_name}#{region.key}")
