"""Deadlines and the bound on evaluations, on a clock that only the test moves."""

import asyncio
import math
from dataclasses import replace

import pytest

from service.backends.analytic import AnalyticBackend
from service.backends.repository import ServedModel
from service.engine.costs import CostTable
from service.engine.engine import Engine
from service.engine.errors import DeadlineImpossible, DeadlineMissed, EngineBusy
from service.engine.groups import Network
from service.engine.request import PredictionRequest, Terms
from service.engine.work import EngineLimits
from tests.engine.test_engine import running
from tests.support.requests import make_request
from tests.support.scripted_backend import ScriptedBackend

CALL_S = 0.1  # of every network; batches are worth nothing
LATENT = (4, 8, 8)
NETWORKS = (
    Network("tiny_depth_encoder:1", (3, 64, 64)),
    Network("tiny_denoiser:1", LATENT),
    Network("tiny_decoder:1", LATENT),
)


def known_costs() -> CostTable:
    costs = CostTable()
    for network in NETWORKS:
        for rows in (1, 2):
            costs.observe("scripted", network, rows, CALL_S * rows)
    return costs


def held_engine(model: ServedModel, **limits: int) -> tuple[ScriptedBackend, Engine]:
    backend = ScriptedBackend(AnalyticBackend([model.artifact]), held=True)
    engine = Engine(backend, EngineLimits(**limits), costs=known_costs(), clock=lambda: 50.0)
    return backend, engine


def due(request: PredictionRequest, seconds: float) -> PredictionRequest:
    return replace(request, terms=Terms(deadline=50.0 + seconds))


async def test_what_can_never_be_in_time_is_refused_at_once(model: ServedModel) -> None:
    backend, engine = held_engine(model)
    request = make_request(model, steps=8, members=1)  # ten calls: one second
    async with running(engine):
        for seconds in (-1.0, 0.0, 0.99):
            with pytest.raises(DeadlineImpossible) as refused:
                await engine.predict(due(request, seconds))
            assert refused.value.retry_after_s == math.inf
        assert not backend.calls
        backend.let_go()
        assert (await engine.predict(due(request, 1.01))).members == 1


async def test_what_the_queue_makes_late_may_come_again(model: ServedModel) -> None:
    backend, engine = held_engine(model)
    request = make_request(model, steps=8, members=1)
    async with running(engine):
        first = asyncio.create_task(engine.predict(due(request, 1.5)))
        await backend.arrived.get()
        with pytest.raises(DeadlineImpossible, match="with what is queued") as refused:
            await engine.predict(due(request, 1.7))  # after the first one it ends at 2.0
        assert refused.value.retry_after_s == pytest.approx(0.3)
        second = asyncio.create_task(engine.predict(due(request, 2.1)))
        await asyncio.sleep(0)
        assert engine.stats().requests == 2
        backend.let_go()
        await asyncio.gather(first, second)


async def test_a_missed_deadline_frees_the_rows(model: ServedModel) -> None:
    backend, engine = held_engine(model)
    async with running(engine):
        request = make_request(model, steps=1, members=1)
        late = asyncio.create_task(engine.predict(due(request, 0.31)))
        call = await backend.arrived.get()
        with pytest.raises(DeadlineMissed, match="deadline has passed"):
            await late
        assert engine.stats().requests == engine.stats().evaluations == 0
        call.release.set()
        backend.let_go()
        await engine.predict(request)
    assert [c.model for c in backend.calls].count("tiny_depth_encoder:1") == 2
    assert len(backend.calls) == 4  # of the late one, the encoder only


async def test_the_queue_is_bounded_in_evaluations(model: ServedModel) -> None:
    backend, engine = held_engine(model, evaluations=20)
    async with running(engine):
        # a lone request is let in whatever it costs
        first = asyncio.create_task(engine.predict(make_request(model, steps=5, members=3)))
        await backend.arrived.get()
        with pytest.raises(EngineBusy, match="15 of 20 evaluations") as refused:
            await engine.predict(make_request(model, steps=6, members=1))
        assert refused.value.retry_after_s == engine.drain_s()
        assert engine.drain_s() == pytest.approx(CALL_S * (1 + 15 + 3))
        second = asyncio.create_task(engine.predict(make_request(model, steps=5, members=1)))
        await asyncio.sleep(0)
        assert engine.stats().evaluations == 20
        first.cancel()
        await asyncio.wait([first])
        assert engine.drain_s() == pytest.approx(CALL_S * (1 + 5 + 1))
        backend.let_go()
        await second
    assert engine.drain_s() == 0


async def test_requests_are_bounded_too_and_say_when_to_come_again(model: ServedModel) -> None:
    backend, engine = held_engine(model, requests=1)
    async with running(engine):
        only = asyncio.create_task(engine.predict(make_request(model, steps=2, members=1)))
        await backend.arrived.get()
        with pytest.raises(EngineBusy, match="1 requests") as refused:
            await engine.predict(make_request(model))
        assert refused.value.retry_after_s == engine.drain_s() == pytest.approx(4 * CALL_S)
        backend.let_go()
        await only
