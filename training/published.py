"""Numbers that others published for the sets that are measured here, each with where it was read.

Percent, but for end-point errors, which are px. What could not be found is left out, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Published:
    """One row of a table of the paper: a method's numbers by set and measure."""

    table: int
    method: str
    source: str  # of SOURCES
    cells: Mapping[tuple[str, str], float]  # (set, measure)

    @property
    def sets(self) -> frozenset[str]:
        """The sets that the row has numbers of."""
        return frozenset(name for name, _ in self.cells)


PAPER = "Scaling diffusion"

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "a": "the text of arXiv 2411.08034",
        "b": "that paper's table as others quote it; the table itself was not read",
        "c": "notes on FlowNet (arXiv 1504.06852)",
    }
)


def _depth(method: str, **abs_rel: float) -> Published:
    return Published(3, method, "b", {(name, "abs_rel"): v for name, v in abs_rel.items()})


def _flow(method: str, source: str, epe: float) -> Published:
    return Published(4, method, source, {("flying_chairs", "epe"): epe})


def _amodal(
    method: str, coco_a: float, pix2gestalt: float | None = None, mp3d: float | None = None
) -> Published:
    cells = {
        ("coco_a", "miou"): coco_a,
        ("pix2gestalt", "miou"): pix2gestalt,
        ("mp3d_amodal", "miou_summed"): mp3d,
    }
    return Published(5, method, "a", {key: v for key, v in cells.items() if v is not None})


ROWS: tuple[Published, ...] = (
    _depth("DPT", eth3d=7.8, nyu_v2=9.8),
    _depth("Marigold", hypersim=13.5, eth3d=6.5, nyu_v2=5.5),
    Published(
        3,
        PAPER,
        "b",
        {
            ("hypersim", "abs_rel"): 13.6,
            ("eth3d", "abs_rel"): 4.8,
            ("nyu_v2", "abs_rel"): 6.8,
            ("scannet", "abs_rel"): 7.7,
            ("diode", "delta1"): 77.2,
        },
    ),
    _flow("DeepFlow", "b", 3.53),
    _flow("EpicFlow", "c", 2.94),
    _flow("FlowNetC", "c", 2.19),
    _flow(f"{PAPER}, with ensembling", "b", 3.08),
    _amodal("SD-XL Inpainting", 76.52),
    _amodal("SAM", 67.21),
    _amodal("PCNet", 81.35),
    _amodal("PCNet-Sup", 82.53),
    _amodal("pix2gestalt", 82.9, 88.7, 61.5),
    _amodal(PAPER, 82.9, 88.6, 63.9),
)

REMARKS: Mapping[int, str] = MappingProxyType(
    {
        4: "The paper does not say whether its end-point error is the fitted one; "
        "its released code computes both.",
        5: "The paper does not say which mean its mIoU is: "
        "published cells stand under the definition of the set's own authors.",
    }
)
