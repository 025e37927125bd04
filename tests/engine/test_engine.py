"""What the engine answers: over real networks, against a slow sampler, alone and together."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from service.backends.analytic import AnalyticBackend
from service.backends.base import Worker
from service.backends.onnx import OnnxBackend
from service.backends.repository import ServedModel
from service.core.ddim import PredictionType
from service.core.tasks import TaskName
from service.engine.engine import Engine
from service.engine.groups import Stage
from service.engine.pool import Condition
from service.engine.request import PredictionRequest
from service.engine.sampling import draw_noise
from service.engine.work import EngineLimits
from tests.support.costs import WideCosts
from tests.support.requests import make_request
from tests.support.scripted_backend import ScriptedBackend

BOUND = 1e-4  # of the engine's promise on float rounding, in encoded units


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    async with asyncio.timeout(120):  # a hang is a failure, not a wait
        await engine.start()
        yield engine
        await engine.stop()


async def obvious_fields(worker: Worker, request: PredictionRequest) -> dict[str, np.ndarray]:
    """One row at a time and by the textbook: x_0 and eps from v, then DDIM's equation 12."""
    artifact, plan = request.artifact, request.plan
    encode = {"image": request.image[None]}
    if request.prompt is not None:
        encode["prompt"] = request.prompt[None]
    if request.encoder.label:
        encode["task"] = np.array([request.task.encoder_label])
    condition = await worker.run(artifact.network(request.encoder.model), encode)
    alpha_bar = artifact.schedule.build().alpha_bar
    fields: dict[str, list[np.ndarray]] = {}
    for index, component in enumerate(request.task.components):
        for member in range(plan.members):
            x = draw_noise(plan.seed, member, index, request.latent_shape)[None]
            for t, t_prev in artifact.schedule.step_pairs(plan.steps):
                inputs = {"noisy": x.astype(np.float32), "condition": condition}
                inputs |= {"timestep": np.array([t]), "task": np.array([component.label])}
                v = await worker.run(artifact.network(artifact.denoiser), inputs)
                now, then = alpha_bar[t], alpha_bar[t_prev] if t_prev >= 0 else 1.0
                x_0 = np.sqrt(now) * x - np.sqrt(1 - now) * v
                eps = np.sqrt(now) * v + np.sqrt(1 - now) * x
                x = np.sqrt(then) * x_0 + np.sqrt(1 - then) * eps
            latent = (x / artifact.latent.scale).astype(np.float32)
            image = (await worker.run(artifact.network(artifact.decoder), {"latent": latent}))[0]
            for name, channels in component.channels.items():
                fields.setdefault(name, []).append(np.mean([image[c] for c in channels], axis=0))
    return {name: np.stack(planes) for name, planes in fields.items()}


def assert_close(fields: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert fields.keys() == expected.keys()
    for name, values in fields.items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=BOUND)


@pytest.mark.parametrize("task", ["depth", "flow", "amodal"])
async def test_equals_the_obvious_sampler(
    model: ServedModel, onnx: OnnxBackend, task: TaskName
) -> None:
    request = make_request(model, task, steps=7, members=3)
    async with running(Engine(onnx)) as engine:
        result = await engine.predict(request)
    expected = await obvious_fields(onnx.workers[0], request)
    assert_close(result.fields, expected)
    assert result.evaluations == 7 * 3 * len(request.components)
    assert min(values.std() for values in expected.values()) > 0.05, "the test picture is flat"


def mixed_requests(model: ServedModel) -> list[PredictionRequest]:
    tasks: tuple[TaskName, ...] = ("depth", "flow", "amodal")
    budgets = ((1, 1), (50, 2), (3, 7), (10, 3), (2, 20), (23, 1))
    return [
        make_request(model, task, steps=steps, members=members, seed=seed, picture=seed % 5)
        for seed, (task, (steps, members)) in enumerate(itertools.product(tasks, budgets * 2))
    ]


async def test_many_mixed_requests_together_answer_as_alone(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    requests = mixed_requests(model)
    async with running(Engine(onnx, EngineLimits(batch_rows=1, image_rows=1))) as engine:
        alone = [await engine.predict(request) for request in requests]
    recorder = ScriptedBackend(onnx, num_workers=2)
    async with running(Engine(recorder, EngineLimits(batch_rows=16), costs=WideCosts())) as engine:
        together = await asyncio.gather(*map(engine.predict, requests))
    for one, other in zip(alone, together, strict=True):
        assert_close(other.fields, one.fields)
    calls = [call.inputs for call in recorder.calls if "noisy" in call.inputs]
    assert any(len(set(i["timestep"])) > 3 and len(set(i["task"])) == 4 for i in calls)
    assert max(len(i["task"]) for i in calls) == 16
    assert sum(len(i["task"]) for i in calls) == sum(request.evaluations for request in requests)


async def test_a_smaller_ensemble_is_the_start_of_a_larger_one(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    async with running(Engine(onnx)) as engine:
        few = await engine.predict(make_request(model, members=2, seed=2**63 + 1))
        many = await engine.predict(make_request(model, members=5, seed=2**63 + 1))
        other = await engine.predict(make_request(model, members=2, seed=1))
    assert_close({"depth": many.fields["depth"][:2]}, few.fields)
    assert np.abs(other.fields["depth"] - few.fields["depth"]).max() > 10 * BOUND


async def test_a_component_alone_answers_as_with_the_others(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    whole = make_request(model, "amodal")
    async with running(Engine(onnx)) as engine:
        both = await engine.predict(whole)
        mask = await engine.predict(replace(whole, components=whole.components[:1]))
        appearance = await engine.predict(replace(whole, components=whole.components[1:]))
    assert mask.evaluations + appearance.evaluations == both.evaluations
    assert_close(both.fields, mask.fields | appearance.fields)


async def test_a_constant_prompt_is_made_and_types_are_as_declared(model: ServedModel) -> None:
    flow = model.artifact.served("flow")
    task = replace(flow, prompt="constant", prompt_value=-0.5)
    artifact = replace(model.artifact, timestep_dtype="float32", has_labels=False)
    request = replace(make_request(model, "flow"), task=task, artifact=artifact, prompt=None)
    backend = ScriptedBackend(AnalyticBackend([artifact]))
    async with running(Engine(backend)) as engine:
        await engine.predict(request)
    encode, denoise = backend.calls[0].inputs, backend.calls[1].inputs
    assert encode["prompt"].shape == (1, 3, 64, 64)
    assert (encode["prompt"] == -0.5).all()
    assert set(denoise) == {"noisy", "condition", "timestep"}
    assert denoise["timestep"].dtype == np.float32


async def test_inputs_agree_with_the_contract_of_the_exported_model(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    backend = ScriptedBackend(onnx)
    async with running(Engine(backend, EngineLimits(image_rows=3), costs=WideCosts())) as engine:
        await asyncio.gather(*(engine.predict(make_request(model, seed=s)) for s in range(4)))
    encodes = [call for call in backend.calls if call.model == "tiny_depth_encoder:1"]
    assert [call.rows for call in encodes] == [1, 3]  # the later ones waited and went together
    assert encodes[1].inputs["task"].tolist() == [2, 2, 2]
    decodes = [call for call in backend.calls if call.model == "tiny_decoder:1"]
    assert sum(call.rows for call in decodes) == 8
    assert max(call.rows for call in decodes) == 3


async def test_timings_add_up_and_every_call_is_counted(
    model: ServedModel, onnx: OnnxBackend
) -> None:
    ticks = itertools.count()
    seen: list[tuple[Stage, int, float]] = []
    changes: list[tuple[str, Condition]] = []

    class Observer:
        def model_call(self, worker: str, stage: Stage, rows: int, seconds: float) -> None:
            assert worker == "w0"
            seen.append((stage, rows, seconds))

        def call_failed(self, worker: str, stage: Stage) -> None:
            raise AssertionError(f"{worker} failed to {stage}")

        def worker_changed(self, name: str, condition: Condition) -> None:
            changes.append((name, condition))

    backend = ScriptedBackend(onnx, num_workers=1)
    engine = Engine(backend, clock=lambda: float(next(ticks)), observer=Observer())
    async with running(engine):
        result = await engine.predict(make_request(model, steps=3, members=2))
    timings = result.timings
    parts = (timings.queue_ms, timings.encode_ms, timings.denoise_ms, timings.decode_ms)
    assert min(parts) > 0
    assert sum(parts) <= 1e3 * next(ticks)
    assert [stage for stage, _, _ in seen if stage == "encode"] == ["encode"]
    assert changes == [("w0", "up")]
    stages = engine.stats().stages
    assert stages["denoise"].rows == 6
    for stage, totals in stages.items():
        of_stage = [(rows, seconds) for name, rows, seconds in seen if name == stage]
        assert totals.batches == len(of_stage)
        assert (totals.rows, totals.seconds) == tuple(map(sum, zip(*of_stage, strict=True)))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v", "sample"])
async def test_sampling_converges_to_the_distribution_of_the_data(
    model: ServedModel, prediction_type: PredictionType
) -> None:
    """With the exact denoiser, steps turn members into draws of N(picture, (sigma / scale)^2)."""
    schedule = replace(model.artifact.schedule, prediction_type=prediction_type)
    artifact = replace(model.artifact, schedule=schedule)
    sigma, scale = 0.5, artifact.latent.scale
    errors = []
    async with running(Engine(AnalyticBackend([artifact], sigma=sigma))) as engine:
        for steps in (5, 50, 200):
            request = make_request(model, "amodal", steps=steps, members=20, components=None)
            result = await engine.predict(replace(request, artifact=artifact))
            colours = np.stack([result.fields[name] for name in ("red", "green", "blue")])
            latent = colours[..., ::8, ::8]  # nearest resampling: each is one latent pixel
            residual = latent - request.image[:, None, ::8, ::8]
            assert abs(residual.mean()) < 0.06  # 3840 draws of deviation 1: 4 standard errors
            errors.append(abs(residual.std() * scale / sigma - 1))
    assert errors[0] > 0.3 > errors[1] > errors[2]
    assert errors[2] < 0.04


async def test_one_step_gives_the_posterior_mean(model: ServedModel) -> None:
    sigma, scale = 0.3, model.artifact.latent.scale
    async with running(Engine(AnalyticBackend([model.artifact], sigma=sigma))) as engine:
        request = make_request(model, "amodal", steps=1, members=1, seed=5)
        fields = (await engine.predict(request)).fields
    alpha_bar = model.artifact.schedule.build().alpha_bar[999]
    mean = scale * request.image[:, ::8, ::8]
    x_t = draw_noise(5, 0, 1, (4, 8, 8))[:3]
    precision = 1 / sigma**2 + alpha_bar / (1 - alpha_bar)  # Bayes' rule for two Gaussians
    expected = (mean / sigma**2 + np.sqrt(alpha_bar) * x_t / (1 - alpha_bar)) / precision
    colours = np.stack([fields[name][0, ::8, ::8] for name in ("red", "green", "blue")])
    np.testing.assert_allclose(colours, expected / scale, atol=1e-5)
