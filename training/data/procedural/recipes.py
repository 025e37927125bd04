"""Recipes: the silhouettes of things as up to eight primitives each, the parts of a thing.

Coordinates are x right, y down, in [-1, 1]; angles turn from x towards y.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

MAX_PARTS: Final = 8
DISC, BOX, ROUND, TRIANGLE, ANY = 0, 1, 2, 3, -1  # kinds of primitive; ANY is a random one
FIXED_KINDS: Final = 4  # rows of the kinds that are not random


@dataclass(frozen=True)
class Part:
    """One primitive of a recipe: centre, half axes, rotation; a hole is cut out of earlier ones."""

    kind: int
    x: float
    y: float
    rx: float
    ry: float
    degrees: float = 0.0
    hole: bool = False


_LEG = 0.065
RECIPES: Final[tuple[tuple[float, tuple[Part, ...]], ...]] = (
    (6.0, (Part(ANY, 0, 0, 0.9, 0.9),)),
    (1.5, (Part(BOX, 0, 0, 0.9, 0.9),)),
    (1.5, (Part(ROUND, 0, 0, 0.9, 0.9),)),
    (2.0, (Part(ANY, -0.3, 0.1, 0.6, 0.6), Part(ANY, 0.35, -0.1, 0.55, 0.5))),
    (
        1.5,
        (
            Part(ANY, -0.3, 0.2, 0.6, 0.5),
            Part(ANY, 0.4, 0.2, 0.5, 0.45),
            Part(ANY, 0, -0.4, 0.45, 0.5),
        ),
    ),
    (0.8, (Part(ANY, 0, 0, 0.9, 0.9), Part(ANY, 0.1, 0.0, 0.4, 0.4, hole=True))),
    # a bar, a ring with a handle (cup), an L
    (1.0, (Part(ROUND, 0, 0, 1.0, 0.1, 20),)),
    (
        0.6,
        (
            Part(DISC, 0.55, 0, 0.4, 0.42),
            Part(DISC, 0.55, 0, 0.27, 0.29, hole=True),
            Part(ROUND, -0.15, 0, 0.6, 0.75),
        ),
    ),
    (0.6, (Part(BOX, -0.55, 0, 0.25, 0.9), Part(BOX, 0.1, 0.65, 0.8, 0.25))),
    # four-legged animal facing right, the same with a long neck, the same lying
    (
        2.0,
        (
            Part(DISC, -0.05, -0.1, 0.6, 0.28),
            Part(ROUND, -0.5, 0.4, _LEG, 0.45, 5),
            Part(ROUND, -0.35, 0.42, _LEG, 0.42),
            Part(ROUND, 0.3, 0.42, _LEG, 0.42),
            Part(ROUND, 0.45, 0.4, _LEG, 0.45, -5),
            Part(DISC, 0.6, -0.35, 0.13, 0.33, 35),
            Part(ANY, 0.78, -0.55, 0.24, 0.16, 15),
            Part(ROUND, -0.68, -0.12, 0.26, 0.045, -35),
        ),
    ),
    (
        0.8,
        (
            Part(DISC, -0.2, 0.15, 0.45, 0.24, -12),
            Part(ROUND, -0.5, 0.6, 0.05, 0.4),
            Part(ROUND, -0.38, 0.6, 0.05, 0.4),
            Part(ROUND, 0.1, 0.6, 0.05, 0.42),
            Part(ROUND, 0.2, 0.6, 0.05, 0.42),
            Part(DISC, 0.35, -0.35, 0.12, 0.6, 18),
            Part(DISC, 0.62, -0.85, 0.2, 0.1, 20),
            Part(ROUND, -0.65, 0.3, 0.04, 0.3, 15),
        ),
    ),
    (
        1.0,
        (
            Part(DISC, -0.1, 0.1, 0.7, 0.35),
            Part(DISC, 0.7, 0.0, 0.25, 0.22),
            Part(TRIANGLE, 0.62, -0.22, 0.1, 0.12),
            Part(ROUND, 0.45, 0.4, 0.4, 0.07),
            Part(ROUND, -0.5, 0.4, 0.3, 0.08),
            Part(ROUND, -0.85, 0.2, 0.25, 0.05, 30),
        ),
    ),
    # bird, person standing, bust
    (
        0.8,
        (
            Part(DISC, 0, 0.1, 0.5, 0.28, -20),
            Part(TRIANGLE, -0.6, 0.25, 0.22, 0.35, -110),
            Part(DISC, 0.5, -0.2, 0.2, 0.2),
            Part(TRIANGLE, 0.76, -0.18, 0.07, 0.14, 90),
            Part(ANY, -0.1, -0.2, 0.25, 0.55, -30),
            Part(ROUND, 0.05, 0.55, 0.03, 0.3, 5),
        ),
    ),
    (
        1.5,
        (
            Part(ROUND, -0.34, -0.2, 0.085, 0.42, 12),
            Part(ROUND, 0.34, -0.2, 0.085, 0.42, -12),
            Part(ROUND, -0.13, 0.55, 0.12, 0.45, 3),
            Part(ROUND, 0.13, 0.55, 0.12, 0.45, -3),
            Part(ROUND, 0, -0.2, 0.27, 0.42),
            Part(ROUND, 0, -0.62, 0.09, 0.12),
            Part(DISC, 0, -0.8, 0.15, 0.19),
        ),
    ),
    (
        0.8,
        (
            Part(ROUND, 0, 0.75, 0.75, 0.5),
            Part(ROUND, 0, 0.2, 0.2, 0.3),
            Part(DISC, 0, -0.35, 0.38, 0.5),
            Part(ANY, 0, -0.65, 0.42, 0.3),
        ),
    ),
    # aeroplane from the side and from above
    (
        0.8,
        (
            Part(ROUND, 0, 0, 0.95, 0.12, -5),
            Part(TRIANGLE, -0.75, -0.15, 0.14, 0.28, -15),
            Part(TRIANGLE, 0.0, -0.25, 0.2, 0.5, -30),
            Part(TRIANGLE, -0.05, 0.25, 0.22, 0.55, 200),
            Part(TRIANGLE, -0.8, 0.12, 0.1, 0.25, 200),
            Part(ROUND, 0.15, 0.3, 0.13, 0.06),
            Part(ROUND, 0.1, 0.48, 0.12, 0.055),
        ),
    ),
    (
        0.6,
        (
            Part(TRIANGLE, 0, -0.05, 0.98, 0.35),
            Part(TRIANGLE, 0, 0.75, 0.35, 0.18),
            Part(ROUND, 0, 0, 0.11, 0.95),
            Part(ROUND, -0.45, 0.0, 0.06, 0.17),
            Part(ROUND, 0.45, 0.0, 0.06, 0.17),
        ),
    ),
    # oven or desk with a back, telephone with an aerial, screen on a foot
    (
        1.2,
        (
            Part(BOX, 0, 0.5, 0.85, 0.45),
            Part(BOX, 0.0, -0.4, 0.6, 0.55),
            Part(ROUND, 0, 0.08, 0.87, 0.08),
        ),
    ),
    (
        1.0,
        (
            Part(ROUND, 0.3, -0.8, 0.06, 0.3, 5),
            Part(ROUND, 0, 0.05, 0.5, 0.85),
            Part(ROUND, 0, 0.85, 0.35, 0.1),
        ),
    ),
    (
        0.8,
        (
            Part(BOX, 0, 0.65, 0.12, 0.25),
            Part(ROUND, 0, 0.85, 0.45, 0.08),
            Part(ROUND, 0, -0.15, 0.9, 0.65),
        ),
    ),
    # vase, bottle, lamp
    (
        1.0,
        (
            Part(ROUND, 0, -0.55, 0.22, 0.35),
            Part(DISC, 0, 0.2, 0.5, 0.6),
            Part(ROUND, 0, 0.8, 0.33, 0.12),
            Part(ROUND, 0, -0.88, 0.32, 0.07),
        ),
    ),
    (
        0.8,
        (
            Part(ROUND, 0, 0.35, 0.32, 0.6),
            Part(DISC, 0, -0.2, 0.3, 0.3),
            Part(BOX, 0, -0.6, 0.11, 0.35),
            Part(ROUND, 0, -0.92, 0.14, 0.06),
        ),
    ),
    (
        0.5,
        (
            Part(BOX, 0, 0.1, 0.04, 0.8),
            Part(ROUND, 0, 0.9, 0.35, 0.07),
            Part(TRIANGLE, 0, -0.6, 0.5, 0.4),
        ),
    ),
    # car, bus, motorcycle
    (
        1.0,
        (
            Part(ROUND, 0, -0.15, 0.5, 0.28),
            Part(ROUND, 0, 0.15, 0.95, 0.25),
            Part(DISC, -0.55, 0.38, 0.2, 0.2),
            Part(DISC, 0.55, 0.38, 0.2, 0.2),
        ),
    ),
    (
        0.7,
        (
            Part(ROUND, 0, 0, 0.95, 0.45),
            Part(DISC, -0.55, 0.45, 0.15, 0.15),
            Part(DISC, 0.6, 0.45, 0.15, 0.15),
        ),
    ),
    (
        0.7,
        (
            Part(DISC, -0.6, 0.35, 0.34, 0.34),
            Part(DISC, 0.6, 0.35, 0.34, 0.34),
            Part(ROUND, 0.45, 0.0, 0.05, 0.5, -25),
            Part(ANY, -0.05, 0.15, 0.4, 0.25),
            Part(ROUND, -0.4, -0.1, 0.35, 0.09, -10),
            Part(ROUND, 0.25, -0.42, 0.2, 0.05, 20),
        ),
    ),
    # chair, tree, potted plant, lattice
    (
        0.8,
        (
            Part(BOX, -0.5, 0.1, 0.06, 0.85),
            Part(ROUND, -0.45, -0.55, 0.09, 0.4, -4),
            Part(BOX, 0.5, 0.5, 0.05, 0.45),
            Part(BOX, 0.15, 0.5, 0.05, 0.4),
            Part(ROUND, 0.03, 0.1, 0.58, 0.09),
        ),
    ),
    (
        1.0,
        (
            Part(BOX, 0, 0.5, 0.1, 0.5),
            Part(ANY, -0.3, -0.2, 0.5, 0.45),
            Part(ANY, 0.3, -0.25, 0.5, 0.45),
            Part(ANY, 0, -0.5, 0.5, 0.45),
        ),
    ),
    (
        0.8,
        (
            Part(DISC, -0.4, -0.3, 0.14, 0.6, -50),
            Part(DISC, 0.4, -0.3, 0.14, 0.6, 50),
            Part(DISC, -0.15, -0.4, 0.13, 0.6, -15),
            Part(DISC, 0.2, -0.45, 0.14, 0.6, 20),
            Part(TRIANGLE, 0, 0.42, 0.42, 0.5, 180),
            Part(ROUND, 0, 0.17, 0.38, 0.1),
        ),
    ),
    (
        0.6,
        (
            Part(BOX, -0.5, 0, 0.08, 1.0, 20),
            Part(BOX, 0.0, 0, 0.08, 1.0, 20),
            Part(BOX, 0.5, 0, 0.08, 1.0, 20),
            Part(BOX, 0, -0.4, 1.0, 0.08),
            Part(BOX, 0, 0.4, 1.0, 0.08),
        ),
    ),
)


def recipe_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights (R,) and parts (R, MAX_PARTS, 7): kind, x, y, rx, ry, radians, hole; absent: rx 0."""
    rows = torch.zeros(len(RECIPES), MAX_PARTS, 7)
    for row, (_, parts) in zip(rows, RECIPES, strict=True):
        for slot, part in zip(row, parts, strict=False):
            turn = math.radians(part.degrees)
            values = [part.kind, part.x, part.y, part.rx, part.ry, turn, float(part.hole)]
            slot.copy_(torch.tensor(values))
    return torch.tensor([w for w, _ in RECIPES], device=device), rows.to(device)
