"""Models whose latents follow their input: rows of equal shape share calls, costs go by shape."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from service.backends.analytic import AnalyticBackend
from service.core.artifact import Artifact, InputGrid, LongestEdge
from service.engine.costs import CostTable
from service.engine.engine import Engine
from service.engine.forecast import Forecast
from service.engine.groups import Network
from service.engine.pool import Pool
from service.engine.request import Plan, PredictionRequest
from tests.support.artifacts import small_artifact

WIDE, TALL = (48, 64), (64, 40)


def shaped_artifact(start: Literal["noise", "zeros"] = "noise") -> Artifact:
    artifact = small_artifact()
    size = LongestEdge(64, 8)
    return replace(
        artifact,
        schedule=replace(artifact.schedule, start=start),
        latent=replace(artifact.latent, size=InputGrid(8)),
        encoders=tuple(replace(encoder, size=size) for encoder in artifact.encoders),
    )


def request(artifact: Artifact, size: tuple[int, int], seed: int = 0) -> PredictionRequest:
    task = artifact.served("depth")
    picture = np.random.default_rng(seed).uniform(-1, 1, (3, *size)).astype(np.float32)
    plan = Plan(2, 3, seed)
    return PredictionRequest(artifact.key, artifact, task, picture, None, plan, task.components)


class Recorded(AnalyticBackend):
    """Remembers the shapes of its calls."""

    shapes: list[tuple[int, ...]]

    def answer(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        self.shapes = [*getattr(self, "shapes", []), next(iter(inputs.values())).shape]
        return super().answer(network, inputs)


async def test_requests_of_several_shapes_are_answered_as_if_alone():
    artifact = shaped_artifact()
    wanted = [request(artifact, size, seed) for seed, size in enumerate([WIDE, TALL, WIDE, TALL])]
    backend = Recorded([artifact])
    engine = Engine(backend)
    await engine.start()
    together = await asyncio.gather(*map(engine.predict, wanted))
    assert max(rows for rows, *_ in backend.shapes) > 1
    alone = [await engine.predict(one) for one in wanted]
    await engine.stop()
    for one, mixed, single in zip(wanted, together, alone, strict=True):
        assert mixed.fields["depth"].shape == (3, *one.image.shape[1:])
        np.testing.assert_allclose(mixed.fields["depth"], single.fields["depth"], atol=1e-6)


async def test_a_deterministic_start_gives_equal_members():
    artifact = shaped_artifact(start="zeros")
    engine = Engine(AnalyticBackend([artifact]))
    await engine.start()
    result = await engine.predict(request(artifact, WIDE))
    await engine.stop()
    members = result.fields["depth"]
    np.testing.assert_array_equal(members[0], members[1])
    np.testing.assert_array_equal(members[0], members[2])


def test_inputs_of_another_rule_are_refused():
    with pytest.raises(ValueError, match="LongestEdge"):
        request(shaped_artifact(), (48, 72))
    with pytest.raises(ValueError, match="FixedSize"):
        request(small_artifact(), WIDE)


def test_a_new_size_is_guessed_by_its_pixels_until_it_is_called():
    costs = CostTable()
    pool = Pool(AnalyticBackend([small_artifact()]).workers)
    forecast = Forecast(costs, pool)
    small, large = Network("net", (4, 8, 8)), Network("net", (4, 16, 8))
    forecast.familiarise([large])
    assert costs.seconds("analytic", large, 1) is None  # nothing to guess from
    for rows, seconds in ((1, 1.0), (2, 1.5)):
        costs.observe("analytic", small, rows, seconds)
    forecast.familiarise([large, Network("other", (4, 16, 8))])
    assert costs.seconds("analytic", large, 2) == pytest.approx(3.0)
    assert costs.seconds("analytic", Network("other", (4, 16, 8)), 1) is None
    costs.observe("analytic", large, 1, 5.0)
    assert costs.seconds("analytic", large, 1) == pytest.approx(5.0)
    forecast.familiarise([large])
    assert costs.seconds("analytic", large, 1) == pytest.approx(5.0)
