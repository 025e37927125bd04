"""Ten thousand clients that vanish leave nothing behind."""

import asyncio
import random
from dataclasses import replace

import numpy as np

from service.backends.analytic import AnalyticBackend
from service.backends.repository import ServedModel
from service.core.tasks import TaskName
from service.engine.engine import Engine
from service.engine.request import PRIORITIES, PredictionRequest, Terms
from tests.engine.test_engine import running
from tests.support.costs import WideCosts
from tests.support.requests import make_request
from tests.support.scripted_backend import ScriptedBackend

NUM_ABORTS = 10_000
WAVE = 50  # under way at once, each wave beside what is left of the one before


def kinds(model: ServedModel) -> list[PredictionRequest]:
    """Short and long, of every task and class, with and without a tolerance or a deadline."""
    tasks: tuple[TaskName, ...] = ("depth", "flow", "amodal")
    requests = []
    for number in range(24):
        request = make_request(model, tasks[number % 3], steps=1 + number % 4, members=1)
        tolerance = 1e-6 if number % 4 == 0 else None
        terms = Terms(
            caller=f"c{number % 5}",
            priority=PRIORITIES[number % 3],
            deadline=1e12 if number == 6 else None,
        )
        plan = replace(request.plan, members=1 + number % 3, tolerance=tolerance)
        requests.append(replace(request, plan=plan, terms=terms))
    return requests


async def test_aborts_leave_no_trace(model: ServedModel) -> None:
    chance = random.Random(3)
    requests = kinds(model)
    last = make_request(model, "amodal", steps=4, members=3)
    backend = ScriptedBackend(AnalyticBackend([model.artifact]), num_workers=2)
    engine = Engine(backend, clock=lambda: 0.0, costs=WideCosts())
    num_cancelled = 0
    await engine.start()  # without a time limit: a slow machine takes its time
    try:
        for _ in range(NUM_ABORTS // WAVE):
            tasks = [
                asyncio.create_task(engine.predict(chance.choice(requests))) for _ in range(WAVE)
            ]
            while tasks:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                gone = [tasks.pop(chance.randrange(len(tasks))) for _ in range(min(25, len(tasks)))]
                num_cancelled += sum(task.cancel() for task in gone)
            backend.calls.clear()
        while engine.stats().batches_in_flight:  # noqa: ASYNC110 - they return by themselves
            await asyncio.sleep(0)
        stats = engine.stats()
        assert stats.requests == stats.evaluations == stats.batches_in_flight == 0
        assert engine.drain_s() == 0
        assert_empty(engine)
        after = await engine.predict(last)
    finally:
        await engine.stop()
    assert num_cancelled > 0.9 * NUM_ABORTS
    fresh = Engine(AnalyticBackend([model.artifact]), costs=WideCosts())
    async with running(fresh):
        expected = await fresh.predict(last)
    for name, values in expected.fields.items():
        np.testing.assert_array_equal(after.fields[name], values)


def assert_empty(engine: Engine) -> None:
    work = vars(engine)["_work"]
    assert not work.pipeline.pending
    assert not work.owners
    scheduler = vars(work.pipeline)["_scheduler"]
    assert scheduler.num_ready == 0
    for name in ("_flows", "_lanes", "_rings"):
        assert not vars(scheduler)[name]
