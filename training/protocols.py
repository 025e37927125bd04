"""How each public set is measured, so that numbers can be compared with published ones: a row each.

Depth follows Marigold's evaluation (arXiv 2312.02145 and its released configurations), flow RAFT's,
amodal completion pix2gestalt's and SDAmodal's. What a set holds is `training.data.sets`' matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from service.core.tasks import TaskName
from training.data.sample import DataError, DepthTruth, Mask, Sample
from training.metrics.flow import Averaging

Span = tuple[float, float]


@dataclass(frozen=True)
class Region:
    """The rows and columns of a picture that are scored, from the first up to before the second.

    In pixels of a picture of `size` (height, width), or, without a size, as fractions of any.
    """

    rows: Span
    columns: Span
    size: tuple[int, int] | None = None

    def mask(self, height: int, width: int) -> Mask:
        """The region in a picture of this size; raises ValueError where it has another one."""
        if self.size not in (None, (height, width)):
            raise ValueError(
                f"the evaluation mask is meant for {self.size} (height, width), "
                f"not for {(height, width)}"
            )
        scale = (1, 1) if self.size else (height, width)
        (top, bottom), (left, right) = (
            [int(edge * whole) for edge in span]
            for span, whole in zip((self.rows, self.columns), scale, strict=True)
        )
        inside = np.zeros((height, width), dtype=bool)
        inside[top:bottom, left:right] = True
        return inside


@dataclass(frozen=True)
class Protocol:
    """One set's row: what is measured and how published numbers were.

    `crop` (height, width) is cut from the picture, at the bottom and centred, before a model sees
    it. `regions` are the evaluation masks that are in use, the published one first. Where
    `range_validates`, depth outside of `depth_range` is not scored; answers are clipped to it.
    `side` is the longer side in px of the published models' input, 0 their own resolution, None
    where it is not told; a model here takes the size that it was trained on. `averaging` says
    whether every sample counts the same, or every pixel, in the set's published numbers.
    """

    task: TaskName
    table: int  # of the paper
    heading: str
    split: str
    columns: tuple[str, ...]  # the measures that the table shows
    depth_range: tuple[float, float] | None = None
    range_validates: bool = True
    crop: tuple[int, int] | None = None
    regions: Mapping[str, Region] = field(default_factory=dict)
    fit_side: int | None = None
    side: int | None = None
    averaging: Averaging = "samples"

    def prepare(self, sample: Sample) -> Sample:
        """The sample as a model is to see it. Raises DataError where it is too small."""
        if self.crop is None or not isinstance(sample.truth, DepthTruth):
            return sample
        return _cropped(sample, sample.truth, *self.crop)

    def scored(self, truth: DepthTruth, region: str | None = None) -> Mask:
        """Where depth is scored: known, in range, and in a region (None: the published one).

        Raises ValueError for a picture that the region is not meant for.
        """
        scored = truth.valid & (truth.depth > 0)
        if self.range_validates and self.depth_range:
            low, high = self.depth_range
            scored = scored & (truth.depth > low) & (truth.depth < high)
        name = region if region in self.regions else next(iter(self.regions), None)
        if name is not None:
            scored = scored & self.regions[name].mask(*truth.shape)
        return scored


def _cropped(sample: Sample, truth: DepthTruth, height: int, width: int) -> Sample:
    full_height, full_width = truth.shape
    if full_height < height or full_width < width:
        raise DataError(
            f"{sample.name}: the picture is {full_width} x {full_height} px, "
            f"and {width} x {height} are cut from it"
        )
    left = (full_width - width) // 2
    window = slice(full_height - height, None), slice(left, left + width)
    return Sample(
        sample.name,
        tuple(image[window] for image in sample.images),
        DepthTruth(truth.depth[window], truth.valid[window]),
    )


_DEPTH = ("abs_rel", "delta1")
_EIGEN = Region((0.3324324, 0.91351351), (0.0359477, 0.96405229))
_KITTI_REGIONS = {
    "eigen": _EIGEN,
    "garg": Region((0.40810811, 0.99189189), (0.03594771, 0.96405229)),
}
_KITTI_CROP = (352, 1216)

_HYPERSIM = Protocol("depth", 3, "Hypersim", "test", _DEPTH, (1e-5, 65.0), side=0)
_NYU = Protocol(
    task="depth",
    table=3,
    heading="NYUv2",
    split="test",
    columns=_DEPTH,
    depth_range=(1e-3, 10.0),
    regions={"eigen": Region((45, 471), (41, 601), size=(480, 640))},
    side=0,
)
_KITTI = Protocol(
    task="depth",
    table=3,
    heading="KITTI",
    split="test",
    columns=_DEPTH,
    depth_range=(1e-5, 80.0),
    crop=_KITTI_CROP,
    regions=_KITTI_REGIONS,
    side=0,
)
_ETH3D = Protocol(
    task="depth",
    table=3,
    heading="ETH3D",
    split="train",
    columns=_DEPTH,
    depth_range=(1e-5, float("inf")),
    fit_side=1024,
    side=756,
)
_DIODE = Protocol(
    task="depth",
    table=3,
    heading="DIODE",
    split="val",
    columns=_DEPTH,
    depth_range=(0.6, 350.0),
    range_validates=False,  # the set's own masks say what is known
    side=640,
)
_SINTEL = Protocol("flow", 4, "Sintel clean", "train", ("epe",), averaging="pixels")
_AMODAL = Protocol("amodal", 5, "COCO-A", "val", ("miou", "miou_summed"))

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "hypersim": _HYPERSIM,
        "hypersim_raw": dataclasses.replace(_HYPERSIM, heading="Hypersim (raw)"),
        "virtual_kitti": dataclasses.replace(_KITTI, heading="Virtual KITTI 2", split="val"),
        "nyu_v2": _NYU,
        "kitti_eigen": _KITTI,
        "eth3d": _ETH3D,
        "scannet": Protocol("depth", 3, "ScanNet", "val", _DEPTH, (1e-3, 10.0), side=0),
        "diode": _DIODE,
        "flying_chairs": Protocol(
            "flow", 4, "FlyingChairs", "val", ("epe", "epe_fitted"), side=512, averaging="pixels"
        ),
        "sintel_clean": _SINTEL,
        "sintel_final": dataclasses.replace(_SINTEL, heading="Sintel final"),
        "kitti_flow": Protocol("flow", 4, "KITTI flow", "train", ("epe", "fl_all")),
        "coco_a": _AMODAL,
        "pix2gestalt": dataclasses.replace(_AMODAL, heading="P2G"),
        "mp3d_amodal": dataclasses.replace(
            _AMODAL, heading="MP3D", split="eval", averaging="pixels"
        ),
    }
)
