"""What was measured of a model, as tables on the terminal and as the JSON that `export` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from service.core.record import load_record, require
from service.core.tasks import TaskName

CALIBRATION = "calibration.json"  # where `export` looks for reports in a run's folder


@dataclass(frozen=True)
class Point:
    """Mean error of one budget on the held-out scenes, and the task's second measure."""

    steps: int
    members: int
    error: float
    score: float


@dataclass(frozen=True)
class TaskReport:
    """Everything measured of one task on procedural scenes.

    `metric` and `score` name the two measures, `baselines` gives the first one for simple answers.
    """

    task: TaskName
    metric: str
    score: str
    scenes: int
    points: tuple[Point, ...]
    baselines: Mapping[str, float]


def write_reports(reports: Iterable[TaskReport], path: Path) -> None:
    """Writes a list of reports as JSON."""
    path.write_text(json.dumps([asdict(report) for report in reports], indent=1) + "\n")


def read_reports(path: Path) -> tuple[TaskReport, ...]:
    """Reads what `write_reports` wrote; raises ArtifactError naming the field that is wrong."""
    reports = json.loads(path.read_text())
    require(isinstance(reports, list), str(path), "must be a list of reports")
    return tuple(load_record(TaskReport, json.dumps(report)) for report in reports)


def show(report: TaskReport, console: Console) -> None:
    """Prints a task's table: a row per step count, a column per ensemble size."""
    title = f"{report.task}: {report.metric} / {report.score}, {report.scenes} held-out scenes"
    table = Table(title=title)
    table.add_column("steps")
    for number in sorted({point.members for point in report.points}):
        table.add_column(f"N={number}")
    for count in sorted({point.steps for point in report.points}):
        row = sorted((p for p in report.points if p.steps == count), key=lambda p: p.members)
        table.add_row(str(count), *(f"{p.error:.4f} / {p.score:.3f}" for p in row))
    console.print(table)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in report.baselines.items())
    console.print(f"baselines ({report.metric}): {shown}\n")
