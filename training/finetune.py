"""Trains the generalist on its tasks, around an autoencoder:

`python -m training.finetune --run shipped --vae runs/autoencoder --out runs/shipped`
`python -m training.finetune --run depth-a4 --vae sd-vae --init runs/pretrained-a4 --out runs/depth
--data hypersim=/data/hypersim`

`--vae` is a folder that `training.autoencoder` wrote, or an AutoencoderKL of diffusers. `--init`
starts from the weights of a finished run instead of random ones: of one of this command, for other
data or a longer schedule, or of `training.pretrain`, which needs `--vae` too; or from a published
DiT: a `.pt` or a folder of diffusers, with the autoencoder that it was trained with. Data sets that
the run's `sources` name are given by `--data`; several processes are launched by `torchrun`.
Resumes by itself where the run in `--out` stopped. Writes checkpoints, tensorboard curves, and at
the end `model.safetensors` (the moving average) with `model.json` beside it, which `evaluate` and
`export` read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path

import torch
from torch import distributed

from training.config import described, in_one_sentence, launch
from training.data.mixture import seeded
from training.data.sample import DataError
from training.data.shares import StreamConfig, open_stream, read_roots
from training.data.stream import BatchStream, reading
from training.diffusion import Diffusion
from training.distributed import is_first_process
from training.finetuned import WEIGHTS as WEIGHTS  # whoever names this command's files asks here
from training.finetuned import load_model as load_model
from training.finetuned import read_description as read_description
from training.finetuned import write_model
from training.loop import StepResult, reduced_precision, train
from training.losses import diffusion_loss
from training.models.perception import PerceptionModel
from training.runs.finetune import FINETUNE_RUNS, FinetuneRun
from training.starts import begin
from training.targets import prepare


def turns(run: FinetuneRun) -> tuple[str, ...]:
    """One round of tasks, spread out: with shares 2, 2, 1 the order is a, b, c, a, b."""
    rounds = max(run.shares.values())
    return tuple(
        task for turn in range(rounds) for task, share in run.shares.items() if turn < share
    )


def task_step(order: tuple[str, ...], index: int) -> tuple[str, int]:
    """The task of a micro-batch, and how often it had its turn before: its stream's own step."""
    rounds, turn = divmod(index, len(order))
    task = order[turn]
    return task, rounds * order.count(task) + order[:turn].count(task)


def from_here(run: FinetuneRun, index: int, processes: int) -> Iterator[int]:
    """Micro-batch `index` and those that the same one of several processes computes after it."""
    step, micro = divmod(index, run.loop.micro_batches)
    first = micro % processes
    while step < run.loop.steps:
        for own in range(micro, run.loop.micro_batches, processes):
            yield step * run.loop.micro_batches + own
        step, micro = step + 1, first


def open_streams(
    run: FinetuneRun, device: torch.device, roots: Mapping[str, Path], workers: Executor
) -> Mapping[str, BatchStream]:
    """Where every task's batches come from. Raises DataError for a set that is not there."""
    if unused := roots.keys() - set(run.data):
        raise DataError(f"--data {unused.pop()}: this run is trained on {', '.join(run.data)}")
    return {
        task: open_stream(
            task,
            run.sources[task],
            run.model.input_size(task),
            StreamConfig(run.rows[task], run.loop.seed, device, run.pool, run.augment),
            roots,
            workers,
        )
        for task in run.shares
    }


def objective(
    run: FinetuneRun,
    model: PerceptionModel,
    device: torch.device,
    streams: Mapping[str, BatchStream],
) -> Callable[[int], StepResult]:
    """The loss of micro-batch n, with all its randomness derived from n."""
    diffusion = Diffusion(run.model.schedule, device)
    order, table = turns(run), run.model.table
    ahead = run.loader.batches_ahead(min(run.rows[task] for task in run.shares))

    def compute(index: int) -> StepResult:
        processes = distributed.get_world_size() if distributed.is_initialized() else 1
        coming = [
            task_step(order, i)
            for i, _ in zip(from_here(run, index, processes), range(ahead), strict=False)
        ]
        for name, stream in streams.items():
            stream.expect([own for task, own in coming if task == name])
        task, own_step = task_step(order, index)
        example = prepare(streams[task].batch(own_step), run.model.image_size, table)
        generator = seeded(device, "noise", run.loop.seed, index)
        with reduced_precision(run.loop, device):
            parts = diffusion_loss(model, diffusion, example, run.loss, generator)
        return StepResult(parts, run.rows[task], task)

    return compute


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring. Ends with one sentence where it cannot go on."""
    parser = argparse.ArgumentParser(prog="training.finetune", description=__doc__)
    parser.add_argument("--vae", type=Path, help="folder of an autoencoder, ours or diffusers'")
    parser.add_argument(
        "--init", type=Path, help="a finished run, or a published DiT, to start from"
    )
    parser.add_argument(
        "--heads", type=int, help="of a published DiT of no published size, whose file has none"
    )
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=FOLDER", help="where a data set lies"
    )
    told, options = launch(parser, FINETUNE_RUNS, "shipped", arguments)
    run, out, device = told.run, told.out, told.device
    with in_one_sentence(parser):
        run, model = begin(run, options.vae, options.init, device, options.heads)
        with reading(run.loader) as workers:
            streams = open_streams(run, device, read_roots(options.data), workers)
            compute = objective(run, model, device, streams)
            ema = train(model, compute, run.loop, out, described(run))
    if is_first_process():
        write_model(out, ema, described(run))
        print(f"wrote {out / WEIGHTS}")


if __name__ == "__main__":
    main()
