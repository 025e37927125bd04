"""Trains the generalist on all tasks, around an autoencoder that `training.autoencoder` left:

`python -m training.finetune --run shipped --vae runs/autoencoder --out runs/shipped`

`--init RUN` starts from the weights of a finished run instead, for other data or a longer schedule.
Resumes by itself where the run in `--out` stopped. Writes checkpoints, tensorboard curves, and at
the end `model.safetensors` (the moving average) with `model.json` beside it, which `evaluate` and
`export` read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_model

from training.autoencoder import WEIGHTS as VAE_WEIGHTS
from training.checkpoint import load_weights
from training.config import described, launch, read_model
from training.data.mixture import Stream, seeded
from training.diffusion import SCHEDULE, Diffusion
from training.loop import StepResult, reduced_precision, train
from training.losses import diffusion_loss
from training.models.perception import ModelConfig, PerceptionModel
from training.runs.finetune import FINETUNE_RUNS, FinetuneRun
from training.targets import prepare

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def turns(run: FinetuneRun) -> tuple[str, ...]:
    """One round of tasks, spread out: with shares 2, 2, 1 the order is a, b, c, a, b."""
    rounds = max(run.shares.values())
    return tuple(
        task for turn in range(rounds) for task, share in run.shares.items() if turn < share
    )


def task_step(order: tuple[str, ...], step: int) -> tuple[str, int]:
    """The task of a step, and how often it was trained before, which is what its stream counts."""
    rounds, turn = divmod(step, len(order))
    task = order[turn]
    return task, rounds * order.count(task) + order[:turn].count(task)


def objective(
    run: FinetuneRun, model: PerceptionModel, device: torch.device
) -> Callable[[int], StepResult]:
    """The loss of step n, with all its randomness derived from n."""
    diffusion = Diffusion(SCHEDULE, device)
    order = turns(run)
    streams = {
        task: Stream(
            task, run.model.input_size(task), run.rows[task], run.pool, run.loop.seed, device
        )
        for task in run.shares
    }

    def compute(step: int) -> StepResult:
        task, own_step = task_step(order, step)
        example = prepare(streams[task].batch(own_step), run.model.image_size)
        generator = seeded(device, "noise", run.loop.seed, step)
        with reduced_precision(run.loop, device):
            parts = diffusion_loss(model, diffusion, example, run.loss, generator)
        return StepResult(parts, run.rows[task], task)

    return compute


def build(
    run: FinetuneRun, source: Path, device: torch.device, whole: bool = False
) -> PerceptionModel:
    """A fresh generalist around the autoencoder in `source`, or the `whole` generalist there.

    Raises CheckpointError where the weights do not fit the run's model.
    """
    torch.manual_seed(run.loop.seed)
    model = PerceptionModel(run.model)
    if whole:
        load_weights(model, source / WEIGHTS)
    else:
        load_weights(model.vae, source / VAE_WEIGHTS)
    return model.to(device)


@dataclass(frozen=True)
class RunDescription:
    """What is remembered of a finished run: its model's shape, and how it was trained."""

    model: ModelConfig
    steps: int
    seed: int


def read_description(folder: Path) -> RunDescription:
    """Reads `model.json` of a run's folder; raises ArtifactError where the model is not one."""
    described = json.loads((folder / DESCRIPTION).read_text())
    loop = described["loop"]
    return RunDescription(read_model(described["model"]), loop["steps"], loop["seed"])


def load_model(folder: Path, device: torch.device) -> PerceptionModel:
    """The model that `main` left in a run's folder, its moving average, ready to predict.

    Raises CheckpointError, and ArtifactError where its description is not one.
    """
    model = PerceptionModel(read_description(folder).model)
    load_weights(model, folder / WEIGHTS)
    return model.to(device).eval()


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.finetune", description=__doc__)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--vae", type=Path, help="folder that training.autoencoder wrote")
    start.add_argument("--init", type=Path, help="folder of a finished run to start from")
    told, options = launch(parser, FINETUNE_RUNS, "shipped", arguments)
    run, out, device = told.run, told.out, told.device
    model = build(run, options.vae or options.init, device, whole=options.vae is None)
    ema = train(model, objective(run, model, device), run.loop, out, described(run))
    save_model(ema, str(out / WEIGHTS))
    (out / DESCRIPTION).write_text(json.dumps(described(run), indent=2) + "\n")
    print(f"wrote {out / WEIGHTS}")


if __name__ == "__main__":
    main()
