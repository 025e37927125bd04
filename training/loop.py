"""The training loop of every run: optimiser, schedule, EMA, clipping, logging, checkpoints, resume.

It knows nothing of tasks. A run hands it a model and a function from the step number to named loss
parts; since all randomness of a step is derived from its number, a resumed run repeats an
uninterrupted one bit for bit.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.checkpoint import TrainState, latest_checkpoint, load_checkpoint, save_checkpoint


class DivergedError(Exception):
    """The loss or the gradient is not finite any more; the last good checkpoint is kept."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn."""

    steps: int = 10_000
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    final_fraction: float = 0.02  # of the learning rate, at the end of its half cosine
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    bf16: bool = True
    save_every: int = 500
    log_every: int = 20
    seed: int = 1


@dataclass(frozen=True)
class StepResult:
    """Named loss parts (their sum is minimised), and how many samples the step saw."""

    parts: Mapping[str, Tensor]
    samples: int
    group: str  # what the curves are named after, such as the task


def reduced_precision(config: LoopConfig, device: torch.device) -> torch.autocast:
    """The context for a run's networks; what renders or prepares data must stay outside of it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.bf16)


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to `final_fraction`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)


def train(
    model: nn.Module,
    compute: Callable[[int], StepResult],
    config: LoopConfig,
    folder: Path,
    described: Mapping[str, object],
) -> nn.Module:
    """Trains the parameters that require a gradient and returns their moving average.

    Goes on from the newest checkpoint in `folder/checkpoints` when there is one. Raises
    DivergedError, and CheckpointError when that checkpoint is of another model.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    ema = copy.deepcopy(model).requires_grad_(False)
    checkpoints = folder / "checkpoints"
    step = samples = 0
    if (found := latest_checkpoint(checkpoints)) is not None:
        state = load_checkpoint(found, model, ema, optimizer)
        step, samples = state.step, state.samples
    with (
        SummaryWriter(str(folder / "curves")) as writer,
        _progress_bar(step, config.steps) as bar,
    ):
        log = _Log(writer, bar, config.log_every)
        while step < config.steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            result = compute(step)
            loss = torch.stack(list(result.parts.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            norm = nn.utils.clip_grad_norm_(trained, config.clip_norm)
            if not bool(torch.isfinite(norm)):
                raise DivergedError(
                    f"gradient norm {float(norm)} at step {step}; lower learning_rate, "
                    f"then go on from {latest_checkpoint(checkpoints)}"
                )
            optimizer.step()
            step += 1
            samples += result.samples
            # An early step counts for more, so that the random start is forgotten.
            _average(ema, model, min(config.ema_decay, (1 + step) / (10 + step)))
            log.add(step, result, float(norm))
            if step % config.save_every == 0 or step == config.steps:
                state = TrainState(step, samples, {**described, "loop": asdict(config)})
                save_checkpoint(checkpoints, model, ema, optimizer, state)
    return ema


def _progress_bar(step: int, steps: int) -> tqdm[NoReturn]:
    return tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True)


@torch.no_grad()
def _average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves `ema` towards `model`."""
    pairs = [
        (mean, value)
        for mean, value in zip(ema.parameters(), model.parameters(), strict=True)
        if value.requires_grad
    ]
    torch._foreach_lerp_([mean for mean, _ in pairs], [value for _, value in pairs], 1 - decay)


class _Log:
    """Curves per group in tensorboard, and the smoothed loss, samples/s and ETA on the terminal."""

    def __init__(self, writer: SummaryWriter, bar: tqdm[NoReturn], every: int) -> None:
        self._writer, self._bar, self._every = writer, bar, every
        self._smooth: dict[str, float] = {}
        self._since, self._samples = time.perf_counter(), 0

    def add(self, step: int, result: StepResult, norm: float) -> None:
        self._bar.update(1)
        self._samples += result.samples
        values = {f"{result.group}/{name}": float(v.detach()) for name, v in result.parts.items()}
        for name, value in values.items():
            self._smooth[name] = 0.95 * self._smooth.get(name, value) + 0.05 * value
        if step % self._every:
            return
        now = time.perf_counter()
        rate = self._samples / (now - self._since)
        self._since, self._samples = now, 0
        for name, value in self._smooth.items():
            self._writer.add_scalar(name, value, step)
        self._writer.add_scalar("samples_per_second", rate, step)
        self._writer.add_scalar("gradient_norm", norm, step)
        shown = " ".join(f"{name}={value:.3f}" for name, value in sorted(self._smooth.items()))
        self._bar.set_postfix_str(f"{rate:.0f} samples/s {shown}")
