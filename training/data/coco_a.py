"""COCO-A: regions that people outlined in COCO 2014 photographs, hidden parts included.

`annotations/COCO_amodal_val2014.json` names its pictures, which lie in `val2014/`; so for train
and test. Every region is a sample, as in the published evaluations (Zhan et al., CVPR 2020 and
2024): "stuff" (walls, grass: `isStuff`) is kept, and so are regions that nothing hides and the few
that are hidden altogether, whose visible mask is empty. How a whole object looks is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from training.data.files import folder_of
from training.data.regions import Region, load_regions, read_region
from training.data.sample import Sample, Samples


def open_coco_a(root: Path, split: str) -> Sequence[Sample]:
    """The regions of `train`, `val` or `test` in the file's order. Raises DataError."""
    regions = load_regions(root / "annotations" / f"COCO_amodal_{split}2014.json")
    folder_of(root / f"{split}2014", f"the pictures of COCO's {split}2014")
    return Samples(regions, partial(_read, root=root, folder=f"{split}2014"))


def _read(region: Region, root: Path, folder: str) -> Sample:
    return read_region(region, root / folder, f"{folder}/{region.file_name}#{region.key}")
