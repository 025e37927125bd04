"""What every backend owes the engine, whichever it is."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from service.backends.analytic import AnalyticBackend
from service.backends.base import Backend, BackendError, Worker
from service.backends.onnx import OnnxBackend
from service.backends.repository import ServedModel
from service.core.tensors import Signature, model_tensors
from tests.support.listening import RecordingListener
from tests.support.triton_fleet import triton_fleet

MAKERS: dict[str, Callable[[ServedModel], Backend]] = {
    "onnx": lambda model: OnnxBackend([model], threads=1),
    "onnx, 3 instances": lambda model: OnnxBackend([model], instances=3, threads=1),
    "analytic": lambda model: AnalyticBackend([model.artifact], num_workers=2),
}
NETWORKS = (
    "tiny_depth_encoder:1",
    "tiny_flow_encoder:1",
    "tiny_amodal_encoder:1",
    "tiny_denoiser:1",
    "tiny_decoder:1",
)


@pytest.fixture(params=[*MAKERS, "triton"])
async def backend(request: pytest.FixtureRequest, model: ServedModel) -> AsyncIterator[Backend]:
    if request.param == "triton":
        made: Backend = triton_fleet(request.getfixturevalue("tiny_triton").url)
    else:
        made = MAKERS[request.param](model)
    listener = RecordingListener()
    await made.open(listener)
    await listener.until(lambda: bool(made.workers))
    yield made
    await made.close()


def make_inputs(signature: Signature, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random arrays for a network: labels below 4, timesteps below 1000."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for tensor in signature.inputs:
        shape = (rows, *(size or 8 for size in tensor.shape))
        if tensor.dtype == "int64":
            arrays[tensor.name] = generator.integers(0, 4 if tensor.name == "task" else 1000, shape)
        else:
            arrays[tensor.name] = generator.uniform(-1, 1, shape).astype(np.float32)
    return arrays


@pytest.mark.parametrize("network", NETWORKS)
async def test_outputs_are_as_declared_and_rows_do_not_see_their_mates(
    backend: Backend, model: ServedModel, network: str
) -> None:
    signature = model_tensors(model.artifact)[network]
    inputs = make_inputs(signature, rows=5)
    worker = backend.workers[0]
    together = await worker.run(network, inputs)
    assert together.dtype == signature.output.dtype == "float32"
    expected = (5, *(size or 64 for size in signature.output.shape))
    assert together.shape == expected
    assert together.std() > 0.01
    for row in range(5):
        one = {name: array[row : row + 1] for name, array in inputs.items()}
        np.testing.assert_allclose((await worker.run(network, one))[0], together[row], atol=1e-5)


async def test_calls_at_once_do_not_mix(backend: Backend, model: ServedModel) -> None:
    signature = model_tensors(model.artifact)["tiny_denoiser:1"]
    batches = [make_inputs(signature, rows=1 + seed % 3, seed=seed) for seed in range(12)]
    first = backend.workers[0]
    apart = [await first.run("tiny_denoiser:1", batch) for batch in batches]
    turns = zip(itertools.cycle(backend.workers), batches)
    at_once = await asyncio.gather(
        *(worker.run("tiny_denoiser:1", batch) for worker, batch in turns)
    )
    for one, other in zip(apart, at_once, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


async def test_inputs_are_left_as_they_were(backend: Backend, model: ServedModel) -> None:
    inputs = make_inputs(model_tensors(model.artifact)["tiny_denoiser:1"], rows=2)
    before = {name: array.copy() for name, array in inputs.items()}
    await backend.workers[-1].run("tiny_denoiser:1", inputs)
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, before[name])


async def test_an_unknown_model_is_a_backend_error(backend: Backend) -> None:
    for worker in backend.workers:
        with pytest.raises(BackendError, match="nonesuch"):
            await worker.run("nonesuch", {})


async def test_workers_have_names_of_their_own_and_say_what_they_are(backend: Backend) -> None:
    names = [worker.name for worker in backend.workers]
    assert names
    assert len(set(names)) == len(names)
    for worker in backend.workers:
        assert isinstance(worker, Worker)
        assert worker.device
        assert worker.max_calls >= 1


async def test_it_offers_what_was_exported(backend: Backend, model: ServedModel) -> None:
    assert list(backend.artifacts) == [model.artifact]
    for worker in backend.workers:
        assert all(worker.serves(network) for network in NETWORKS)
        assert not worker.serves("tiny_denoiser:2")


@pytest.mark.parametrize("backend", ["onnx", "triton"], indirect=True)
async def test_inputs_of_a_wrong_shape_are_a_backend_error_and_do_no_harm(
    backend: Backend, model: ServedModel
) -> None:
    inputs = make_inputs(model_tensors(model.artifact)["tiny_denoiser:1"], rows=2)
    worker = backend.workers[0]
    with pytest.raises(BackendError):
        await worker.run("tiny_denoiser:1", inputs | {"noisy": inputs["noisy"][:, :3]})
    assert (await worker.run("tiny_denoiser:1", inputs)).shape == (2, 4, 8, 8)


async def test_workers_of_one_device_answer_alike(backend: Backend, model: ServedModel) -> None:
    inputs = make_inputs(model_tensors(model.artifact)["tiny_denoiser:1"], rows=3)
    answers = [await worker.run("tiny_denoiser:1", inputs) for worker in backend.workers]
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])
