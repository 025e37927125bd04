"""What a call may cost, over the wire: budgets, deadlines, priorities, growing ensembles."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest

from service.api import finish, predict
from service.api.inputs import prepare_inputs
from service.api.problems import Problem
from service.api.render import render
from service.core.budget import fit_errors
from service.engine.errors import (
    DeadlineImpossible,
    DeadlineMissed,
    EngineBusy,
    EngineError,
    EngineStopped,
    NoWorker,
)
from service.engine.planner import Pace
from service.engine.request import Plan
from tests.support.pictures import task_files
from tests.support.scripted_engine import Clock, Desk
from tests.support.tiny_repository import tiny_artifact

FILES = task_files("depth")
SERVED = tiny_artifact("tiny", 1, {}).served("depth")
PACE = Pace(10.0, (2.0,) * 20, tuple(float(m) for m in range(1, 21)))
AN_HOUR = {"X-Deadline-Ms": "3600000"}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def desk(threads: ThreadPoolExecutor) -> Desk:
    return Desk(threads)


async def ask(desk: Desk, task: str = "depth", headers: dict[str, str] | None = None, **texts):
    data = {name: str(text) for name, text in texts.items()}
    async with desk.client() as client:
        return await client.post(f"/{task}", files=task_files(task), data=data, headers=headers)


def problem(answer, status: int) -> Problem:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return Problem.model_validate_json(answer.content)


def held(desk: Desk) -> float | None:
    return desk.metrics.registry.get_sample_value("percept_requests_in_flight")


async def test_the_engine_is_told_how_a_request_stands(desk):
    desk.clock = Clock(5.0)
    await ask(desk, headers={"X-Deadline-Ms": "60000", "X-Priority": "high"})
    await ask(desk)
    urgent, plain = (request.terms for request in desk.engine.requests)
    assert (urgent.priority, urgent.deadline, urgent.caller) == ("high", 65.0, "127.0.0.1")
    assert (plain.priority, plain.deadline, plain.grow_until) == ("normal", None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-Deadline-Ms", "soon"), ("X-Deadline-Ms", "1e309"), ("X-Priority", "HIGH")],
)
async def test_a_malformed_header_is_named(desk, name, value):
    said = problem(await ask(desk, headers={name: value}), 422)
    assert said.field == name
    assert said.limit
    assert held(desk) == 0


async def test_a_header_that_is_repeated_is_named(desk):
    async with desk.client() as client:
        headers = [("X-Priority", "low"), ("X-Priority", "high")]
        said = problem(await client.post("/depth", files=FILES, headers=headers), 422)
    assert (said.field, said.limit) == ("X-Priority", "once")


async def test_headers_are_no_fields(desk):
    async with desk.client() as client:
        answer = await client.post("/depth", files=FILES, data={"X-Priority": "low"})
    assert problem(answer, 422).field == "X-Priority"


@pytest.mark.parametrize("output", ["color", "npz", "json"])
@pytest.mark.parametrize(
    "texts", [{"budget_evals": 9}, {"quality": "draft"}, {"ensemble": "auto"}, {}, {"steps": 10}]
)
async def test_every_form_says_the_same_of_what_was_used(desk, output, texts):
    answer = await ask(desk, output=output, **texts)
    (request,) = desk.engine.requests
    members = 3 if texts.get("ensemble") == "auto" else request.plan.members
    want = fit_errors(SERVED.calibration).error(request.plan.steps, members)
    told = {
        "steps": str(request.plan.steps),
        "ensemble": str(members),
        "evaluations": str(request.plan.steps * members),
        "expected_error": f"{want:.6g}",
    }
    for name, value in told.items():
        assert answer.headers[f"x-percept-{name.replace('_', '-')}"] == value
    if output == "json":
        run = answer.json()["run"]
        assert {name: f"{run[name]:.6g}" for name in told} == told
        assert run["error_metric"] == "abs_rel"
    if output == "npz":
        run = np.load(BytesIO(answer.content))
        assert {name: f"{run[name].item():.6g}" for name in told} == told


async def test_an_unmeasured_choice_promises_nothing(desk):
    answer = await ask(desk, steps=11, output="json")
    assert "x-percept-expected-error" not in answer.headers
    run = answer.json()["run"]
    assert (run["expected_error"], run["error_metric"]) == (None, None)
    arrays = np.load(BytesIO((await ask(desk, steps=11, output="npz")).content))
    assert "expected_error" not in arrays


async def test_budgets_of_evaluations_count_every_component(desk):
    for output, components in (("mask", 1), ("npz", 2)):
        answer = await ask(desk, "amodal", output=output, budget_evals=11)
        assert components * 2 <= int(answer.headers["x-percept-evaluations"]) <= 11
    said = problem(await ask(desk, "amodal", output="npz", budget_evals=1), 422)
    assert (said.field, said.limit) == ("budget_evals", "at least 2")


async def test_budgets_of_time_count_what_was_spent_already(desk, monkeypatch):
    desk.engine.now = PACE

    def slow(*arguments):
        desk.clock.jump(0.1)
        return prepare_inputs(*arguments)

    monkeypatch.setattr(predict, "prepare_inputs", slow)
    said = problem(await ask(desk, budget_ms=100), 422)
    assert said.field == "budget_ms"
    assert "ms now" in str(said.limit)
    desk.clock.jump(0.0)
    assert (await ask(desk, budget_ms=400)).status_code == 200
    networks, components, terms = desk.engine.paced[-1]
    assert networks.encoder.model == "tiny_depth_encoder:1"
    assert (components, terms.priority) == (1, "normal")


async def test_rendering_is_learnt_and_kept_free(desk, monkeypatch):
    desk.engine.now = PACE

    def slow(*arguments):
        desk.clock.jump(desk.clock() + 0.4)
        return render(*arguments)

    monkeypatch.setattr(finish, "render", slow)
    assert (await ask(desk)).status_code == 200  # 400 ms for an answer like this one
    said = problem(await ask(desk, budget_ms=410), 422)
    assert said.limit is not None
    assert int(said.limit.split()[2]) == pytest.approx(413, abs=1)
    desk.clock.jump(0.0)
    await ask(desk, headers={"X-Deadline-Ms": "10000"})
    assert desk.engine.requests[-1].terms.deadline == pytest.approx(9.6)


async def test_growing_ensembles_say_how_far_they_grew(desk):
    desk.engine.grown = 6
    answers = [await ask(desk, ensemble="auto", seed=3, output="npz") for _ in range(2)]
    assert answers[0].headers["x-percept-ensemble"] == "6"
    assert answers[0].content == answers[1].content
    assert desk.engine.requests[0].plan == Plan(SERVED.steps, 20, 3, 0.01)
    capped = await ask(desk, ensemble="auto", steps=2, budget_evals=9, tolerance=0.5)
    assert desk.engine.requests[-1].plan == Plan(2, 4, 1, 0.5)
    assert capped.headers["x-percept-evaluations"] == "8"


async def test_growing_ensembles_know_when_to_stop(desk):
    desk.engine.now = PACE
    desk.clock = Clock(7.0)
    await ask(desk)  # what rendering takes is known from here on: nothing, on this clock
    await ask(desk, ensemble="auto", steps=10, budget_ms=100)
    grow_until = desk.engine.requests[-1].terms.grow_until
    assert grow_until == pytest.approx(7.1 - 0.020 - 0.020)


@pytest.mark.parametrize(
    ("error", "status", "title", "retry_after"),
    [
        (EngineBusy("full", 2.2), 429, "Too many requests", "3"),
        (DeadlineImpossible("no", 0.01), 503, "Deadline cannot be met", "1"),
        (DeadlineImpossible("never", math.inf), 503, "Deadline cannot be met", None),
        (NoWorker("none", 30.0), 503, "No worker available", "30"),
        (DeadlineMissed("late"), 504, "Deadline missed", None),
        (EngineStopped("bye"), 503, "Not ready", "1"),
        (EngineError("broken"), 502, "The model failed", None),
    ],
)
async def test_what_the_engine_refuses(desk, error, status, title, retry_after):
    desk.engine.error = error
    answer = await ask(desk, headers=AN_HOUR)
    assert problem(answer, status).title == title
    assert answer.headers.get("retry-after") == retry_after
    assert held(desk) == 0


async def test_too_many_requests_come_back_when_the_work_is_done(threads):
    desk = Desk(threads, max_requests=1)
    desk.drain_s = 6.1
    desk.engine.held = True
    waiting = asyncio.create_task(ask(desk))
    await desk.engine.arrived.wait()
    answer = await ask(desk)
    assert problem(answer, 429).limit == "1 predictions"
    assert answer.headers["retry-after"] == "7"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_deadline_ends_a_stuck_upload(desk):
    async def stuck() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n'
        await asyncio.Event().wait()

    desk.clock = Clock(0.0, 10.0)
    headers = {"X-Deadline-Ms": "1000", "content-type": "multipart/form-data; boundary=x"}
    async with desk.client() as client:
        answer = await client.post("/depth", headers=headers, content=stuck())
    said = problem(answer, 504)
    assert (said.title, said.field) == ("Deadline missed", "X-Deadline-Ms")
    assert held(desk) == 0


@pytest.mark.parametrize(
    ("place", "phase"),
    [(predict, "prepare_inputs"), (finish, "make_answer"), (finish, "render")],
)
async def test_a_deadline_holds_in_every_phase(desk, monkeypatch, place, phase):
    real = getattr(place, phase)

    def slow(*arguments):
        desk.clock.jump(3600.0)
        return real(*arguments)

    monkeypatch.setattr(place, phase, slow)
    said = problem(await ask(desk, headers=AN_HOUR), 504)
    assert (said.title, said.field) == ("Deadline missed", "X-Deadline-Ms")
    assert held(desk) == 0


async def test_a_deadline_frees_what_the_engine_holds(desk):
    """However fast the machine: the engine never answers."""
    desk.engine.held = True
    answer = await ask(desk, headers={"X-Deadline-Ms": "50"})
    assert problem(answer, 504).limit == "50 ms"
    assert desk.engine.num_cancelled == len(desk.engine.requests)
    assert held(desk) == 0


async def test_models_show_what_compute_buys(threads):
    artifact = tiny_artifact("tiny", 1, {})
    plain = tuple(replace(served, calibration=()) for served in artifact.tasks)
    for listed in (artifact, replace(artifact, tasks=plain)):
        desk = Desk(threads, [listed])
        async with desk.client() as client:
            (model,) = (await client.get("/models")).json()["models"]
        for row, served in zip(model["tasks"], listed.tasks, strict=True):
            curve, qualities = row["curve"], row["qualities"]
            assert bool(curve) == bool(qualities) == bool(served.calibration)
            for cheap, dear in pairwise(curve):
                assert cheap["evaluations"] < dear["evaluations"]
                assert cheap["expected_error"] > dear["expected_error"]
            assert all(choice in curve for choice in qualities.values())
            if qualities:
                answer = await ask(desk, row["task"], quality="draft")
                chosen = qualities["draft"]
                headers = answer.headers
                assert headers["x-percept-evaluations"] == str(chosen["evaluations"])
                assert headers["x-percept-expected-error"] == f"{chosen['expected_error']:.6g}"
