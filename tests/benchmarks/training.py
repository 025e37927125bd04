"""How well training spends compute: `python -m tests.benchmarks.training [--device cpu]`.

Prints (a) for each network the time of a step of `training.loop.train` (pass, clipping, AdamW,
moving average; batches made beforehand) against the time that its multiply-accumulates would take
at the rate of large matrix products, measured in the same run; networks that did not fit the device
are left out by `--models`; (b) how long each source takes for the batches of the shipped run
against the step that it feeds. Sources on disk are given by `--data hypersim=FOLDER`, in one of the
real formats. Wants an otherwise idle machine; asserts nothing.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from tests.benchmarks.training_sources import Sources, now
from training.data.mixture import PoolConfig, Stream
from training.diffusion import Diffusion
from training.distributed import own_device
from training.loop import LoopConfig, StepResult, reduced_precision, train
from training.losses import diffusion_loss
from training.models.dit import DiT
from training.models.moe import expert_balance
from training.models.perception import PerceptionModel
from training.models.presets import PRESETS
from training.provenance import MacCounter
from training.runs.finetune import FINETUNE_RUNS
from training.targets import prepare

PEAK_SIDE = {"cpu": 2048, "cuda": 8192}
LATENT_SIDE = 32  # of 256 px, which are 256 tokens of 2 x 2
COUNTED_STEPS = 10  # the loop counts MACs in its first steps
# Rows of a preset's batch, as many as a device has use for.
PRESET_ROWS: Mapping[str, Mapping[str, int]] = {
    "cpu": {"DiT-S/2": 4, "MoE-S/2-8E2A": 4},
    "cuda": {
        "DiT-B/2": 128,
        "DiT-L/2": 64,
        "DiT-XL/2": 64,
        "MoE-B/2-8E2A": 64,
        "MoE-L/2-8E2A": 32,
    },
}
RUNS = ("shipped", "concatenated")

Compute = Callable[[int], StepResult]


class _EnoughError(Exception):
    """Ends a run that was only to be timed."""


@dataclass(frozen=True)
class Case:
    """One network, and one batch for it."""

    name: str
    rows: int
    model: nn.Module
    compute: Compute


@dataclass(frozen=True)
class Speed:
    """What one step of a case takes and does."""

    step_s: float
    macs: int


def measure_peak(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Multiply-accumulates per second of the best of several large matrix products."""
    side = PEAK_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 2):
        begun = now(device)
        _ = left @ right
        seconds.append(now(device) - begun)
    return side**3 / min(seconds)


def task_case(name: str, task: str, config: LoopConfig, device: torch.device) -> Case:
    """A named run of `finetune`, one task of it."""
    run = FINETUNE_RUNS[name]()
    rows = run.rows[task]
    model = PerceptionModel(run.model).to(device)
    pool = PoolConfig(chunk=rows, chunks=1)
    batch = Stream(task, run.model.input_size(task), rows, pool, 1, device).batch(0)
    example = prepare(batch, run.model.image_size, run.model.table)
    diffusion = Diffusion(run.model.schedule, device)

    def compute(index: int) -> StepResult:
        generator = torch.Generator(device).manual_seed(index)
        with reduced_precision(config, device):
            parts = diffusion_loss(model, diffusion, example, run.loss, generator)
        return StepResult(parts, rows, task)

    return Case(f"{name}, {task}", rows, model, compute)


def preset_case(name: str, rows: int, config: LoopConfig, device: torch.device) -> Case:
    """A published network in pre-training on latents of 256 px."""
    shape = PRESETS[name]
    model = DiT(shape).to(device)
    side = LATENT_SIDE
    noisy, eps = (torch.randn(rows, shape.in_channels, side, side, device=device) for _ in "xe")
    t = torch.linspace(0, 999, rows, device=device)
    label = torch.arange(rows, device=device)

    def compute(_: int) -> StepResult:
        with reduced_precision(config, device):
            output = model(noisy, None, t, label)
        parts = {"diffusion": functional.mse_loss(output[:, : eps.shape[1]].float(), eps)}
        if (balance := expert_balance(model)) is not None:
            parts["balance"] = balance
        return StepResult(parts, rows, "pretrain")

    return Case(name, rows, model, compute)


def measure_steps(case: Case, config: LoopConfig, device: torch.device, steps: int) -> Speed:
    """The median step of the real loop, from one pass' beginning to the next one's."""
    with MacCounter(case.model) as counter:
        parts = case.compute(0).parts
        torch.autograd.backward(torch.stack(list(parts.values())).sum())
    begun: list[float] = []

    def compute(index: int) -> StepResult:
        begun.append(now(device))
        if len(begun) == COUNTED_STEPS + steps + 1:
            raise _EnoughError
        return case.compute(index)

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_EnoughError):
        train(case.model, compute, config, Path(folder), {})
    marks = begun[COUNTED_STEPS:]
    return Speed(median(b - a for a, b in pairwise(marks)), counter.macs)


def print_steps(
    console: Console,
    cases: Mapping[str, Callable[[], Case]],
    config: LoopConfig,
    told: argparse.Namespace,
) -> dict[str, float]:
    """Part (a); seconds of a step by name."""
    device = own_device(told.device)
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    peak, measured = 0.0, []
    for build in cases.values():
        case = build()
        # Around every case, and the best of all: other work on the machine only ever costs.
        peak = max(peak, measure_peak(device, dtype, told.repeats))
        measured.append((case.name, case.rows, measure_steps(case, config, device, told.steps)))
        peak = max(peak, measure_peak(device, dtype, told.repeats))
    title = f"(a) steps on {device}, {dtype}; large products: {2 * peak / 1e12:.2f} TFLOP/s"
    table = Table(title=title)
    for column in ("network", "rows", "GMACs/step", "step ms", "ideal ms", "of peak"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, rows, speed in measured:
        ideal_s = speed.macs / peak
        table.add_row(
            name,
            str(rows),
            f"{speed.macs / 1e9:.1f}",
            f"{1e3 * speed.step_s:.1f}",
            f"{1e3 * ideal_s:.1f}",
            f"{100 * ideal_s / speed.step_s:.0f} %",
        )
    console.print(table)
    return {name: speed.step_s for name, _, speed in measured}


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.training", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="*", help="names of presets and runs, instead of all")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--batches", type=int, default=8, help="of every source")
    parser.add_argument("--repeats", type=int, default=8, help="of large matrix products")
    parser.add_argument("--fp32", action="store_true", help="instead of bfloat16")
    parser.add_argument("--eager", action="store_true", help="renderers, not compiled")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER")
    told = parser.parse_args()
    device, console = own_device(told.device), Console()
    many = 10**6
    config = LoopConfig(steps=many, save_every=many, log_every=many, bf16=not told.fp32)
    cases: dict[str, Callable[[], Case]] = {
        f"{name}, {task}": partial(task_case, name, task, config, device)
        for name in RUNS
        for task in FINETUNE_RUNS[name]().shares
    }
    for name, rows in PRESET_ROWS[device.type].items():
        cases[name] = partial(preset_case, name, rows, config, device)
    wanted = told.models
    chosen = {n: c for n, c in cases.items() if wanted is None or n.split(",")[0] in wanted}
    seconds = print_steps(console, chosen, config, told)
    sources = Sources(told.device, tuple(told.data), told.batches, told.eager)
    console.print(sources.table(FINETUNE_RUNS["shipped"](), seconds))


if __name__ == "__main__":
    main()
