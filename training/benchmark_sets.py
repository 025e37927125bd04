"""A model over whole public sets: every sample predicted, scored by the set's protocol, averaged.

It does not know command lines or tables. Noise is a function of (seed, set, sample name), so a
part of a set gets the scores that it has in the whole.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.core.ensemble import Reduction
from service.core.tasks import TASKS, TaskName
from training.answers import READINGS
from training.data.sample import DataError, Sample
from training.judges import JUDGES, Judge
from training.measures import MEASURES, Score
from training.predict import Draw
from training.protocols import PROTOCOLS

SEED = 1234


class EvaluationError(Exception):
    """A set cannot be measured as it was asked for; the message says why."""


@dataclass(frozen=True)
class Choices:
    """What may be chosen beside the protocol.

    `reduction` of the members (None: the task's own), `region` of depth that is scored where a set
    has several, and what whole masks are read from (of READINGS).
    """

    seed: int = SEED
    reduction: Reduction | None = None
    region: str | None = None
    reading: str = "mask"


@dataclass(frozen=True)
class SetResult:
    """The scores of one set for one number of members, sample by sample, and their means."""

    name: str
    members: int
    samples: tuple[str, ...]
    scores: tuple[Score, ...]
    means: Mapping[str, float]
    unscored: int  # samples with nothing to score in them


def judge_for(task: TaskName, choices: Choices) -> Judge:
    """The task's judge as chosen. Raises EvaluationError for what the task does not have."""
    judge = JUDGES[task]
    reading = READINGS[task].get(choices.reading, judge.reading)
    reduction = choices.reduction or judge.reduction
    if reduction not in TASKS[task].reductions:
        possible = ", ".join(TASKS[task].reductions)
        raise EvaluationError(f"{task} has no reduction {reduction!r}, only {possible}")
    return dataclasses.replace(judge, reading=reading, reduction=reduction)


def measure_set(
    name: str,
    samples: Iterable[Sample],
    draw: Draw,
    members: Sequence[int],
    choices: Choices,
) -> tuple[SetResult, ...]:
    """Scores `samples` of the set `name`, one result per number of `members`.

    Smaller ensembles are the first members of what is drawn. Raises DataError for a sample that
    cannot be read or does not fit the protocol, EvaluationError where there is nothing to score.
    """
    protocol = PROTOCOLS[name]
    judge, measure = judge_for(protocol.task, choices), MEASURES[protocol.task]
    names: list[str] = []
    scores: dict[int, list[Score]] = {number: [] for number in members}
    unscored = 0
    for whole in samples:
        sample = protocol.prepare(whole)
        try:
            counted = measure.counted(sample, protocol, choices.region)
        except ValueError as error:
            raise DataError(f"{name}, {sample.name}: {error}") from error
        if not counted.any():
            unscored += 1
            continue
        seed = sample_seed(choices.seed, name, sample.name)
        drawn = draw(protocol.task, judge.reading, measure.images(sample), seed)
        names.append(sample.name)
        for number in members:
            first = {field: maps[:number] for field, maps in drawn.items()}
            answer = judge.answer(first, *sample.truth.shape, draw.table)
            scores[number].append(measure.score(answer, sample, counted, protocol))
    if not names:
        raise EvaluationError(f"{name} has no sample with anything to score in it")
    return tuple(
        SetResult(name, number, tuple(names), tuple(found), measure.mean(found, protocol), unscored)
        for number, found in scores.items()
    )


def sample_seed(seed: int, set_name: str, sample_name: str) -> int:
    """The seed of one sample's noise."""
    digest = hashlib.blake2b(repr((seed, set_name, sample_name)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def write_scores(result: SetResult, path: Path) -> None:
    """Writes a line per sample: its name and every measure; one that is not defined stays empty."""
    measures = [field.name for field in dataclasses.fields(result.scores[0])]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", *measures])
        for name, score in zip(result.samples, result.scores, strict=True):
            values = [getattr(score, measure) for measure in measures]
            writer.writerow([name, *("" if math.isnan(value) else value for value in values)])
