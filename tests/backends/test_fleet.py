"""Servers that come, go, hang, return as others and contradict each other, without a real one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from service.backends.addresses import parse_addresses
from service.backends.base import BackendError, LoadError, UnknownModel
from service.backends.fleet import Fleet
from service.backends.servers import ServerWorker, Unreachable
from service.core.artifact import Artifact
from tests.support.artifacts import small_artifact
from tests.support.fake_server import MAX_ROWS, FakeMachine, FakeNetwork
from tests.support.listening import PATIENCE_S, RecordingListener

OLD = small_artifact()  # small:3
NEW = replace(OLD, version=4, files={"small_encoder/4/model.onnx": "0" * 64})
ODD = replace(OLD, description="exported again under the same version")
NETWORK = "small_denoiser:3"
ONE, TWO = "10.0.0.1", "10.0.0.2"
BEAT_S = 0.01  # nothing below waits for more than a few of these


def machine(*artifacts: Artifact) -> FakeMachine:
    return FakeMachine({artifact.key: artifact for artifact in artifacts or (OLD,)})


def rows(count: int) -> dict[str, np.ndarray]:
    return {"noisy": np.arange(count, dtype=np.float32)[:, None]}


@asynccontextmanager
async def fleet_of(
    network: FakeNetwork, urls: str
) -> AsyncIterator[tuple[Fleet, RecordingListener]]:
    fleet = Fleet(
        parse_addresses(urls),
        network.connect,
        refresh_s=BEAT_S,
        heartbeat_s=BEAT_S,
        resolve=network.resolve,
    )
    listener = RecordingListener()
    await fleet.open(listener)
    try:
        yield fleet, listener
    finally:
        for each in network.machines.values():
            each.free.set()
        async with asyncio.timeout(PATIENCE_S):
            await fleet.close()


async def first_worker(fleet: Fleet, listener: RecordingListener) -> ServerWorker:
    await listener.until(lambda: bool(fleet.workers))
    return fleet.workers[0]


async def soon(holds: Callable[[], bool]) -> None:
    """Return when something holds that nobody tells of."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(BEAT_S)


async def test_a_name_that_means_more_servers_and_then_fewer() -> None:
    network = FakeNetwork({ONE: machine(), TWO: machine()}, tritons={ONE})
    async with fleet_of(network, "tritons:9000") as (fleet, listener):
        first = await first_worker(fleet, listener)
        assert first.name == f"triton:{ONE}:9000"
        network.names["tritons"] = {ONE, TWO}
        await listener.until(lambda: f"joined triton:{TWO}:9000" in listener.told)
        assert [worker.name for worker in fleet.workers] == [first.name, f"triton:{TWO}:9000"]

        leaving = network.machines[ONE]
        leaving.free.clear()
        call = asyncio.create_task(first.run(NETWORK, rows(3)))
        await leaving.arrived.get()
        network.names["tritons"] = {TWO}
        await listener.until(lambda: f"left {first.name}" in listener.told)
        assert [worker.name for worker in fleet.workers] == [f"triton:{TWO}:9000"]
        assert list(fleet.artifacts) == [OLD]
        await network.resolved_again()
        assert (leaving.num_open, call.done()) == (1, False)
        leaving.free.set()
        np.testing.assert_array_equal(await call, rows(3)["noisy"])
        await soon(lambda: leaving.num_open == 0)


async def test_a_server_that_returns_before_its_last_call_has_ended_joins_after_it() -> None:
    """A worker's name would be taken until then."""
    network = FakeNetwork({ONE: machine()}, tritons={ONE})
    async with fleet_of(network, "tritons:9000") as (fleet, listener):
        worker = await first_worker(fleet, listener)
        network.machines[ONE].free.clear()
        call = asyncio.create_task(worker.run(NETWORK, rows(1)))
        await network.machines[ONE].arrived.get()
        network.names["tritons"] = set()
        await listener.until(lambda: f"left {worker.name}" in listener.told)
        network.names["tritons"] = {ONE}
        await network.resolved_again()
        assert (fleet.workers, call.done()) == ((), False)
        network.machines[ONE].free.set()
        await call
        again = await first_worker(fleet, listener)
        assert again is not worker
        assert (await again.run(NETWORK, rows(2))).shape == (2, 1)


async def test_names_that_cannot_be_resolved_change_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = FakeNetwork({ONE: machine(), TWO: machine()}, tritons={ONE}, others={TWO})
    async with fleet_of(network, "tritons:9000,others:9000") as (fleet, listener):
        await listener.until(lambda: len(fleet.workers) == 2)
        del network.names["others"]
        network.names["tritons"] = set()  # a hole in the answer: not to be acted upon
        await network.resolved_again()
        assert len(fleet.workers) == 2
        assert not [what for what in listener.told if what.startswith("left")]
        assert "cannot be resolved" in caplog.text
        network.names["others"] = {TWO}
        await listener.until(lambda: len(fleet.workers) == 1)


async def test_without_a_sign_of_life_calls_end_at_once_until_the_server_is_back() -> None:
    network = FakeNetwork({ONE: machine()})
    async with fleet_of(network, ONE) as (fleet, listener):
        worker = await first_worker(fleet, listener)
        stuck = network.machines[ONE]
        stuck.free.clear()
        call = asyncio.create_task(worker.run(NETWORK, rows(1)))
        await stuck.arrived.get()
        stuck.alive.clear()
        with pytest.raises(BackendError, match="gives no sign of life"):
            await call
        assert stuck.connections[0].num_cancelled == 1
        with pytest.raises(BackendError, match="gives no sign of life"):
            await worker.run(NETWORK, rows(1))
        assert stuck.arrived.empty()
        assert fleet.workers == (worker,)  # it may return at any moment
        assert listener.told[-1] == f"lost {worker.name}"
        stuck.alive.set()
        stuck.free.set()
        await listener.until(lambda: listener.told[-2:] == [f"back {worker.name}", "changed"])
        assert (await worker.run(NETWORK, rows(1))).shape == (1, 1)


async def test_a_call_without_an_answer_ends_all_others_there_at_once() -> None:
    network = FakeNetwork({ONE: machine()})
    async with fleet_of(network, ONE) as (fleet, listener):
        worker = await first_worker(fleet, listener)
        broken = network.machines[ONE]
        broken.free.clear()
        calls = [asyncio.create_task(worker.run(NETWORK, rows(1))) for _ in range(2)]
        for _ in calls:
            await broken.arrived.get()
        broken.failure = Unreachable("connection reset")
        broken.free.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, BackendError) for result in results)
        with pytest.raises(BackendError, match=r"broke off|gives no sign of life"):
            await worker.run(NETWORK, rows(1))
        await listener.until(lambda: f"lost {worker.name}" in listener.told)
        broken.failure = None
        await listener.until(lambda: listener.told[-2:] == [f"back {worker.name}", "changed"])
        assert (await worker.run(NETWORK, rows(1))).shape == (1, 1)


async def test_a_version_that_has_left_takes_no_other_call_with_it() -> None:
    network = FakeNetwork({ONE: machine(OLD, NEW)})
    async with fleet_of(network, ONE) as (fleet, listener):
        worker = await first_worker(fleet, listener)
        changing = network.machines[ONE]
        changing.free.clear()
        call = asyncio.create_task(worker.run("small_denoiser:4", rows(2)))
        await changing.arrived.get()
        del changing.artifacts[OLD.key]
        with pytest.raises(BackendError, match=r"no small_denoiser:3|offers no network"):
            await worker.run(NETWORK, rows(1))
        assert not worker.serves(NETWORK)
        await listener.until(lambda: list(fleet.artifacts) == [NEW])
        changing.free.set()
        assert (await call).shape == (2, 1)


async def test_a_server_that_returns_with_another_model() -> None:
    network = FakeNetwork({ONE: machine()})
    async with fleet_of(network, ONE) as (fleet, listener):
        worker = await first_worker(fleet, listener)
        network.machines[ONE].alive.clear()
        while True:
            try:
                await worker.run(NETWORK, rows(1))
            except BackendError:
                break
        network.machines[ONE].artifacts = {NEW.key: NEW}
        network.machines[ONE].alive.set()
        await listener.until(lambda: list(fleet.artifacts) == [NEW])
        assert fleet.workers == (worker,)
        assert (worker.serves(NETWORK), worker.serves("small_denoiser:4")) == (False, True)
        with pytest.raises(BackendError, match="offers no network 'small_denoiser:3'"):
            await worker.run(NETWORK, rows(1))


async def test_a_model_that_other_servers_have_otherwise_is_refused_while_they_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    network = FakeNetwork({ONE: machine(), TWO: machine(ODD, NEW)}, tritons={ONE})
    async with fleet_of(network, "tritons:9000") as (fleet, listener):
        await first_worker(fleet, listener)
        network.names["tritons"] = {ONE, TWO}
        await listener.until(lambda: len(fleet.workers) == 2)
        one, two = fleet.workers
        assert (one.serves(NETWORK), two.serves(NETWORK)) == (True, False)
        assert two.serves("small_denoiser:4")
        assert list(fleet.artifacts) == [OLD, NEW]
        (refusal,) = two.offer.refusals
        assert refusal.startswith("small:3 is not the small:3 that other servers have: give")
        assert refusal in caplog.text
        network.names["tritons"] = {TWO}
        await listener.until(lambda: two.serves(NETWORK))
        assert list(fleet.artifacts) == [ODD, NEW]
        assert two.offer.refusals == ()


@pytest.mark.parametrize("count", [1, MAX_ROWS, MAX_ROWS + 1, 3 * MAX_ROWS - 1])
async def test_batches_beyond_what_a_server_takes_are_split(count: int) -> None:
    network = FakeNetwork({ONE: machine()})
    async with fleet_of(network, ONE) as (fleet, listener):
        worker = await first_worker(fleet, listener)
        output = await worker.run(NETWORK, rows(count))
        np.testing.assert_array_equal(output, rows(count)["noisy"])
        sizes = [network.machines[ONE].arrived.get_nowait() for _ in range(-(-count // MAX_ROWS))]
        assert (sum(sizes), max(sizes)) == (count, min(count, MAX_ROWS))
        assert network.machines[ONE].arrived.empty()


async def test_closing_waits_for_the_calls_and_hangs_up() -> None:
    network = FakeNetwork({ONE: machine(), TWO: machine()}, tritons={ONE, TWO})
    async with fleet_of(network, "tritons:9000") as (fleet, listener):
        await listener.until(lambda: len(fleet.workers) == 2)
        for each in network.machines.values():
            each.free.clear()
        calls = [asyncio.create_task(worker.run(NETWORK, rows(2))) for worker in fleet.workers]
        for each in network.machines.values():
            await each.arrived.get()
        network.names["tritons"] = {ONE}  # one of them is on its way out already
        await listener.until(lambda: len(fleet.workers) == 1)
        closing = asyncio.create_task(fleet.close())
        await listener.until(lambda: not fleet.workers)
        assert not closing.done()
        for each in network.machines.values():
            each.free.set()
        assert all(output.shape == (2, 1) for output in await asyncio.gather(*calls))
        await closing
        assert [each.num_open for each in network.machines.values()] == [0, 0]


async def test_a_caller_who_gives_up_cancels_the_call() -> None:
    network = FakeNetwork({ONE: machine()})
    async with fleet_of(network, ONE) as (fleet, listener):
        worker = await first_worker(fleet, listener)
        network.machines[ONE].free.clear()
        call = asyncio.create_task(worker.run(NETWORK, rows(1)))
        await network.machines[ONE].arrived.get()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await soon(lambda: network.machines[ONE].connections[0].num_cancelled == 1)
        network.machines[ONE].free.set()
        assert (await worker.run(NETWORK, rows(1))).shape == (1, 1)


@pytest.mark.parametrize("failure", [Unreachable("refused"), RuntimeError("a defect")])
async def test_a_server_is_used_when_it_is_well_at_last(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    network = FakeNetwork({ONE: machine()})
    network.machines[ONE].failure = failure
    async with fleet_of(network, ONE) as (fleet, listener):
        await soon(lambda: len(network.machines[ONE].connections) > 1 or "refused" in caplog.text)
        assert fleet.workers == ()
        assert str(failure) in caplog.text
        network.machines[ONE].failure = None
        worker = await first_worker(fleet, listener)
        assert (await worker.run(NETWORK, rows(1))).shape == (1, 1)


async def test_loading_and_unloading_everywhere() -> None:
    network = FakeNetwork({ONE: machine(), TWO: machine()})
    async with fleet_of(network, f"{ONE},{TWO}") as (fleet, listener):
        await listener.until(lambda: len(fleet.workers) == 2)
        one, two = network.machines.values()
        with pytest.raises(UnknownModel, match="no server has a model 'small'"):
            await fleet.load("small")
        one.to_load = {NEW.key: NEW}
        with pytest.raises(LoadError, match=rf"triton:{TWO}:8001: there is no model 'small'"):
            await fleet.load("small")
        assert list(fleet.artifacts) == [OLD, NEW]  # what could be loaded is used
        two.to_load = {NEW.key: NEW}
        await fleet.load("small")
        assert all(worker.serves("small_denoiser:4") for worker in fleet.workers)
        two.to_load = {"small:3": ODD}
        with pytest.raises(LoadError, match="not the small:3 that other servers have"):
            await fleet.load("small")
        await fleet.unload([OLD, NEW])
        assert fleet.artifacts == ()


async def test_loading_without_a_server_is_an_error() -> None:
    async with fleet_of(FakeNetwork({}, tritons=set()), "tritons") as (fleet, _):
        with pytest.raises(LoadError, match="no server is connected"):
            await fleet.load("small")
