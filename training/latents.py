"""Encodes class-labelled pictures once, into a cache that pre-training reads from disk:

`python -m training.latents --images ILSVRC2012 --vae sd-vae --size 256 --flip --out latents`
`python -m training.latents --shards 'imagenet-{000..099}.tar' --vae sd-vae --out latents`
`python -m training.latents --procedural 8192 --vae runs/autoencoder --size 128 --out latents`

A killed run goes on where it stopped: shards appear only when they are whole. `--share 0/8` takes
every eighth shard, so that eight processes fill one cache; whoever finishes last writes the index.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from training.checkpoint import CheckpointError
from training.config import add_device
from training.data.image_folder import open_image_folder
from training.data.labelled import LabelledPicture, LabelledPictures
from training.data.latent_set import INDEX, LatentSet, open_latents
from training.data.latent_writer import CachePlan, begin, finish, missing, write_shard
from training.data.procedural.labelled import ProceduralClasses
from training.data.sample import DataError
from training.data.shards import open_shards
from training.models.autoencoders import PictureCoder, load_autoencoder, weights_sha256

_ROWS = 32  # pictures encoded at a time


@dataclass(frozen=True)
class Share:
    """Which part of the shards a process makes."""

    rank: int
    world: int


_WHOLE = Share(0, 1)


def encode_pictures(
    source: LabelledPictures,
    vae: Path,
    out: Path,
    device: torch.device,
    *,
    size: int,
    mirrored: bool,
    per_shard: int = 4096,
    workers: int = 0,
    share: Share = _WHOLE,
) -> LatentSet | None:
    """Fills the cache in `out`; None while other shares still miss.

    `workers` threads decode the next pictures while these are encoded. Raises DataError for a
    picture that cannot be read or a cache begun with other settings, and CheckpointError for an
    autoencoder that cannot be loaded.
    """
    coder = load_autoencoder(vae, device)
    with torch.no_grad():
        shape = coder.encode(torch.zeros(1, 3, size, size, device=device)).shape[1:]
    plan = CachePlan(
        source=source.identity,
        vae=weights_sha256(vae),
        size=size,
        latent_shape=tuple(shape),
        classes=source.classes,
        mirrored=mirrored,
        count=len(source),
        per_shard=per_shard,
    )
    begin(plan, out)
    todo = [n for n in missing(plan, out) if n % share.world == share.rank]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("pictures", total=sum(len(plan.rows(n)) for n in todo))
        passed = partial(progress.advance, task)
        for number in todo:
            pictures = _read_ahead(source, plan.rows(number), workers)
            write_shard(plan, number, _encode(coder, pictures, plan, device, passed), out)
    if missing(plan, out):
        return None
    finish(plan, out)
    return open_latents(out)


def procedural_latents(
    count: int,
    size: int,
    vae: Path,
    out: Path,
    device: torch.device,
    *,
    seed: int = 1,
    compiled: bool = False,
    mirrored: bool = False,
) -> LatentSet:
    """A cache of `count` rendered pictures of `size` px, made now unless it is there already."""
    source = ProceduralClasses(count, size, seed, compiled, device)
    latents = encode_pictures(source, vae, out, device, size=size, mirrored=mirrored)
    assert latents is not None, "a single share is the whole"
    return latents


def _read_ahead(
    source: LabelledPictures, rows: range, workers: int
) -> Iterator[tuple[LabelledPicture, ...]]:
    """Pictures `rows` in order, `_ROWS` at a time, two lots of them read ahead by threads."""
    lots = [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
    if not workers:
        for lot in lots:
            yield tuple(source[row] for row in lot)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead = [[pool.submit(source.__getitem__, row) for row in lot] for lot in lots[:2]]
        for number in range(len(lots)):
            if number + 2 < len(lots):
                ahead.append([pool.submit(source.__getitem__, row) for row in lots[number + 2]])
            yield tuple(future.result() for future in ahead.pop(0))


@torch.no_grad()
def _encode(
    coder: PictureCoder,
    lots: Iterator[tuple[LabelledPicture, ...]],
    plan: CachePlan,
    device: torch.device,
    passed: Callable[[float], None],
) -> Mapping[str, NDArray[np.generic]]:
    """The arrays of one shard by file name."""
    straight: list[Tensor] = []
    turned: list[Tensor] = []
    labels: list[int] = []
    for lot in lots:
        pixels = torch.from_numpy(np.stack([picture.image for picture in lot])).to(device)
        images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        straight.append(coder.encode(images).half().cpu())
        if plan.mirrored:
            turned.append(coder.encode(images.flip(-1)).half().cpu())
        labels.extend(picture.label for picture in lot)
        passed(len(lot))
    return plan.arrays(torch.cat(straight), torch.cat(turned) if turned else None, labels)


def _share(text: str) -> Share:
    rank, _, world = text.partition("/")
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world)):
        raise argparse.ArgumentTypeError(f"{text!r} is not R/W with R in 0..W-1, such as 0/8")
    return Share(int(rank), int(world))


@dataclass(frozen=True)
class _Options:
    """What opening a source needs."""

    size: int
    seed: int
    compiled: bool
    device: torch.device


_SOURCES: Mapping[str, Callable[[str, _Options], LabelledPictures]] = MappingProxyType(
    {
        "images": lambda where, told: open_image_folder(Path(where), told.size),
        "shards": lambda where, told: open_shards(where, told.size),
        "procedural": lambda count, told: ProceduralClasses(
            int(count), told.size, told.seed, told.compiled, told.device
        ),
    }
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.latents", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", metavar="FOLDER", help="a folder per class, as ImageNet has")
    source.add_argument("--shards", metavar="TARS", help="x-{000..099}.tar, or a folder of tars")
    source.add_argument("--procedural", metavar="N", help="N rendered pictures of 12 classes")
    parser.add_argument("--vae", type=Path, required=True, help="folder of an autoencoder")
    parser.add_argument("--size", type=int, default=256, help="px, side of the squares")
    parser.add_argument("--flip", action="store_true", help="also encode every mirror image")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--per-shard", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="decoding threads")
    parser.add_argument("--share", type=_share, default=_WHOLE, metavar="R/W")
    parser.add_argument("--seed", type=int, default=1, help="of rendered pictures")
    parser.add_argument("--compiled", action="store_true", help="compile the renderer")
    add_device(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring. Ends with one sentence where it cannot go on."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name, least in (("size", 8), ("per_shard", 1), ("workers", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if options.size % 8:
        parser.error(f"--size {options.size} is not a multiple of 8, the autoencoder's factor")
    if options.procedural is not None and not options.procedural.isdigit():
        parser.error(f"--procedural {options.procedural!r} is not a number of pictures")
    device = torch.device(options.device)
    told = _Options(options.size, options.seed, options.compiled, device)
    kind = next(kind for kind in _SOURCES if getattr(options, kind) is not None)
    try:
        latents = encode_pictures(
            _SOURCES[kind](getattr(options, kind), told),
            options.vae,
            options.out,
            device,
            size=options.size,
            mirrored=options.flip,
            per_shard=options.per_shard,
            workers=0 if kind == "procedural" else options.workers,
            share=options.share,
        )
    except (DataError, CheckpointError) as error:
        parser.error(str(error))
    if latents is None:
        print(f"share {options.share.rank}/{options.share.world} is done; others are missing")
    else:
        print(f"wrote {options.out / INDEX}: {len(latents)} latents {latents.index.latent_shape}")


if __name__ == "__main__":
    main()
