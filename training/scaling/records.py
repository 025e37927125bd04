"""Measured points: what was asked of which network, what came out, and where it is kept."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from service.core.ensemble import Reduction
from service.core.schedule import Betas, Spacing
from training.scaling.networks import Network


@dataclass(frozen=True)
class Budget:
    """How a network is asked: `steps` denoising steps for each of several ensemble sizes.

    Smaller ensembles are the first members of the largest one. `betas` takes the steps' noise
    levels from another schedule than the network's own.
    """

    steps: int
    members: tuple[int, ...] = (1,)
    spacing: Spacing = "trailing"
    reduction: Reduction = "median"
    betas: Betas | None = None

    @property
    def key(self) -> str:
        """A name for files, different for whatever differs."""
        members = "-".join(map(str, self.members))
        return f"T{self.steps}-N{members}-{self.spacing}-{self.reduction}-{self.betas or 'own'}"


@dataclass(frozen=True)
class Score:
    """Mean over the held-out scenes, of one ensemble size."""

    members: int
    abs_rel: float
    delta1_error: float


@dataclass(frozen=True)
class Measured:
    """A network's scores under one budget, and its held-out loss, which no budget changes."""

    loss: float
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Point:
    """One entry of a study: a network under a budget, drawn on the line of that name."""

    line: str
    network: Network
    budget: Budget

    @property
    def key(self) -> str:
        """A name for files; points of several studies may share it, and then their measurement."""
        return f"{self.network.key}--{self.budget.key}"


@dataclass(frozen=True)
class Row:
    """One line of a study's table. MACs are multiply-adds; those of training count 3 per forward.

    `inference_macs` are of all denoiser evaluations of one picture.
    """

    line: str
    model: str
    seed: int
    size: int
    schedule: str
    steps: int
    members: int
    spacing: str
    reduction: str
    inference_betas: str
    parameters: int
    samples: int
    pretraining_macs: int
    training_macs: int
    inference_macs: int
    loss: float
    abs_rel: float
    delta1_error: float


def rows_of(point: Point, measured: Measured) -> list[Row]:
    """A table line for every ensemble size that was measured."""
    network, budget = point.network, point.budget
    spent = network.macs_by_task
    return [
        Row(
            line=point.line,
            model=network.name,
            seed=network.seed,
            size=network.size,
            schedule=network.schedule,
            steps=budget.steps,
            members=score.members,
            spacing=budget.spacing,
            reduction=budget.reduction,
            inference_betas=budget.betas or "own",
            parameters=network.parameters,
            samples=network.samples,
            pretraining_macs=spent["classes"],
            training_macs=spent["depth"],
            inference_macs=budget.steps * score.members * network.forward_macs,
            loss=measured.loss,
            abs_rel=score.abs_rel,
            delta1_error=score.delta1_error,
        )
        for score in measured.scores
    ]


def write_measured(path: Path, measured: Measured) -> None:
    """Writes one measurement; it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(asdict(measured), indent=2) + "\n")
    partial.rename(path)


def read_measured(path: Path) -> Measured | None:
    """The measurement in `path`, None where there is none yet."""
    try:
        plain = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return Measured(plain["loss"], tuple(Score(**score) for score in plain["scores"]))


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Writes a study's table as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_table(path: Path) -> list[Row]:
    """Reads what `write_table` wrote."""
    kinds = {"int": int, "float": float, "str": str}
    readers = {field.name: kinds[str(field.type)] for field in fields(Row)}
    with path.open(newline="") as file:
        return [
            Row(**{name: readers[name](value) for name, value in line.items()})
            for line in csv.DictReader(file)
        ]


def by_line(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of every line, lines in their first order."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(row.line, []).append(row)
    return lines
