"""Measures a checkpoint on procedural scenes held out by seed, and on real cases:

`python -m training.evaluate runs/shipped [--cases FOLDER] [--calibrate FILE]`

Prints, per task, error against steps and members beside the baselines that a model must beat; with
`--cases`, every real case of a folder with a manifest. `--calibrate` writes the tables as JSON;
`export` puts those of `calibration.json` in the run's folder into the artifact.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from service.core.tasks import TaskName
from training.data.cases import Cases
from training.data.mixture import PoolConfig, Stream
from training.data.sample import Batch
from training.finetune import load_model
from training.judges import JUDGES
from training.models.perception import ModelConfig
from training.real_cases import show_cases
from training.report import Point, TaskReport, show, write_reports
from training.sampler import Sampler
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
        drawn = sampler.pictures(
            task, example.image, example.prompt, count, max(members), judge.component
        )
        pictures = drawn[judge.component].cpu().numpy()  # (members, B, 3, P, P)
        for number in members:
            answers = (judge.answer(pictures[:number, row], height, width) for row in range(scenes))
            scores = [judge.measure(answer, batch, row) for row, answer in enumerate(answers)]
            error, score = np.mean(scores, axis=0)
            points.append(Point(count, number, float(error), float(score)))
    other = held_out(task, config, scenes, device, HELD_OUT_SEED + 1, compiled)
    baselines = judge.baselines(batch, other)
    return TaskReport(task, judge.metric, judge.score, scenes, tuple(points), baselines)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="folder that training.finetune wrote")
    parser.add_argument("--scenes", type=int, default=64, help="held-out scenes per task")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--members", type=int, nargs="+", default=list(MEMBERS))
    parser.add_argument("--cases", type=Path, help="folder with a manifest of real cases")
    parser.add_argument(
        "--case-budget", type=int, nargs=2, default=[1, 1], metavar=("STEPS", "MEMBERS")
    )
    parser.add_argument("--calibrate", type=Path, help="write the tables here as JSON")
    parser.add_argument(
        "--eager", action="store_true", help="render without compiling, for a few scenes"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    console, device = Console(), torch.device(options.device)
    sampler = Sampler(load_model(options.run, device), device)
    if options.cases:
        steps, members = options.case_budget
        show_cases(sampler, Cases(options.cases), (steps, members), console)
    compiled = device.type == "cpu" and not options.eager
    reports = []
    for task in JUDGES:
        reports.append(
            measure(sampler, task, options.scenes, options.steps, options.members, compiled)
        )
        show(reports[-1], console)
    if options.calibrate:
        write_reports(reports, options.calibrate)


if __name__ == "__main__":
    main()
