"""Pictures of any size to the members that a model draws for them.

Inputs are resized to the model's square without keeping their ratio, as the service and the paper
do. What comes out is read by `training.answers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from service.core.tasks import TaskName
from training.answers import FieldMaps, Reading, fields_of
from training.data.sample import Array, Mask, Picture
from training.sampler import Sampler
from training.targets import TargetTable


class Draw(Protocol):
    """Something that looks at a task's pictures (H, W, 3) and draws members of an answer."""

    @property
    def table(self) -> TargetTable:
        """What the answers are encoded as."""
        ...

    def __call__(
        self, task: TaskName, reading: Reading, images: Sequence[Picture], seed: int
    ) -> FieldMaps:
        """The fields (N, P, P) that a reading needs; the same seed draws the same ones."""
        ...


@dataclass(frozen=True)
class ModelDraw:
    """Draws from a model: `members` of `steps` denoising steps each."""

    sampler: Sampler
    steps: int
    members: int

    @property
    def table(self) -> TargetTable:
        """See `Draw`."""
        return self.sampler.model.config.table

    def __call__(
        self, task: TaskName, reading: Reading, images: Sequence[Picture], seed: int
    ) -> FieldMaps:
        """See `Draw`. Raises ValueError for what the model does not make."""
        size, device = self.sampler.model.config.input_size(task), self.sampler.device
        first, *others = (model_input(image, size).to(device) for image in images)
        second = others[0] if others else None
        seeded = replace(self.sampler, seed=seed)
        fields = draw_fields(seeded, task, reading, (first, second), self.steps, self.members)
        return {name: maps[:, 0] for name, maps in fields.items()}


def draw_fields(
    sampler: Sampler,
    task: TaskName,
    reading: Reading,
    inputs: tuple[Tensor, Tensor | None],
    steps: int,
    members: int,
) -> dict[str, Array]:
    """Fields (members, B, P, P) of a picture and a prompt, (B, 3, S, S) in [-1, 1] each.

    Raises ValueError for what the model does not make.
    """
    wanted = reading.wanted(sampler.model.config.components(task))
    drawn = {}
    for component in wanted:
        drawn.update(sampler.pictures(task, *inputs, steps, members, component.name))
    return fields_of(wanted, {name: p.float().cpu().numpy() for name, p in drawn.items()})


def model_input(image: Picture, size: int) -> Tensor:
    """A picture (H, W, 3) as a model's input (1, 3, size, size) in [-1, 1]."""
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    values = np.asarray(resized, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(values).permute(2, 0, 1)[None]


def mask_picture(mask: Mask) -> Picture:
    """A mask (H, W) as a model is shown it: black and white, (H, W, 3)."""
    return np.repeat(mask[:, :, None].astype(np.uint8) * 255, 3, axis=2)
