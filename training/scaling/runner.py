"""Brings a study's points into being: prepares the data, trains what is missing, measures it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from training.data.latent_set import LatentSet, open_latents
from training.distributed import World, joined
from training.latents import procedural_latents
from training.models.autoencoders import PictureCoder, load_autoencoder
from training.scaling.coder import train_coder
from training.scaling.latents import (
    DepthLatents,
    Encoder,
    HeldOut,
    fill,
    fill_held_out,
    open_depth_latents,
    open_held_out,
)
from training.scaling.lineage import Workshop, alone
from training.scaling.measure import Bench
from training.scaling.networks import Network
from training.scaling.pictures import DepthPictures, OnDisk, Rendered
from training.scaling.records import (
    Measured,
    Point,
    Row,
    read_measured,
    rows_of,
    write_measured,
)
from training.scaling.scale import Scale
from training.targets import TABLES, TargetTable

NETWORKS, POINTS = "networks", "points"


@dataclass(frozen=True)
class Sources:
    """Real data for a scale that has no rendered one; all three are needed then."""

    data: Path | None = None  # with hypersim/ in it
    vae: Path | None = None  # a diffusers AutoencoderKL
    classes: Path | None = None  # a cache of training.latents


class Laboratory:
    """A scale's data and networks below one folder; everything is made when first asked for."""

    def __init__(
        self, scale: Scale, folder: Path, device: torch.device, sources: Sources, compiled: bool
    ) -> None:
        self.scale, self.folder, self.device = scale, folder, device
        self._sources, self._compiled = sources, compiled

    def measured(self, points: Sequence[Point]) -> list[Row]:
        """The rows of all points, in order; what is measured already is read, not repeated."""
        for network, wanted in _by_network(points).items():
            with joined(self.device) as world:
                missing = world.agreed([p for p in wanted if read_measured(self._path(p)) is None])
                if missing:
                    self._measure(network, missing, world)
                world.gathered([True])  # all have written theirs
        rows = []
        for point in points:
            measured = read_measured(self._path(point))
            assert measured is not None
            rows += rows_of(point, measured)
        return rows

    def _measure(self, network: Network, points: Sequence[Point], world: World) -> None:
        model = self._workshop.trained(network)
        loss = self._bench.loss(network, model)
        for point in points[world.rank :: world.size]:
            scores = self._bench.scores(network, model, point.budget)
            write_measured(self._path(point), Measured(loss, scores))
            best = min(scores, key=lambda score: score.abs_rel)
            print(f"{point.key}: loss {loss:.4f}, AbsRel {best.abs_rel:.4f}", flush=True)

    def _path(self, point: Point) -> Path:
        return self.folder / POINTS / f"{point.key}.json"

    @functools.cached_property
    def _workshop(self) -> Workshop:
        networks = self.folder / NETWORKS
        return Workshop(networks, self._training_latents, self._classes, self.device)

    @functools.cached_property
    def _bench(self) -> Bench:
        return Bench(self._held_out, self._coder, self.device, self._targets.depth)

    @property
    def _targets(self) -> TargetTable:
        return TABLES[self.scale.targets]

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._coder, self._targets, self._all_sizes, self.device)

    @property
    def _all_sizes(self) -> tuple[int, ...]:
        return tuple(sorted({self.scale.size, *self.scale.sizes}))

    @functools.cached_property
    def _pictures(self) -> DepthPictures:
        scale = self.scale
        if scale.coder is not None:
            return Rendered(scale.side, scale.pictures, scale.chunk, self._compiled)
        assert self._sources.data is not None, "the command line asked for it"
        return OnDisk(
            self._sources.data,
            scale.side,
            scale.pictures,
            {"hypersim": scale.chunk},
            "hypersim",
            scale.scenes,
        )

    @functools.cached_property
    def _coder_folder(self) -> Path:
        """Of the autoencoder: given, or trained here; one process does it, others wait."""
        if self._sources.vae is not None:
            return self._sources.vae
        assert self.scale.coder is not None
        folder = self.folder / "autoencoder"
        with alone(self.folder / "autoencoder.lock", self.device):
            train_coder(self.scale.coder, self._pictures, self._all_sizes, folder)
        return folder

    @functools.cached_property
    def _coder(self) -> PictureCoder:
        return load_autoencoder(self._coder_folder, self.device)

    @functools.cached_property
    def _training_latents(self) -> dict[int, DepthLatents]:
        folder, encoder = self.folder / "latents", self._encoder
        with alone(self.folder / "latents.lock", self.device) as world:
            if world.first:
                fill(folder, self._pictures, encoder)
        return open_depth_latents(folder, self._all_sizes)

    @functools.cached_property
    def _held_out(self) -> HeldOut:
        folder = self.folder / "held_out"
        encoder, scenes = self._encoder, self.scale.scenes
        with alone(self.folder / "held_out.lock", self.device) as world:
            if world.first:
                fill_held_out(folder, self._pictures, encoder, scenes)
        return open_held_out(folder, self._all_sizes, scenes)

    def _classes(self) -> LatentSet:
        if self._sources.classes is not None:
            return open_latents(self._sources.classes)
        folder, vae, scale = self.folder / "classes", self._coder_folder, self.scale
        with alone(self.folder / "classes.lock", self.device) as world:
            if world.first:
                procedural_latents(
                    scale.class_pictures,
                    scale.size,
                    vae,
                    folder,
                    torch.device("cpu"),
                    seed=2,  # other pictures than those of depth
                    compiled=self._compiled,
                )
        return open_latents(folder)


def _by_network(points: Sequence[Point]) -> dict[Network, list[Point]]:
    """Different points by the network that they ask, in their first order."""
    groups: dict[Network, list[Point]] = {}
    for point in points:
        known = groups.setdefault(point.network, [])
        if point.budget not in [other.budget for other in known]:
            known.append(point)
    return groups
