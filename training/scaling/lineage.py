"""Trains a network and, before it, whatever it begins from; what is trained already is read.

Every network has a folder of its own, so that studies share them and a killed run goes on.
"""

from __future__ import annotations

import fcntl
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_model
from torch import Tensor
from torch.nn import functional

from training.checkpoint import load_weights
from training.data.latent_set import LatentSet
from training.data.mixture import seeded
from training.diffusion import Diffusion
from training.distributed import World, joined
from training.loop import StepResult, reduced_precision, train
from training.models.dit import DiT, DiTConfig
from training.models.moe import expert_balance
from training.models.transplant import perception_state, upcycle
from training.pretrain import objective as class_objective
from training.runs.pretrain import PretrainRun
from training.scaling.latents import DepthLatents
from training.scaling.networks import SCHEDULES, Beginning, Network, Task

WEIGHTS, CHECKPOINTS = "model.safetensors", "checkpoints"


@dataclass(frozen=True)
class Workshop:
    """Where networks are trained: their folders, and the latents that they learn from."""

    folder: Path
    depth: Mapping[int, DepthLatents]  # by size in px
    classes: Callable[[], LatentSet]  # made when first asked for
    device: torch.device

    def trained(self, network: Network) -> DiT:
        """The moving average of a network's weights, trained now unless that was done before.

        Two commands never train the same network: the second one waits for the first. Raises
        DivergedError.
        """
        folder = self.folder / network.key
        with alone(self.folder / f"{network.key}.lock", self.device) as world:
            if world.agreed(not (folder / WEIGHTS).is_file()):
                self._train(network, folder, world)
        model = DiT(network.model)
        load_weights(model, folder / WEIGHTS)
        return model.to(self.device).eval()

    def _train(self, network: Network, folder: Path, world: World) -> None:
        parent = self.trained(network.parent) if network.parent else None
        model = begin(network, parent).to(self.device).train()
        if network.parent and network.beginning == "prolonged":
            if world.first:
                _hand_down(self.folder / network.parent.key / CHECKPOINTS, folder / CHECKPOINTS)
            world.agreed(True)  # nobody looks for them earlier
        compute = _OBJECTIVES[network.task](self, network, model)
        ema = train(model, compute, network.loop, folder, {"network": _plain(network)})
        if not world.first:
            return
        save_model(ema, str(folder / f".{WEIGHTS}"))
        (folder / "network.json").write_text(json.dumps(_plain(network), indent=2) + "\n")
        (folder / f".{WEIGHTS}").rename(folder / WEIGHTS)
        if network.task == "depth":  # only pre-training is prolonged
            shutil.rmtree(folder / CHECKPOINTS)


def begin(network: Network, parent: DiT | None) -> DiT:
    """The network before its first step. Raises TransplantError where the parent does not fit."""
    torch.manual_seed(network.seed)
    model = DiT(network.model)
    if parent is not None:
        model.load_state_dict(_BEGINNINGS[network.beginning](parent, network))
    return model


def _extended(parent: DiT, network: Network) -> Mapping[str, Tensor]:
    return perception_state(parent.state_dict(), parent.config, network.model, network.seed)


def _upcycled(parent: DiT, network: Network) -> Mapping[str, Tensor]:
    assert network.model.experts is not None
    return upcycle(parent.state_dict(), network.model.experts, network.seed)


def _same(parent: DiT, network: Network) -> Mapping[str, Tensor]:
    del network
    return parent.state_dict()


_BEGINNINGS: Mapping[Beginning, Callable[[DiT, Network], Mapping[str, Tensor]]] = MappingProxyType(
    {"extended": _extended, "upcycled": _upcycled, "further": _same, "prolonged": _same}
)


def depth_label(model: DiTConfig) -> int:
    """The label of depth: the row before that of no class."""
    return model.num_labels - 2


def _depth_objective(
    workshop: Workshop, network: Network, model: DiT
) -> Callable[[int], StepResult]:
    """The loss of step n, with all its randomness derived from n: every epoch sees all pictures."""
    latents, device, loop = workshop.depth[network.size], workshop.device, network.loop
    diffusion = Diffusion(SCHEDULES[network.schedule], device)
    rows = network.rows // loop.micro_batches
    label = torch.full((rows,), depth_label(network.model), device=device)
    # A network trained further must not see the noise and the order that its parent saw; siblings
    # shall see the same.
    stage = 1 if network.beginning in ("further", "upcycled") else 0

    def compute(index: int) -> StepResult:
        chosen = epoch_rows(len(latents), rows, index, (loop.seed, stage))
        image, target = (part.to(device) for part in latents.rows(chosen))
        generator = seeded(device, "scaling", loop.seed, stage, index)
        t = diffusion.sample_timesteps(rows, generator)
        eps = torch.randn(target.shape, generator=generator, device=device)
        with reduced_precision(loop, device):
            output = model(diffusion.add_noise(target, eps, t), image, t, label)
        predicted = output[:, : target.shape[1]].float()
        parts = {"diffusion": functional.mse_loss(predicted, diffusion.target(target, eps, t))}
        if (balance := expert_balance(model)) is not None:
            parts["balance"] = balance
        return StepResult(parts, rows, "depth")

    return compute


def _class_objective(
    workshop: Workshop, network: Network, model: DiT
) -> Callable[[int], StepResult]:
    return class_objective(pretrain_run(network), model, workshop.classes(), workshop.device)


def pretrain_run(network: Network) -> PretrainRun:
    """The class-conditional network as a run of `training.pretrain`."""
    return PretrainRun(
        model=network.model,
        loop=network.loop,
        rows=network.rows // network.loop.micro_batches,
        flip=False,
        schedule=SCHEDULES[network.schedule],
    )


_OBJECTIVES: Mapping[Task, Callable[[Workshop, Network, DiT], Callable[[int], StepResult]]] = (
    MappingProxyType({"classes": _class_objective, "depth": _depth_objective})
)


def epoch_rows(total: int, rows: int, index: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    """Row numbers (rows,) of batch `index`, where every epoch is a new order of all rows."""
    numbers = np.arange(index * rows, (index + 1) * rows)
    epochs, places = np.divmod(numbers, total)
    orders = [
        _order(total, seed, int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)
    ]
    return np.concatenate(orders)


@functools.lru_cache(maxsize=2)
def _order(total: int, seed: tuple[int, int], epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([*seed, epoch]).permutation(total)


def _hand_down(checkpoints: Path, own: Path) -> None:
    """Gives a prolonged run its parent's checkpoints to resume from, all at once."""
    if own.is_dir():
        return
    partial = own.with_name(f".{own.name}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoints, partial)
    partial.rename(own)


def _plain(network: Network) -> dict[str, object]:
    return cast(dict[str, object], asdict(network))


@contextmanager
def alone(path: Path, device: torch.device) -> Iterator[World]:
    """Holds the lock in `path` for this command; any other that wants it waits.

    Of several processes that `torchrun` launched, the first holds it for all, and none leaves
    before the first is done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with joined(device) as world, path.open("w") as file:
        if world.first:
            fcntl.flock(file, fcntl.LOCK_EX)
        world.agreed(True)
        yield world
        world.agreed(True)
