"""Several workers: they share what there is, and do without one that is broken or hangs.

The networks are in closed form and answer on the event loop itself, so a call that the test does
not hold takes no time on the loop's clock, and only a call that it holds can seem to hang.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from service.backends.analytic import AnalyticBackend, AnalyticWorker
from service.backends.base import BackendError
from service.backends.repository import ServedModel
from service.engine.engine import Engine
from service.engine.errors import EngineError, NoWorker
from service.engine.request import EngineResult, PredictionRequest
from service.engine.work import EngineLimits
from tests.engine.test_engine import assert_close, running
from tests.support.costs import WideCosts
from tests.support.requests import make_request
from tests.support.scripted_backend import Call, ScriptedBackend

Spoil = Callable[[np.ndarray], np.ndarray]
IMPATIENT = EngineLimits(watchdog_s=0.05)
SPOILS: dict[str, Spoil] = {
    "nan": lambda output: np.full_like(output, np.nan),
    "one row too few": lambda output: output[1:],
    "another size": lambda output: output[:, :, 1:],
    "another type": lambda output: output.astype(np.float64),
}


def analytic(model: ServedModel, **options: object) -> ScriptedBackend:
    return ScriptedBackend(AnalyticBackend([model.artifact]), **options)  # type: ignore[arg-type]


async def undisturbed(model: ServedModel, request: PredictionRequest) -> EngineResult:
    async with running(Engine(AnalyticBackend([model.artifact]))) as engine:
        return await engine.predict(request)


async def until(happened: Callable[[], bool]) -> None:
    while not happened():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0.01)


def is_denoiser(call: Call) -> bool:
    return call.model == "tiny_denoiser:1"


async def test_an_ensemble_spreads_over_idle_workers_a_row_each(model: ServedModel) -> None:
    backend = analytic(model, num_workers=5)
    request = make_request(model, steps=4, members=5)
    async with running(Engine(backend, costs=WideCosts())) as engine:
        result = await engine.predict(request)
    steps = [call for call in backend.calls if is_denoiser(call)]
    assert [call.rows for call in steps] == [1] * 20
    for step in range(4):
        assert {call.worker for call in steps[5 * step : 5 * step + 5]} == {
            f"w{i}" for i in range(5)
        }
    assert_close(result.fields, (await undisturbed(model, request)).fields)


async def test_rows_pack_under_load(model: ServedModel) -> None:
    backend = analytic(model, num_workers=2, held=True)
    limits = EngineLimits(batch_rows=8)
    async with running(Engine(backend, limits, costs=WideCosts())) as engine:
        requests = [make_request(model, members=10, steps=2, seed=seed) for seed in range(6)]
        answers = asyncio.gather(*map(engine.predict, requests))
        await asyncio.sleep(0)
        backend.let_go()
        await answers
    assert max(call.rows for call in backend.calls if is_denoiser(call)) == 8


async def test_a_second_call_is_in_flight_only_behind_a_backlog(model: ServedModel) -> None:
    backend = analytic(model, num_workers=2, max_calls=2, held=True)
    async with running(Engine(backend, EngineLimits(batch_rows=4), costs=WideCosts())) as engine:
        answer = asyncio.create_task(engine.predict(make_request(model, members=20)))
        (await backend.arrived.get()).release.set()
        first = [await backend.arrived.get() for _ in range(4)]
        assert [call.worker for call in first] == ["w0", "w1", "w0", "w1"]  # idle ones first
        assert backend.in_flight == engine.stats().batches_in_flight == 4
        assert backend.arrived.empty()
        backend.let_go()
        await answer
    backend = analytic(model, num_workers=2, max_calls=2)
    async with running(Engine(backend, costs=WideCosts())) as engine:
        await engine.predict(make_request(model, members=2))
    assert backend.most_in_flight <= 2  # two rows, two workers: nothing waits for a second call


async def test_a_worker_that_fails_is_replaced_and_comes_back(model: ServedModel) -> None:
    broken = True

    def fail(call: Call) -> bool:
        return broken and call.worker == "w0"

    backend = analytic(model, num_workers=2, fail=fail)
    request = make_request(model, members=3)
    async with running(Engine(backend, costs=WideCosts())) as engine:
        result = await engine.predict(request)
        assert engine.stats().workers == {"w0": False, "w1": True}
        broken = False
        await until(lambda: engine.stats().workers["w0"])
        backend.calls.clear()
        await engine.predict(request)
        assert {call.worker for call in backend.calls} == {"w0", "w1"}
    assert_close(result.fields, (await undisturbed(model, request)).fields)


@pytest.mark.parametrize("how", SPOILS)
async def test_a_worker_that_answers_nonsense_changes_no_answer(
    model: ServedModel, how: str
) -> None:
    def spoil(call: Call, output: np.ndarray) -> np.ndarray:
        # what size a decoder gives is not declared, only that members agree
        is_known = how != "another size" or call.model != "tiny_decoder:1"
        return SPOILS[how](output) if call.worker == "w0" and is_known else output

    request = make_request(model, steps=2, members=4)
    async with running(Engine(analytic(model, num_workers=3, spoil=spoil))) as engine:
        result = await engine.predict(request)
    assert_close(result.fields, (await undisturbed(model, request)).fields)


async def test_a_hanging_call_goes_elsewhere_and_its_worker_comes_back(model: ServedModel) -> None:
    backend = analytic(model, num_workers=2, held=True)
    request = make_request(model, members=4)
    async with running(Engine(backend, IMPATIENT, costs=WideCosts())) as engine:
        answer = asyncio.create_task(engine.predict(request))
        await backend.arrived.get()  # the encoder's call, which nobody ever lets go
        again = await backend.arrived.get()
        workers = {again.worker, (await backend.arrived.get()).worker}
        assert workers == {"w0", "w1"}  # the row elsewhere, and a probe of who hangs
        backend.let_go()
        result = await answer
        await until(lambda: all(engine.stats().workers.values()))
        assert engine.stats().stages["encode"].failed_batches >= 1
    assert_close(result.fields, (await undisturbed(model, request)).fields)


async def test_a_poisonous_request_fails_alone_after_two_workers(model: ServedModel) -> None:
    bad = make_request(model, picture=7, members=2)
    good = [make_request(model, picture=number) for number in range(3)]
    poison = bad.image[:, ::8, ::8]

    def fail(call: Call) -> bool:
        if not is_denoiser(call):
            return False
        return bool(
            (np.abs(call.inputs["condition"][:, :3] - poison).max(axis=(1, 2, 3)) == 0).any()
        )

    backend = analytic(model, num_workers=3, fail=fail)
    async with running(Engine(backend, costs=WideCosts())) as engine:
        results = await asyncio.gather(*map(engine.predict, (bad, *good)), return_exceptions=True)
        assert isinstance(results[0], EngineError)
        assert str(results[0]) == "could not denoise: tiny_denoiser:1 was told to fail"
        await until(lambda: all(engine.stats().workers.values()))
    poisoned = [call for call in backend.calls if is_denoiser(call) and fail(call)]
    assert len({call.worker for call in poisoned}) >= 2
    for request, result in zip(good, results[1:], strict=True):
        assert isinstance(result, EngineResult)
        assert_close(result.fields, (await undisturbed(model, request)).fields)


async def test_requests_wait_for_a_worker_and_are_answered_when_one_returns(
    model: ServedModel,
) -> None:
    down = True
    backend = analytic(model, num_workers=2, fail=lambda _: down)
    request = make_request(model)
    async with running(Engine(backend)) as engine:
        answer = asyncio.create_task(engine.predict(request))
        await until(lambda: not any(engine.stats().workers.values()))
        assert not answer.done()
        down = False
        assert_close((await answer).fields, (await undisturbed(model, request)).fields)


async def test_an_outage_ends_every_request_and_no_later_one(model: ServedModel) -> None:
    down = True
    backend = analytic(model, num_workers=2, fail=lambda _: down)
    async with running(Engine(backend, EngineLimits(outage_s=0.05))) as engine:
        requests = [make_request(model, seed=seed) for seed in range(5)]
        results = await asyncio.gather(*map(engine.predict, requests), return_exceptions=True)
        assert all(isinstance(result, NoWorker) for result in results)
        assert engine.stats().requests == engine.stats().evaluations == 0
        with pytest.raises(NoWorker) as refused:
            await engine.predict(requests[0])
        assert refused.value.retry_after_s > 0
        down = False
        await until(lambda: any(engine.stats().workers.values()))
        await engine.predict(requests[0])


async def test_workers_come_and_go_while_it_runs(model: ServedModel) -> None:
    backend = analytic(model, held=True)
    inner = AnalyticBackend([model.artifact])
    request = make_request(model, members=6)
    async with running(Engine(backend, costs=WideCosts())) as engine:
        answer = asyncio.create_task(engine.predict(request))
        await backend.arrived.get()
        added = AnalyticWorker(inner, "late")
        engine.add_worker(added)
        with pytest.raises(ValueError, match="late"):
            engine.add_worker(added)
        engine.retire_worker("w0")
        assert engine.stats().workers == {"w0": False, "late": True}
        backend.let_go()  # what was under way may return
        result = await answer
        assert engine.stats().workers == {"late": True}
        assert len(backend.calls) == 1
        engine.add_worker(replace(added, name="w0"))  # the name is free again
        assert engine.stats().workers == {"late": True, "w0": True}
    assert_close(result.fields, (await undisturbed(model, request)).fields)


async def test_a_broken_worker_that_was_retired_is_probed_no_more(model: ServedModel) -> None:
    backend = analytic(model, num_workers=2, fail=lambda call: call.worker == "w0")
    async with running(Engine(backend)) as engine:
        await engine.predict(make_request(model))
        assert not engine.stats().workers["w0"]
        engine.retire_worker("w0")
        assert engine.stats().workers == {"w1": True}
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(tasks)  # the last probe ends by itself


class Fickle(ScriptedBackend):
    """Its workers have no network while `is_empty`."""

    is_empty = False

    def serves(self, network: str) -> bool:
        return not self.is_empty and super().serves(network)

    async def perform(self, call: Call) -> np.ndarray:
        if self.is_empty:
            raise BackendError(f"no {call.model} any more")
        return await super().perform(call)


async def test_a_worker_that_no_longer_has_what_failed_is_not_held_to_be_unwell(
    model: ServedModel,
) -> None:
    """It could be probed with that for ever, such as a server that came back with other models."""

    def fail(call: Call) -> bool:
        failing = is_denoiser(call) and not backend.is_empty
        backend.is_empty = backend.is_empty or failing
        return failing

    backend = Fickle(AnalyticBackend([model.artifact]), fail=fail)
    request = make_request(model, steps=3)
    async with running(Engine(backend)) as engine:
        answer = asyncio.create_task(engine.predict(request))
        await until(lambda: backend.is_empty and not engine.stats().batches_in_flight)
        async with asyncio.timeout(60):
            await until(lambda: engine.stats().workers == {"w0": True})
        assert not answer.done()
        backend._fail, backend.is_empty = None, False
        engine.workers_changed()
        result = await answer
    assert_close(result.fields, (await undisturbed(model, request)).fields)


async def test_a_suspended_worker_gets_no_calls_until_it_is_resumed(model: ServedModel) -> None:
    backend = analytic(model, held=True)
    request = make_request(model, steps=2)
    async with running(Engine(backend)) as engine:
        engine.suspend_worker("w0")
        engine.suspend_worker("nobody")
        answer = asyncio.create_task(engine.predict(request))
        await until(lambda: engine.stats().requests == 1)
        assert (backend.calls, engine.has_worker) == ([], False)
        backend.let_go()
        engine.resume_worker("nobody")
        engine.resume_worker("w0")
        assert engine.has_worker
        result = await answer
    assert_close(result.fields, (await undisturbed(model, request)).fields)
