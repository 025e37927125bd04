"""The families of scenes and how often each is drawn.

Each family draws `n` scenes with the same numbers of primitives, so that they form one batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from training.data.procedural.closeups import desk, still_life
from training.data.procedural.clutter import clutter
from training.data.procedural.interiors import corridor, room
from training.data.procedural.scene import Scene
from training.data.procedural.street import street

FAMILIES: dict[str, tuple[Callable[[torch.Generator, int], Scene], float]] = {
    "room": (room, 0.26),
    "desk": (desk, 0.22),
    "still life": (still_life, 0.2),
    "corridor": (corridor, 0.1),
    "street": (street, 0.18),
    "clutter": (clutter, 0.04),
}
"""How to draw a family and its share of the scenes."""
