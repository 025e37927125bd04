"""A stream of training batches from procedural sources, each a function of (seed, task, step).

Rendering costs more than looking at a picture twice, so pictures live in a small pool: now and then
the oldest chunk is rendered anew, and each step draws rows from the whole pool, mirrored at random
and seen through a new camera (exposure, blur, noise, compression). The pool at a step depends on
its number alone, so a resumed run sees the same pictures.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

from service.core.record import require
from training.data.procedural.camera import apply_camera, apply_camera_to_pair
from training.data.procedural.layers import render_amodal, render_flow
from training.data.procedural.raycast import render_depth, render_motion
from training.data.sample import AmodalBatch, Batch, DepthBatch, FlowBatch

B = TypeVar("B", bound=Batch)


@dataclass(frozen=True)
class Source:
    """One renderer, its share of a task's chunks, and whether it has a compiled form."""

    render: Callable[..., Batch]  # (generator, count, size, compiled=... where it has that form)
    share: float
    compiles: bool = False


SOURCES: Mapping[str, tuple[Source, ...]] = MappingProxyType(
    {
        "depth": (Source(render_depth, 1.0, compiles=True),),
        "flow": (Source(render_flow, 0.6), Source(render_motion, 0.4, compiles=True)),
        "amodal": (Source(render_amodal, 1.0),),
    }
)


def seeded(device: torch.device, *keys: object) -> torch.Generator:
    """A generator whose state is a hash of `keys`: the same keys, the same stream, anywhere."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True)
class PoolConfig:
    """`chunks` of `chunk` pictures are kept, each picture is looked at `views` times on average.

    `compiled` renderers start a minute later and are far faster after that; on a CPU compilation
    needs a C++ compiler.
    """

    chunk: int = 32
    chunks: int = 6
    views: int = 2
    compiled: bool = False

    def __post_init__(self) -> None:
        for name in ("chunk", "chunks", "views"):
            require(getattr(self, name) >= 1, name, "must be at least 1")

    @property
    def pictures(self) -> int:
        """How many are kept."""
        return self.chunk * self.chunks


class Stream:
    """Batches of one task, `rows` at a time. Raises ValueError for more rows than the pool has."""

    def __init__(
        self,
        task: str,
        size: int,
        rows: int,
        config: PoolConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        if rows > config.pictures:
            raise ValueError(
                f"{rows} rows of {task} do not fit a pool of {config.chunks} x {config.chunk}"
            )
        self._task, self._size, self._rows, self._config = task, size, rows, config
        self._seed, self._device = seed, device
        self._pool: dict[int, Batch] = {}

    def batch(self, step: int) -> Batch:
        """The batch of the task's own step number `step`."""
        newest = step * self._rows // (self._config.chunk * self._config.views)
        wanted = range(newest, newest + self._config.chunks)
        self._pool = {chunk: self._pool.get(chunk) or self._render(chunk) for chunk in wanted}
        generator = seeded(self._device, "draw", self._seed, self._task, step)
        order = torch.randperm(self._config.pictures, generator=generator, device=self._device)
        drawn = _gather(list(self._pool.values()), order[: self._rows].tolist(), self._config.chunk)
        return photograph(mirror(drawn, generator), generator)

    def expect(self, steps: Sequence[int]) -> None:
        """Nothing is made ready for `steps`: the device that trains is the one that renders."""

    def _render(self, chunk: int) -> Batch:
        sources = SOURCES[self._task]
        shares = torch.tensor([source.share for source in sources])
        picker = seeded(torch.device("cpu"), "source", self._seed, self._task, chunk)
        chosen = sources[int(torch.multinomial(shares, 1, generator=picker))]
        generator = seeded(self._device, "render", self._seed, self._task, chunk)
        form = {"compiled": True} if chosen.compiles and self._config.compiled else {}
        with torch.no_grad():
            return chosen.render(generator, self._config.chunk, self._size, **form)


def _gather(chunks: list[B], order: list[int], chunk: int) -> B:
    """Rows `order` of the chunks as if they were one batch, without joining them first."""
    fields = {
        name: torch.stack([getattr(chunks[index // chunk], name)[index % chunk] for index in order])
        for name in tensors(chunks[0])
    }
    return type(chunks[0])(**fields)


def tensors(batch: Batch) -> dict[str, Tensor]:
    """The fields of a batch that are known, by name."""
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value for name, value in fields.items() if value is not None}


def mirror(batch: B, generator: torch.Generator) -> B:
    """Half of the rows seen in a mirror: sides swap, and horizontal motion changes its sign."""
    fields = tensors(batch)
    rows = len(next(iter(fields.values())))
    flip = torch.rand(rows, generator=generator, device=generator.device) < 0.5

    def flipped(name: str, value: Tensor) -> Tensor:
        turned = value.flip(-1)
        if name == "flow":
            turned = turned * torch.tensor([-1.0, 1.0], device=value.device)[:, None, None]
        return torch.where(flip[:, None, None, None], turned, value)

    return type(batch)(**{name: flipped(name, value) for name, value in fields.items()})


@singledispatch
def photograph(batch: Batch, generator: torch.Generator) -> Batch:
    """The batch as a camera would have recorded it; the answers stay as they are."""
    raise TypeError(f"no camera is defined for {type(batch).__name__}, {generator}")


@photograph.register
def _(batch: DepthBatch, generator: torch.Generator) -> Batch:
    return dataclasses.replace(batch, image=apply_camera(batch.image, generator))


@photograph.register
def _(batch: FlowBatch, generator: torch.Generator) -> Batch:
    frame1, frame2 = apply_camera_to_pair(batch.frame1, batch.frame2, generator)
    return dataclasses.replace(batch, frame1=frame1, frame2=frame2)


@photograph.register
def _(batch: AmodalBatch, generator: torch.Generator) -> Batch:
    return dataclasses.replace(batch, image=apply_camera(batch.image, generator))
