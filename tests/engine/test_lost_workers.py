"""A worker that is lost under a call, or slower than others, is at fault; the rows are not."""

import asyncio

import numpy as np
import pytest

from service.backends.base import WorkerLost
from service.backends.repository import ServedModel
from service.core.tensors import model_tensors
from service.engine.costs import CostTable
from service.engine.engine import Engine
from service.engine.errors import EngineError
from service.engine.request import EngineResult
from service.engine.work import EngineLimits
from tests.engine.test_engine import assert_close, running
from tests.engine.test_workers import analytic, is_denoiser, undisturbed, until
from tests.support.costs import WideCosts
from tests.support.requests import make_request
from tests.support.scripted_backend import Call


async def test_no_request_is_blamed_for_workers_that_are_lost(model: ServedModel) -> None:
    """Each is well again at once, so that it looks as if the rows were to blame."""
    left = 5

    def lose(call: Call) -> bool:
        nonlocal left
        if not is_denoiser(call) or call.rows == 1 or not left:  # probes have one row
            return False
        left -= 1
        return True

    backend = analytic(model, num_workers=2, fail=lose, error=WorkerLost)
    request = make_request(model, members=4, steps=1)
    async with running(Engine(backend, costs=WideCosts())) as engine:
        result = await engine.predict(request)
    assert left == 0
    assert_close(result.fields, (await undisturbed(model, request)).fields)


async def test_a_request_that_kills_workers_fails_alone_in_the_end(model: ServedModel) -> None:
    bad = make_request(model, picture=7, members=2)
    good = [make_request(model, picture=number) for number in range(3)]
    poison = bad.image[:, ::8, ::8]

    def kill(call: Call) -> bool:
        if not is_denoiser(call):
            return False
        distance = np.abs(call.inputs["condition"][:, :3] - poison).max(axis=(1, 2, 3))
        return bool((distance == 0).any())

    backend = analytic(model, num_workers=3, fail=kill, error=WorkerLost)
    async with running(Engine(backend, costs=WideCosts())) as engine:
        results = await asyncio.gather(*map(engine.predict, (bad, *good)), return_exceptions=True)
        await until(lambda: all(engine.stats().workers.values()))
    assert isinstance(results[0], EngineError)
    assert str(results[0]) == "could not denoise: tiny_denoiser:1 was told to fail"
    for request, result in zip(good, results[1:], strict=True):
        assert isinstance(result, EngineResult)
        assert_close(result.fields, (await undisturbed(model, request)).fields)


async def test_a_slow_call_goes_to_an_idle_worker_long_before_it_hangs(model: ServedModel) -> None:
    backend = analytic(model, num_workers=2, held=True)
    limits, costs = EngineLimits(watchdog_s=2.0), WideCosts()
    request = make_request(model, members=1, steps=2)
    costs.observe("scripted", request.networks.encoder, 1, 0.001)
    async with running(Engine(backend, limits, costs=costs)) as engine:
        answer = asyncio.create_task(engine.predict(request))
        slow = await backend.arrived.get()
        again = await backend.arrived.get()
        workers = {again.worker, (await backend.arrived.get()).worker}
        assert workers == {"w0", "w1"}  # the row elsewhere, and a probe of who is slow
        backend.let_go()
        result = await answer
        await until(lambda: all(engine.stats().workers.values()))
        assert slow.worker == "w0"
        assert result.timings.encode_ms < 1e3 * limits.watchdog_s
    assert_close(result.fields, (await undisturbed(model, request)).fields)


async def test_a_lone_worker_may_be_slow(model: ServedModel) -> None:
    backend = analytic(model, held=True)
    request, costs = make_request(model, members=1, steps=1), WideCosts()
    costs.observe("scripted", request.networks.encoder, 1, 0.001)
    async with running(Engine(backend, EngineLimits(watchdog_s=4.0), costs=costs)) as engine:
        answer = asyncio.create_task(engine.predict(request))
        call = await backend.arrived.get()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):  # twice as long as others would be given
                await backend.arrived.get()
        call.release.set()
        backend.let_go()
        await answer
        assert engine.stats().stages["encode"].failed_batches == 0


async def test_news_of_workers_ends_the_pause_between_probes(model: ServedModel) -> None:
    broken = True
    backend = analytic(model, fail=lambda _: broken)
    request = make_request(model)
    async with running(Engine(backend)) as engine:
        answer = asyncio.create_task(engine.predict(request))
        await until(lambda: len(backend.calls) >= 4)  # the pauses are long by now
        broken = False
        num_calls = len(backend.calls)
        engine.workers_changed()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(backend.calls) > num_calls
        await answer


async def test_the_start_goes_past_a_worker_that_hangs(model: ServedModel) -> None:
    backend, costs = analytic(model, num_workers=2, held=True), CostTable()

    async def answer_as_w1_alone() -> None:
        while True:
            call = await backend.arrived.get()
            if call.worker == "w1":
                call.release.set()

    answering = asyncio.create_task(answer_as_w1_alone())
    engine = Engine(backend, EngineLimits(watchdog_s=0.5), costs=costs)
    await engine.start(model_tensors(model.artifact))
    answering.cancel()
    assert {call.worker for call in backend.calls} == {"w0", "w1"}
    assert costs.networks("scripted")
    await engine.stop()
