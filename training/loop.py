"""The training loop of every run: optimiser, schedule, EMA, clipping, logging, checkpoints, resume.

It knows nothing of tasks. A run hands it a model and a function from a micro-batch's number to
named loss parts; since all randomness is derived from that number, a resumed run repeats an
uninterrupted one bit for bit, and any number of processes that `torchrun` launches learns the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from training.checkpoint import (
    CheckpointWriter,
    TrainState,
    latest_checkpoint,
    load_networks,
    load_optimizer,
    load_state,
)
from training.curves import Curves, Taken
from training.distributed import Alone, LaunchError, Replicated, Spread, World, joined
from training.divergence import SpikeWatch, are_finite
from training.gradients import Compute, Gradients, StepResult, advanced
from training.loop_config import (
    DECAYS,
    Decay,
    LoopConfig,
    Sharding,
    learning_rate,
    reduced_precision,
)
from training.progress import shown
from training.provenance import MacCounter, describe_start, device_name, record_start
from training.sharding import Sharded

__all__ = [
    "DECAYS",
    "Decay",
    "DivergedError",
    "LoopConfig",
    "Sharding",
    "StepResult",
    "learning_rate",
    "reduced_precision",
    "train",
]


class DivergedError(Exception):
    """The loss or the gradient is no longer what it should be; the last good checkpoint is kept."""


def train(
    model: nn.Module,
    compute: Compute,
    config: LoopConfig,
    folder: Path,
    described: Mapping[str, object],
) -> nn.Module:
    """Trains the parameters that require a gradient and returns their moving average.

    Step n averages the gradients of `compute(i)` for the `micro_batches` numbers i from
    n * micro_batches. Goes on from the newest checkpoint in `folder/checkpoints` when there is one.
    Under `torchrun` every process calls this with the same arguments, each with its own device; a
    sharded run leaves `model` in shards. Raises DivergedError, CheckpointError when that checkpoint
    is of another model, and LaunchError when processes or model cannot do what is configured.
    """
    with joined(next(model.parameters()).device) as world:
        run = _Run(model, compute, config, folder / "checkpoints", world)
        run.state = replace(run.state, config={**described, "loop": asdict(config)})
        devices = tuple(world.gathered([device_name(run.device)]))
        begun, console, curves_in = run.state.step, None, None
        if world.first and begun < config.steps:
            record_start(folder, run.state.config, describe_start(begun, devices))
            console, curves_in = Console(stderr=True), folder
        with (
            run.writer,
            shown(begun, config.steps, console) as show,
            Curves(curves_in, begun, config.log_every, show) as curves,
        ):
            while run.state.step < config.steps:
                curves.add(run.step())
                run.save_when_due()
        return run.spread.whole(run.ema)


class _Run:
    """A run between two steps: networks, optimiser, and what has been spent."""

    def __init__(
        self, model: nn.Module, compute: Compute, config: LoopConfig, folder: Path, world: World
    ) -> None:
        world.own(config.micro_batches)  # or raises, before anything is written
        self._model, self._config, self._folder, self._world = model, config, folder, world
        self.device = next(model.parameters()).device
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.state = TrainState(0, 0, {})
        if (found := world.agreed(latest_checkpoint(folder))) is not None:
            load_networks(found, model, self.ema)
            self.state = load_state(found)
        if config.recompute:
            _recompute(model)
        self.spread = _spread(model, self.ema, compute, config, world)
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trained,
            lr=config.learning_rate,
            betas=(0.9, config.adam_beta2),
            weight_decay=config.weight_decay,
        )
        if found is not None:
            load_optimizer(found, self._optimizer)
        self._gradients = Gradients(
            self.spread,
            world,
            config.micro_batches,
            partial(MacCounter, model),
            self.state.pass_macs,
        )
        self._watch = SpikeWatch(config.spike_factor, config.spike_patience, self.state.smooth_loss)
        self.writer = CheckpointWriter(folder, writes=world.first)
        self._due = False

    def step(self) -> Taken:
        """Takes one step; raises DivergedError instead of a bad one."""
        step, config = self.state.step, self._config
        rate = learning_rate(config, step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        passes = self._gradients.of(step)
        norm = _clipped(self._trained, config.clip_norm)
        if not (math.isfinite(norm) and all(math.isfinite(passed.loss) for passed in passes)):
            raise self._diverged(f"gradient norm {norm}")
        if problem := self._watch.add(passes, judge=step >= config.warmup_steps):
            raise self._diverged(problem)
        self._optimizer.step()
        self.state = advanced(self.state, passes)
        # An early step counts for more, so that the random start is forgotten.
        _average(self.ema, self._model, min(config.ema_decay, (2 + step) / (11 + step)))
        return Taken(passes, rate, norm, self.state)

    def save_when_due(self) -> None:
        """Saves every `save_every` steps and at the end, but never what may have gone wrong."""
        step, last = self.state.step, self.state.step == self._config.steps
        self._due = self._due or last or step % self._config.save_every == 0
        # What a spike means is known after the next values.
        if not self._due or not (self._watch.calm or last):
            return
        if not all(self._world.gathered([are_finite(self._trained)])):
            raise self._diverged("weights that are not finite")
        self.state = replace(self.state, smooth_loss=self._watch.smooth)
        self.writer.save(self._model, self.ema, self._optimizer, self.state)
        self._due = False

    def _diverged(self, problem: str) -> DivergedError:
        self.writer.wait()
        found = latest_checkpoint(self._folder)
        then = "begin again" if found is None else f"go on from {found}"
        return DivergedError(
            f"{problem} at step {self.state.step}; lower loop.learning_rate, then {then}"
        )


def _spread(
    model: nn.Module, ema: nn.Module, compute: Compute, config: LoopConfig, world: World
) -> Spread[StepResult]:
    share = world.size / config.micro_batches  # gradients are averaged over processes

    def loss_of(index: int) -> tuple[Tensor, StepResult]:
        result = compute(index)
        loss = torch.stack(list(result.parts.values())).sum()
        return loss if share == 1 else loss * share, result

    if world.size == 1:
        return Alone(loss_of)
    spreads: Mapping[Sharding, Callable[[], Spread[StepResult]]] = {
        "replicate": lambda: Replicated(model, loss_of),
        "shard": lambda: Sharded(model, ema, loss_of, world.size),
    }
    return spreads[config.sharding]()


class _Recomputes(Protocol):
    recompute: bool


def _recompute(model: nn.Module) -> None:
    """Tells every part that can that its activations are to be computed again, not kept."""
    able = [module for module in model.modules() if hasattr(module, "recompute")]
    if not able:
        raise LaunchError(f"recompute: no part of {type(model).__name__} can compute again")
    for module in able:
        cast(_Recomputes, module).recompute = True


def _clipped(parameters: Sequence[nn.Parameter], most: float) -> float:
    """Scales the gradients down to a norm of `most`, unless that is 0; the norm before."""
    norm = nn.utils.clip_grad_norm_(parameters, most or math.inf)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


@torch.no_grad()
def _average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves `ema` towards `model`."""
    pairs = [
        (mean, value)
        for mean, value in zip(ema.parameters(), model.parameters(), strict=True)
        if value.requires_grad
    ]
    torch._foreach_lerp_([mean for mean, _ in pairs], [value for _, value in pairs], 1 - decay)
