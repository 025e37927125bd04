"""Who is let in when the queue is full, and what is said to the others."""

import asyncio
from dataclasses import replace

import pytest

from service.backends.onnx import OnnxBackend
from service.backends.repository import ServedModel
from service.engine import batch
from service.engine.engine import Engine
from service.engine.errors import EngineBusy, EngineError
from service.engine.request import PredictionRequest, Terms
from service.engine.work import EngineLimits
from tests.engine.test_engine import running
from tests.support.requests import make_request
from tests.support.scripted_backend import ScriptedBackend


def request_of(model: ServedModel, caller: str, evaluations: int) -> PredictionRequest:
    request = make_request(model, "flow", steps=evaluations, members=1)
    return replace(request, terms=Terms(caller=caller))


async def test_a_queue_that_one_caller_filled_takes_others_up_to_their_part(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx, held=True)
    async with running(Engine(backend, EngineLimits(evaluations=100))) as engine:
        tasks = [asyncio.create_task(engine.predict(request_of(model, "greedy", 90)))]
        await backend.arrived.get()
        for caller, evaluations in (("greedy", 20), ("other", 51)):
            with pytest.raises(EngineBusy, match="90 of 100 evaluations") as caught:
                await engine.predict(request_of(model, caller, evaluations))
            assert caught.value.retry_after_s == engine.drain_s()
        tasks.append(asyncio.create_task(engine.predict(request_of(model, "other", 50))))
        await asyncio.sleep(0)
        assert engine.stats().evaluations == 140
        with pytest.raises(EngineBusy, match="140 of 100"):
            await engine.predict(request_of(model, "other", 1))
        backend.let_go()
        await asyncio.gather(*tasks)


async def test_the_queue_never_exceeds_twice_its_bound(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx, held=True)
    async with running(Engine(backend, EngineLimits(evaluations=20))) as engine:
        tasks = [asyncio.create_task(engine.predict(request_of(model, "first", 39)))]
        await backend.arrived.get()
        with pytest.raises(EngineBusy):
            await engine.predict(request_of(model, "second", 2))
        tasks.append(asyncio.create_task(engine.predict(request_of(model, "second", 1))))
        await asyncio.sleep(0)
        assert engine.stats().evaluations == 40
        backend.let_go()
        await asyncio.gather(*tasks)


async def test_a_lone_request_is_let_in_whatever_it_asks_for(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    async with running(Engine(onnx, EngineLimits(evaluations=2))) as engine:
        result = await engine.predict(request_of(model, "alone", 5))
    assert result.evaluations == 5


async def test_a_batch_that_cannot_be_made_fails_its_requests_and_no_other(
    model: ServedModel, onnx: OnnxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(rows: object) -> dict[str, object]:
        raise MemoryError

    async with running(Engine(onnx)) as engine:
        with monkeypatch.context() as patched:
            patched.setitem(batch.INPUTS, "denoise", no_memory)
            with pytest.raises(EngineError, match="interrupted"):
                await engine.predict(make_request(model))
        await engine.predict(make_request(model))
        assert engine.stats().requests == 0
