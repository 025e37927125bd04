"""Measures a checkpoint on procedural scenes held out by seed, on real cases, or on public sets:

`python -m training.evaluate runs/shipped [--cases FOLDER] [--calibrate FILE]`
`python -m training.evaluate runs/shipped --set nyu_v2=/data/nyu_v2 [--set ...] [--limit N]`

Prints, per task, error against steps and members beside the baselines that a model must beat; with
`--cases`, every real case of a folder with a manifest. `--calibrate` writes the tables as JSON;
`export` puts those of `calibration.json` in the run's folder into the artifact.

With `--set`, measures the named sets by their published protocols instead: prints the paper's
tables with the published rows, and writes them and a CSV with a line per sample.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from rich.console import Console

from service.core.ensemble import Reduction
from service.core.record import ArtifactError
from service.core.tasks import TaskName
from training.answers import READINGS, FieldMaps
from training.benchmark_sets import SEED, Choices, EvaluationError
from training.checkpoint import CheckpointError
from training.config import add_device
from training.data.cases import Cases
from training.data.mixture import PoolConfig, Stream
from training.data.sample import Batch, DataError
from training.finetune import load_model
from training.judges import JUDGES
from training.models.perception import ModelConfig
from training.predict import draw_fields
from training.real_cases import show_cases
from training.report import Point, TaskReport, show, write_reports
from training.sampler import Sampler
from training.set_runs import Budget, measure_sets, open_sets
from training.targets import prepare

STEPS = (1, 2, 5, 10, 20, 50)
MEMBERS = (1, 2, 3, 5, 10)
HELD_OUT_SEED = 1_000_003  # far from every training seed
_CHUNKS = 8  # each drawn from one of the task's sources, so that all of them are among the scenes


def held_out(
    task: TaskName,
    config: ModelConfig,
    scenes: int,
    device: torch.device,
    seed: int,
    compiled: bool,
) -> Batch:
    """One batch of scenes that no training run has seen."""
    chunks = min(_CHUNKS, scenes)
    pool = PoolConfig(chunk=-(-scenes // chunks), chunks=chunks, compiled=compiled)
    return Stream(task, config.input_size(task), scenes, pool, seed, device).batch(0)


def measure(
    sampler: Sampler,
    task: TaskName,
    scenes: int,
    steps: Sequence[int] = STEPS,
    members: Sequence[int] = MEMBERS,
    compiled: bool = False,
) -> TaskReport:
    """The error table of one task on `scenes` held-out scenes.

    Smaller ensembles are the first members of the largest one, as in the service.
    """
    judge, config, device = JUDGES[task], sampler.model.config, sampler.device
    batch = held_out(task, config, scenes, device, HELD_OUT_SEED, compiled)
    example = prepare(batch, config.image_size)
    height, width = example.image.shape[-2:]
    points = []
    for count in steps:
        inputs = example.image, example.prompt
        drawn = draw_fields(sampler, task, judge.reading, inputs, count, max(members))
        for number in members:
            answers = (
                judge.answer(_members(drawn, number, row), height, width, config.table)
                for row in range(scenes)
            )
            scores = [judge.measure(answer, batch, row) for row, answer in enumerate(answers)]
            error, score = np.mean(scores, axis=0)
            points.append(Point(count, number, float(error), float(score)))
    other = held_out(task, config, scenes, device, HELD_OUT_SEED + 1, compiled)
    baselines = judge.baselines(batch, other)
    return TaskReport(task, judge.metric, judge.score, scenes, tuple(points), baselines)


def _members(drawn: FieldMaps, number: int, row: int) -> FieldMaps:
    """The first members' fields (N, P, P) of one row."""
    return {field: maps[:number, row] for field, maps in drawn.items()}


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console()
    try:
        if options.set:
            _measure_sets(options, console)
        else:
            _measure_scenes(options, console)
    except (EvaluationError, DataError) as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="folder that training.finetune wrote")
    parser.add_argument("--steps", type=int, nargs="+", help="denoising steps; one number for sets")
    parser.add_argument("--members", type=int, nargs="+", help="ensemble sizes; one for sets")
    add_device(parser)
    scenes = parser.add_argument_group("procedural scenes and cases")
    scenes.add_argument("--scenes", type=int, default=64, help="held-out scenes per task")
    scenes.add_argument("--cases", type=Path, help="folder with a manifest of real cases")
    scenes.add_argument(
        "--case-budget", type=int, nargs=2, default=[1, 1], metavar=("STEPS", "MEMBERS")
    )
    scenes.add_argument("--calibrate", type=Path, help="write the tables here as JSON")
    scenes.add_argument(
        "--eager", action="store_true", help="render without compiling, for a few scenes"
    )
    sets = parser.add_argument_group("public sets")
    sets.add_argument("--set", action="append", default=[], metavar="NAME=PATH")
    sets.add_argument("--split", help="instead of the split of the published numbers")
    sets.add_argument("--limit", type=int, help="measure the first samples of every set only")
    sets.add_argument("--seed", type=int, default=SEED)
    sets.add_argument("--reduction", choices=get_args(Reduction), help="of members")
    sets.add_argument("--region", help="evaluation mask of depth, such as garg for KITTI")
    sets.add_argument(
        "--reading", choices=READINGS["amodal"], default="mask", help="what masks are read from"
    )
    sets.add_argument("--out", type=Path, help="folder for results, by default RUN/evaluation")
    return parser


def _load(run: Path, device: torch.device) -> Sampler:
    try:
        return Sampler(load_model(run, device), device)
    except (OSError, ValueError, KeyError, ArtifactError, CheckpointError) as error:
        raise EvaluationError(f"{run} holds no model that can be read: {error}") from error


def _measure_sets(options: argparse.Namespace, console: Console) -> None:
    choices = Choices(options.seed, options.reduction, options.region, options.reading)
    for name in ("steps", "members"):
        if len(getattr(options, name) or [1]) > 1:
            raise EvaluationError(f"--{name}: sets are measured with one number, not several")
    given = {name: getattr(options, name) for name in ("steps", "members")}
    budget = Budget(**{name: numbers[0] for name, numbers in given.items() if numbers})
    sets = open_sets(options.set, options.split, options.limit, choices)
    sampler = _load(options.run, torch.device(options.device))
    _check_steps(sampler, [budget.steps])
    out = options.out or options.run / "evaluation"
    measure_sets(sampler, options.run.resolve().name, sets, budget, choices, out, console)


def _check_counts(option: str, numbers: Sequence[int]) -> None:
    if min(numbers) < 1:
        raise EvaluationError(f"{option} must be at least 1, not {min(numbers)}")


def _check_steps(sampler: Sampler, numbers: Sequence[int]) -> None:
    schedule = sampler.model.config.schedule
    most = schedule.num_timesteps - schedule.steps_offset
    for number in numbers:
        if not 1 <= number <= most:
            raise EvaluationError(f"--steps must be in 1..{most}, not {number}")


def _measure_scenes(options: argparse.Namespace, console: Console) -> None:
    device = torch.device(options.device)
    steps, members = options.steps or STEPS, options.members or MEMBERS
    case_steps, case_members = options.case_budget
    _check_counts("--scenes", [options.scenes])
    _check_counts("--members", members)
    _check_counts("--case-budget", options.case_budget)
    sampler = _load(options.run, device)
    _check_steps(sampler, [*steps, case_steps])
    if options.cases:
        show_cases(sampler, Cases(options.cases), (case_steps, case_members), console)
    compiled = device.type == "cpu" and not options.eager
    reports = []
    for task in sampler.model.config.tasks:
        reports.append(measure(sampler, task, options.scenes, steps, members, compiled))
        show(reports[-1], console)
    if options.calibrate:
        write_reports(reports, options.calibrate)


if __name__ == "__main__":
    main()
