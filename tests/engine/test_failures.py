"""One bad row, one broken call or one vanished client is nobody else's business.

Calls wait for the test, so nothing here depends on the speed of the machine.
"""

import asyncio

import numpy as np
import pytest

from service.backends.onnx import OnnxBackend
from service.backends.repository import ServedModel
from service.core.tasks import TaskName
from service.engine.engine import Engine
from service.engine.errors import EngineBusy, EngineError, EngineStopped
from service.engine.request import EngineResult, PredictionRequest
from service.engine.work import EngineLimits
from tests.engine.test_engine import BOUND, assert_close, running
from tests.support.costs import WideCosts
from tests.support.requests import make_request
from tests.support.scripted_backend import Call, ScriptedBackend

FLOW_LABEL = 1


async def alone(onnx: OnnxBackend, request: PredictionRequest) -> EngineResult:
    async with running(Engine(onnx)) as engine:
        return await engine.predict(request)


async def next_call(backend: ScriptedBackend, model: str) -> Call:
    """Let calls of other networks through until one of `model` arrives, and hold that."""
    while True:
        call = await backend.arrived.get()
        if call.model == model:
            return call
        call.release.set()


async def test_a_cancelled_request_frees_its_rows_within_a_step(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx, held=True)
    engine = Engine(backend, EngineLimits(batch_rows=8), costs=WideCosts())
    kept = make_request(model, "flow", steps=4, members=2)
    async with running(engine):
        huge = asyncio.create_task(engine.predict(make_request(model, steps=200, members=20)))
        step = await next_call(backend, "tiny_denoiser:1")
        other = asyncio.create_task(engine.predict(kept))
        step.release.set()
        step = await backend.arrived.get()  # the encoder call of the other request
        step.release.set()
        step = await next_call(backend, "tiny_denoiser:1")
        while FLOW_LABEL not in step.inputs["task"]:
            step.release.set()
            step = await next_call(backend, "tiny_denoiser:1")
        assert set(step.inputs["task"]) == {0, FLOW_LABEL}  # both are in the call under way
        assert engine.stats().evaluations > 3000

        huge.cancel()
        await asyncio.wait([huge])
        assert huge.cancelled()
        assert engine.stats().requests == 1
        assert engine.stats().evaluations == 8
        step.release.set()
        while not other.done():
            arrival = asyncio.create_task(backend.arrived.get())
            await asyncio.wait([arrival, other], return_when=asyncio.FIRST_COMPLETED)
            if not arrival.done():
                arrival.cancel()
                break
            call = arrival.result()
            if call.model == "tiny_denoiser:1":
                assert set(call.inputs["task"]) == {FLOW_LABEL}, "a freed row took a step"
            call.release.set()
        result = await other
    assert_close(result.fields, (await alone(onnx, kept)).fields)
    assert engine.stats().requests == engine.stats().evaluations == 0


async def test_a_request_cancelled_before_its_turn_costs_nothing(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx, held=True)
    engine = Engine(backend)
    async with running(engine):
        first = asyncio.create_task(engine.predict(make_request(model)))
        await backend.arrived.get()
        waiting = asyncio.create_task(engine.predict(make_request(model, "flow")))
        await asyncio.sleep(0)
        assert engine.stats().requests == 2
        waiting.cancel()
        await asyncio.wait([waiting])
        backend.let_go()
        await first
    assert {call.model for call in backend.calls} == {
        "tiny_depth_encoder:1",
        "tiny_denoiser:1",
        "tiny_decoder:1",
    }


@pytest.mark.parametrize("stage", ["denoiser", "decoder"])
async def test_a_broken_call_fails_only_the_request_that_breaks_it_alone(
    model: ServedModel, onnx: OnnxBackend, stage: str
) -> None:
    """Rows of all requests share calls; those that hold the bad request's row break."""
    tasks: tuple[TaskName, ...] = ("depth", "amodal", "depth")
    good = [make_request(model, task, picture=i + 1) for i, task in enumerate(tasks)]
    bad = make_request(model, "flow", members=3, picture=9)
    poison = (await given_to_networks(onnx, bad))[stage]

    def fail(call: Call) -> bool:
        if not call.model.endswith(f"{stage}:1"):
            return False
        rows = call.inputs["latent" if stage == "decoder" else "condition"]
        return bool((np.abs(rows[:, None] - poison).max(axis=(2, 3, 4)) < BOUND).any())

    backend = ScriptedBackend(onnx, fail=fail)
    engine = Engine(backend, costs=WideCosts())
    async with running(engine):
        results = await asyncio.gather(*map(engine.predict, (bad, *good)), return_exceptions=True)
    assert isinstance(results[0], EngineError)
    assert f"tiny_{stage}:1 was told to fail" in str(results[0])
    for request, result in zip(good, results[1:], strict=True):
        assert isinstance(result, EngineResult)
        assert_close(result.fields, (await alone(onnx, request)).fields)
    totals = engine.stats()
    assert totals.requests == 0
    assert totals.stages["denoise" if stage == "denoiser" else "decode"].failed_batches >= 2


async def given_to_networks(onnx: OnnxBackend, request: PredictionRequest) -> dict[str, np.ndarray]:
    """What the networks are given for a request: (rows, channels, h, w) by network."""
    recorder = ScriptedBackend(onnx)
    async with running(Engine(recorder)) as engine:
        await engine.predict(request)
    conditions = [c.inputs["condition"] for c in recorder.calls if "condition" in c.inputs]
    latents = [c.inputs["latent"] for c in recorder.calls if "latent" in c.inputs]
    return {"denoiser": conditions[0][:1], "decoder": np.concatenate(latents)}


async def test_a_failure_that_passes_is_retried_once(model: ServedModel, onnx: OnnxBackend) -> None:
    failures = iter([False, True])  # the first step goes well, the second does not at first

    def fail(call: Call) -> bool:
        return call.model == "tiny_denoiser:1" and next(failures, False)

    engine = Engine(ScriptedBackend(onnx, fail=fail), costs=WideCosts())
    requests = [make_request(model, "flow"), make_request(model, "amodal")]
    async with running(engine):
        results = await asyncio.gather(*map(engine.predict, requests))
    assert engine.stats().stages["denoise"].failed_batches == 1
    for request, result in zip(requests, results, strict=True):
        assert_close(result.fields, (await alone(onnx, request)).fields)


@pytest.mark.parametrize("stage", ["encoder", "denoiser"])
async def test_a_row_that_is_never_finite_fails_its_own_request(
    model: ServedModel, onnx: OnnxBackend, stage: str
) -> None:
    requests = [make_request(model, picture=number, members=1) for number in range(4)]
    bad = {"encoder": requests[2].image}
    bad["denoiser"] = (await given_to_networks(onnx, requests[2]))["denoiser"][0]

    def spoil(call: Call, output: np.ndarray) -> np.ndarray:
        if call.model.endswith(f"{stage}:1"):
            given = call.inputs["image" if stage == "encoder" else "condition"]
            output[np.abs(given - bad[stage]).max(axis=(1, 2, 3)) < BOUND, 0, 3, 3] = np.nan
        return output

    engine = Engine(ScriptedBackend(onnx, spoil=spoil), costs=WideCosts())
    async with running(engine):
        results = await asyncio.gather(*map(engine.predict, requests), return_exceptions=True)
    assert isinstance(results[2], EngineError)
    assert "gave a result that is not finite" in str(results[2])
    for number in (0, 1, 3):
        result = results[number]
        assert isinstance(result, EngineResult)
        assert_close(result.fields, (await alone(onnx, requests[number])).fields)
    assert engine.stats().requests == 0


@pytest.mark.parametrize("spoiled", [np.zeros((1, 3, 8, 8)), np.zeros((1, 4, 8, 8), np.float32)])
async def test_a_wrong_output_is_an_error_not_a_wrong_answer(
    model: ServedModel, onnx: OnnxBackend, spoiled: np.ndarray
) -> None:
    def spoil(call: Call, output: np.ndarray) -> np.ndarray:
        return spoiled if call.model == "tiny_decoder:1" else output

    async with running(Engine(ScriptedBackend(onnx, spoil=spoil))) as engine:
        with pytest.raises(EngineError, match="tiny_decoder:1 returned"):
            await engine.predict(make_request(model))


async def test_a_defect_in_a_backend_leaves_nobody_waiting(
    model: ServedModel, onnx: OnnxBackend, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(call: Call, output: np.ndarray) -> np.ndarray:
        if call.model == "tiny_denoiser:1" and FLOW_LABEL in call.inputs["task"]:
            raise ZeroDivisionError
        return output

    async with running(Engine(ScriptedBackend(onnx, spoil=spoil))) as engine:
        with pytest.raises(EngineError, match="tiny_denoiser:1 failed"):
            await engine.predict(make_request(model, "flow"))
        await engine.predict(make_request(model))  # and the engine goes on
    assert "ZeroDivisionError" in caplog.text


async def test_as_many_calls_are_in_flight_as_the_backend_has_workers(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx, num_workers=4, held=True)
    async with running(Engine(backend, costs=WideCosts())) as engine:
        answer = asyncio.create_task(engine.predict(make_request(model, members=20)))
        (await backend.arrived.get()).release.set()
        steps = [await backend.arrived.get() for _ in range(4)]
        assert [step.rows for step in steps] == [5, 5, 5, 5]  # idle workers share the members
        assert engine.stats().batches_in_flight == 4
        backend.let_go()
        await answer
    assert backend.most_in_flight == 4


async def test_a_short_request_is_not_starved_by_a_huge_one(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx, held=True)
    async with running(Engine(backend, EngineLimits(batch_rows=8), costs=WideCosts())) as engine:
        huge = asyncio.create_task(engine.predict(make_request(model, steps=200, members=20)))
        step = await next_call(backend, "tiny_denoiser:1")
        short = asyncio.create_task(engine.predict(make_request(model, "flow", steps=1, members=1)))
        await asyncio.sleep(0)
        before = len(backend.calls)
        step.release.set()
        while not short.done():
            arrival = asyncio.create_task(backend.arrived.get())
            await asyncio.wait([arrival, short], return_when=asyncio.FIRST_COMPLETED)
            if short.done():
                arrival.cancel()
                break
            arrival.result().release.set()
        # its encoder, step and decoder call, each at most one turn of the huge request apart
        assert len(backend.calls) - before <= 7
        assert not huge.done()
        huge.cancel()
        backend.let_go()


async def test_requests_beyond_the_bound_are_refused_and_admitted_later(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx, held=True)
    async with running(Engine(backend, EngineLimits(requests=2))) as engine:
        admitted = [asyncio.create_task(engine.predict(make_request(model))) for _ in range(2)]
        await backend.arrived.get()
        with pytest.raises(EngineBusy, match="2 requests"):
            await engine.predict(make_request(model))
        backend.let_go()
        await asyncio.gather(*admitted)
        await engine.predict(make_request(model))


async def test_stopping_fails_the_waiting_and_lets_calls_return(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx, held=True)
    engine = Engine(backend)
    with pytest.raises(EngineStopped):
        await engine.predict(make_request(model))
    await engine.start()
    waiting = [asyncio.create_task(engine.predict(make_request(model))) for _ in range(3)]
    await backend.arrived.get()
    stopping = asyncio.create_task(engine.stop())
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, EngineStopped) for result in results)
    assert not stopping.done()
    backend.let_go()
    await stopping
    assert backend.in_flight == 0
    assert len(backend.calls) == 1
    with pytest.raises(EngineStopped):
        await engine.predict(make_request(model))


async def test_a_failed_batch_is_not_retried_for_a_client_that_has_gone(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx, held=True, fail=lambda call: call.model == "tiny_denoiser:1")
    async with running(Engine(backend)) as engine:
        answer = asyncio.create_task(engine.predict(make_request(model)))
        step = await next_call(backend, "tiny_denoiser:1")
        answer.cancel()
        await asyncio.wait([answer])
        step.release.set()
        backend.let_go()
    assert backend.calls[-1] is step


async def test_evaluations_count_down_as_steps_are_taken(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx, held=True)
    async with running(Engine(backend, costs=WideCosts())) as engine:
        answer = asyncio.create_task(engine.predict(make_request(model, steps=4, members=2)))
        left = []
        for _ in range(4):
            step = await next_call(backend, "tiny_denoiser:1")
            left.append(engine.stats().evaluations)
            step.release.set()
        assert left == [8, 6, 4, 2]
        await backend.arrived.get()
        assert engine.stats().evaluations == 0
        backend.let_go()
        await answer
