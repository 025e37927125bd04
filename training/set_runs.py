"""What a command line asks of public sets: found and checked first, then measured and written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from training.benchmark_sets import Choices, EvaluationError, judge_for, measure_set, write_scores
from training.data.sample import Sample
from training.data.sets import SETS, open_set
from training.predict import ModelDraw
from training.protocols import PROTOCOLS
from training.sampler import Sampler
from training.tables import Measured, full_sheets, paper_sheets

TABLES = "tables.md"


@dataclass(frozen=True)
class Opened:
    """A set that was found: the samples that are to be measured, and how many there are."""

    name: str
    split: str
    samples: Sequence[Sample]
    available: int

    def __iter__(self) -> Iterator[Sample]:
        return (self.samples[index] for index in range(len(self.samples)))


@dataclass(frozen=True)
class Budget:
    """What one prediction may cost. Raises EvaluationError for less than one of either."""

    steps: int = 10
    members: int = 5

    def __post_init__(self) -> None:
        for name, value in (("--steps", self.steps), ("--members", self.members)):
            if value < 1:
                raise EvaluationError(f"{name} must be at least 1, not {value}")

    @property
    def ensembles(self) -> tuple[int, ...]:
        """Numbers of members that are measured: one, as without ensembling, and all."""
        return tuple(sorted({1, self.members}))


def open_sets(
    requests: Sequence[str], split: str | None, limit: int | None, choices: Choices
) -> tuple[Opened, ...]:
    """The sets of `NAME=PATH` requests, by default the split of the published numbers.

    Raises EvaluationError for a request that names no known set or cannot be measured as chosen,
    DataError for a folder that does not hold the set.
    """
    if limit is not None and limit < 1:
        raise EvaluationError(f"--limit must be at least 1, not {limit}")
    named = [_named(request) for request in requests]
    repeated = {name for name, _ in named if [other for other, _ in named].count(name) > 1}
    if repeated:
        raise EvaluationError(f"--set {min(repeated)} is given more than once")
    return tuple(_open(name, path, split, limit, choices) for name, path in named)


def _named(request: str) -> tuple[str, Path]:
    name, separator, path = request.partition("=")
    if not separator or not path:
        raise EvaluationError(f"--set {request}: expected NAME=PATH, such as nyu_v2=/data/nyu_v2")
    known = [name for name in PROTOCOLS if name in SETS]
    if name not in known:
        raise EvaluationError(f"--set {name}: there is no such set, only {', '.join(known)}")
    return name, Path(path)


def _open(name: str, path: Path, split: str | None, limit: int | None, choices: Choices) -> Opened:
    protocol = PROTOCOLS[name]
    judge_for(protocol.task, choices)
    if protocol.regions and choices.region not in (None, *protocol.regions):
        known = ", ".join(protocol.regions)
        raise EvaluationError(f"--region {choices.region}: {name} has only {known}")
    wanted = split or protocol.split
    samples = open_set(name, path, wanted)
    if not samples:
        raise EvaluationError(f"{path} holds no samples of {name}'s split {wanted!r}")
    return Opened(name, wanted, samples[:limit], len(samples))


def _check_task(name: str, sampler: Sampler) -> None:
    tasks = sampler.model.config.tasks
    if SETS[name].task not in tasks:
        known = ", ".join(tasks)
        raise EvaluationError(f"{name} is a set of {SETS[name].task}, but the model does {known}")


def measure_sets(
    sampler: Sampler,
    model: str,
    sets: Sequence[Opened],
    budget: Budget,
    choices: Choices,
    out: Path,
    console: Console,
) -> tuple[Measured, ...]:
    """Measures every set and writes `<set>.csv` into `out`; prints and writes the tables.

    A smaller ensemble's file is called `<set>-<members>.csv`. Raises DataError and EvaluationError.
    """
    for opened in sets:
        _check_task(opened.name, sampler)
    out.mkdir(parents=True, exist_ok=True)
    draw = ModelDraw(sampler, budget.steps, budget.members)
    measured = []
    for opened in sets:
        shown = track(opened, opened.name, len(opened.samples), console=console)
        for result in measure_set(opened.name, shown, draw, budget.ensembles, choices):
            whole = result.members == budget.members
            suffix = "" if whole else f"-{result.members}"
            write_scores(result, out / f"{opened.name}{suffix}.csv")
            info = SETS[opened.name]
            size = sampler.model.config.input_size(info.task)
            published = info.counts.get(opened.split)
            measured.append(
                Measured(
                    result, model, opened.split, budget.steps, size, opened.available, published
                )
            )
    for sheet in (*paper_sheets(measured, whole=False), *full_sheets(measured)):
        sheet.show(console)
    sheets = (*paper_sheets(measured), *full_sheets(measured))
    (out / TABLES).write_text("\n".join(sheet.markdown() for sheet in sheets))
    return tuple(measured)
