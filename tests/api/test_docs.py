"""The examples of the documentation work as they stand, on the models that there are."""

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from service.api.catalog import Catalog
from service.api.docs import description
from service.api.problems import Problem
from service.backends.repository import load_repository
from service.core.artifact import Artifact
from service.core.tasks import TASKS, TaskName
from service.engine.planner import Pace
from tests.support.pictures import task_files
from tests.support.scripted_engine import Desk
from tests.support.tiny_repository import tiny_artifact

PACE = Pace(10.0, (2.0,) * 20, tuple(float(m) for m in range(1, 21)))
AN_HOUR = {"X-Deadline-Ms": "3600000"}
SHIPPED = Path(__file__).parents[2] / "model_repo"
TINY = tiny_artifact("tiny", 1, {})


def unmeasured(name: str, *tasks: TaskName) -> Artifact:
    """A model of these tasks without a calibration."""
    served = (replace(row, calibration=()) for row in TINY.tasks if row.task in tasks)
    return replace(TINY, name=name, tasks=tuple(served))


def catalog_of(artifacts: Sequence[Artifact]) -> Catalog:
    catalog = Catalog()
    catalog.show(artifacts)
    return catalog


def examples(task: TaskName, artifacts: Sequence[Artifact]) -> list[str]:
    text = description(TASKS[task], catalog_of(artifacts))
    return [line for line in text.splitlines() if line.startswith("curl")]


async def require_works(artifacts: Sequence[Artifact], task: TaskName, line: str) -> None:
    words = shlex.split(line)
    options = list(pairwise(words))
    forms = [value.split("=", 1) for option, value in options if option == "-F"]
    headers = dict(value.split(": ") for option, value in options if option == "-H")
    if "X-Deadline-Ms" in headers:  # the machine may be slow, the example may not be wrong
        assert float(headers["X-Deadline-Ms"]) > 0
        headers |= AN_HOUR
    files = {name for name, value in forms if value.startswith("@")}
    assert files == set(TASKS[task].images)
    assert f"localhost:8000/{task}" in words
    texts = {name: value for name, value in forms if name not in files}
    with ThreadPoolExecutor(2) as threads:
        desk = Desk(threads, artifacts)
        desk.engine.now = PACE
        async with desk.client() as client:
            answer = await client.post(
                f"/{task}", files=task_files(task), data=texts, headers=headers
            )
    assert answer.status_code == 200, (line, answer.text)


@pytest.mark.parametrize("task", list(TASKS))
async def test_examples_work(task):
    lines = examples(task, [TINY])
    assert len(lines) == 5
    for line in lines:
        assert "model=" not in line
        await require_works([TINY], task, line)


async def test_a_model_that_was_not_measured_has_the_examples_that_need_no_measurement():
    artifacts = [unmeasured("plain", "normals")]
    lines = examples("normals", artifacts)
    assert len(lines) == 2
    for line in lines:
        await require_works(artifacts, "normals", line)


async def test_a_task_that_the_default_model_lacks_has_examples_with_one_that_does():
    artifacts = [unmeasured("first", "depth"), unmeasured("second", "normals")]
    lines = examples("normals", artifacts)
    assert len(lines) == 2
    for line in lines:
        assert "-F model=second " in line
        await require_works(artifacts, "normals", line)


async def test_a_task_that_no_model_does_has_no_examples_and_says_so():
    artifacts = [model.artifact for model in load_repository(SHIPPED).values()]
    assert examples("normals", artifacts) == []
    assert "training.convert" in description(TASKS["normals"], catalog_of(artifacts))
    with ThreadPoolExecutor(2) as threads:
        async with Desk(threads, artifacts).client() as client:
            answer = await client.post("/normals", files=task_files("normals"))
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.field) == (422, "model")
    assert problem.limit == "no model here does"
    assert problem.detail == "The model percept:1 does not do normals"
