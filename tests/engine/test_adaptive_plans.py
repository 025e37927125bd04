"""Ensembles that grow until they have converged, through the whole engine."""

from dataclasses import replace

import pytest

from service.backends.analytic import AnalyticBackend
from service.backends.repository import ServedModel
from service.core.tasks import TaskName
from service.engine.adaptive import ROUNDS, estimated_change, next_round
from service.engine.engine import Engine
from service.engine.request import EngineResult, PredictionRequest, Terms
from tests.engine.test_engine import assert_close, running
from tests.support.requests import make_request


def adaptive(
    model: ServedModel, tolerance: float, most: int = 20, task: TaskName = "depth", seed: int = 1
) -> PredictionRequest:
    request = make_request(model, task, steps=3, members=most, seed=seed)
    return replace(request, plan=replace(request.plan, tolerance=tolerance))


async def answer(model: ServedModel, *requests: PredictionRequest) -> list[EngineResult]:
    backend = AnalyticBackend([model.artifact], sigma=0.3, num_workers=3)
    async with running(Engine(backend)) as engine:
        results = [await engine.predict(request) for request in requests]
        assert engine.stats().requests == engine.stats().evaluations == 0
        assert engine.drain_s() == 0
    return results


@pytest.mark.parametrize("task", ["depth", "amodal"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
async def test_members_are_added_until_the_change_is_below_the_tolerance(
    model: ServedModel, task: TaskName, share: float
) -> None:
    plain = make_request(model, task, steps=3, members=20)
    (whole,) = await answer(model, plain)
    changes = {
        size: estimated_change(
            {name: values[:size] for name, values in whole.fields.items()}, next_round(size, 20)
        )
        for size in ROUNDS[:-1]
    }
    tolerance = share * changes[2]
    expected = next((size for size in ROUNDS[:-1] if changes[size] < tolerance), 20)
    (grown,) = await answer(model, adaptive(model, tolerance, task=task))
    assert grown.members == expected > 2 or share == 0.9
    assert grown.evaluations == 3 * grown.members * len(plain.components)
    same = replace(plain, plan=replace(plain.plan, members=grown.members))
    assert_close(grown.fields, (await answer(model, same))[0].fields)


async def test_the_same_seed_stops_at_the_same_members(model: ServedModel) -> None:
    requests = [adaptive(model, 0.05, seed=seed) for seed in range(3)] * 2
    results = await answer(model, *requests)
    for one, other in zip(results[:3], results[3:], strict=True):
        assert one.members == other.members
        assert_close(one.fields, other.fields)


@pytest.mark.parametrize("most", [1, 2, 5, 20])
async def test_no_more_than_the_most_members(model: ServedModel, most: int) -> None:
    (result,) = await answer(model, adaptive(model, 1e-9, most))
    assert result.members == most
    (easy,) = await answer(model, adaptive(model, 10.0, most))
    assert easy.members == min(2, most)


async def test_nothing_grows_after_its_moment(model: ServedModel) -> None:
    request = replace(adaptive(model, 1e-9), terms=Terms(grow_until=-1.0))
    (result,) = await answer(model, request)
    assert result.members == 2
    later = replace(adaptive(model, 1e-9), terms=Terms(grow_until=1e12))
    assert (await answer(model, later))[0].members == 20
