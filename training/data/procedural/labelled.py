"""Class-labelled rendered pictures: what pre-training learns from where there is no ImageNet.

A class is a family of scenes in dim or in bright light, which anybody can tell apart by looking, so
that a grid of samples shows whether the classes were learned.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.data.labelled import LabelledPicture
from training.data.mixture import seeded
from training.data.procedural.draws import uniform
from training.data.procedural.families import FAMILIES
from training.data.procedural.frame import draw_frame
from training.data.procedural.raycast import draw_atlas, scenes_of
from training.data.sample import Picture

# Mean brightness aimed at, before the camera's curve; the ranges leave a gap between the classes.
_LIGHTS = {"dim": (0.07, 0.13), "bright": (0.3, 0.45)}
CLASSES = tuple(f"{family}, {light}" for family in FAMILIES for light in _LIGHTS)
_CHUNK = 32  # pictures of one rendering; part of what picture `index` is


@torch.no_grad()
def render_labelled(
    generator: torch.Generator, label: Tensor, size: int, compiled: bool = False
) -> Tensor:
    """Pictures (n, 3, size, size) in [0, 1] of the classes `label` (n,), int64 rows of CLASSES."""
    scene = scenes_of(generator, label // len(_LIGHTS))
    low, high = torch.tensor(list(_LIGHTS.values()), device=label.device)[label % len(_LIGHTS)].T
    key = (low + (high - low) * uniform(generator, 0.0, 1.0, len(label)))[:, None]
    atlas = draw_atlas(generator)
    return draw_frame(scene, atlas, size, key, torch.zeros_like(key), compiled).image


@dataclass(frozen=True)
class ProceduralClasses:
    """`count` pictures of `size` px, every one a function of (seed, index)."""

    count: int
    size: int
    seed: int = 1
    compiled: bool = False  # faster by an order of magnitude after a minute
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Family and light, as in "room, dim"."""
        return CLASSES

    @property
    def identity(self) -> str:
        """Seed, size and count: a cache of other pictures must not go on with these."""
        return f"rendered with seed {self.seed}, {self.count} pictures at {self.size} px"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> LabelledPicture:
        chunk, row = divmod(index, _CHUNK)
        images, labels = _chunk(self, chunk)
        label = labels[row]
        return LabelledPicture(f"{index:08d}", images[row], label)


@functools.lru_cache(maxsize=2)  # neighbours are asked for one after the other
def _chunk(source: ProceduralClasses, chunk: int) -> tuple[Picture, list[int]]:
    """All pictures of one rendering, uint8 (n, S, S, 3), and their labels."""
    generator = seeded(source.device, "labelled", source.seed, chunk)
    device = source.device
    label = torch.randint(len(CLASSES), (_CHUNK,), generator=generator, device=device)
    image = render_labelled(generator, label, source.size, source.compiled)
    pixels = (image * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels, label.tolist()
