"""Following a request: how far it is, and what its members say so far."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from service.backends.analytic import AnalyticBackend
from service.backends.repository import ServedModel
from service.core.tasks import TaskName
from service.engine.adaptive import ROUNDS
from service.engine.engine import Engine
from service.engine.request import Progress
from tests.engine.test_engine import assert_close, running
from tests.support.requests import make_request


@pytest.mark.parametrize("task", ["depth", "amodal"])
async def test_a_followed_request_gives_the_same_answer_and_shows_its_rounds(
    model: ServedModel, task: TaskName
) -> None:
    request = make_request(model, task, steps=3, members=10)
    seen: list[Progress] = []
    async with running(Engine(AnalyticBackend([model.artifact], num_workers=2))) as engine:
        plain = await engine.predict(request)
        others = [engine.predict(make_request(model, "flow", seed=seed)) for seed in range(3)]
        followed, *_ = await asyncio.gather(engine.predict(request, seen.append), *others)
    assert_close(followed.fields, plain.fields)
    assert (followed.members, followed.evaluations) == (plain.members, plain.evaluations)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert {progress.total for progress in seen} == {request.evaluations}
    assert done[-1] == request.evaluations
    shown = [progress.fields for progress in seen if progress.fields is not None]
    sizes = [len(next(iter(fields.values()))) for fields in shown]
    assert sizes == [size for size in ROUNDS if size < 10]
    for size, fields in zip(sizes, shown, strict=True):
        for name, values in fields.items():
            np.testing.assert_allclose(values, plain.fields[name][:size], atol=1e-4)


async def test_a_lone_member_is_followed_step_by_step(model: ServedModel) -> None:
    seen: list[Progress] = []
    async with running(Engine(AnalyticBackend([model.artifact]))) as engine:
        await engine.predict(make_request(model, steps=4, members=1), seen.append)
    assert [(p.done, p.total, p.fields) for p in seen] == [(n, 4, None) for n in (1, 2, 3, 4)]


async def test_an_adaptive_request_that_is_followed_still_stops_early(model: ServedModel) -> None:
    request = make_request(model, steps=2, members=20)
    request = replace(request, plan=replace(request.plan, tolerance=0.5))
    seen: list[Progress] = []
    async with running(Engine(AnalyticBackend([model.artifact], sigma=0.05))) as engine:
        plain = await engine.predict(request)
        followed = await engine.predict(request, seen.append)
    assert followed.members == plain.members < 20
    assert seen[-1].done == followed.evaluations < seen[-1].total == request.evaluations
