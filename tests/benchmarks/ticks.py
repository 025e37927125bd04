"""What a tick costs beside the model call: the engine on workers that answer at once.

A tick is one denoiser call: choosing its rows, building its arrays, starting it, and moving the
rows on by its result. The cost is what further steps add to a run, so what requests cost once
(admission, noise, encoding, decoding) is left out. It is time of the processor: nothing waits here,
and other processes are not counted.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from service.backends.repository import ServedModel
from service.core.tensors import model_tensors
from service.engine.engine import Engine
from service.engine.groups import Group
from service.engine.request import Plan, PredictionRequest, Terms
from service.engine.scheduler import StepScheduler
from service.engine.work import EngineLimits
from tests.support.costs import WideCosts

_FEW_STEPS, _MANY_STEPS = 10, 60


class InstantWorker:
    """Gives zeros at once, the same array for every call of a size."""

    name = device = "instant"
    max_calls = 1

    def __init__(self, model: ServedModel) -> None:
        artifact = model.artifact
        encoder = artifact.encoder(artifact.served("depth").encoder)
        latent = artifact.latent.shape(encoder.size.example)
        self._shapes = dict.fromkeys(model_tensors(artifact), latent)
        self._shapes[artifact.network(encoder.model)] = (artifact.condition_channels, *latent[1:])
        self._shapes[artifact.network(artifact.decoder)] = (3, *encoder.size.example)
        self._zeros: dict[tuple[str, int], np.ndarray] = {}

    def serves(self, network: str) -> bool:
        """Whether it is one of the model's."""
        return network in self._shapes

    def output(self, model: str, rows: int) -> np.ndarray:
        """Zeros in the shape of a network's output."""
        if (model, rows) not in self._zeros:
            self._zeros[model, rows] = np.zeros((rows, *self._shapes[model]), dtype=np.float32)
        return self._zeros[model, rows]

    async def run(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """See Worker.run."""
        return self.output(network, len(next(iter(inputs.values()))))


class Workers:
    """A backend of given workers."""

    def __init__(self, workers: Sequence[InstantWorker]) -> None:
        self.workers = tuple(workers)

    async def close(self) -> None:
        """Nothing to let go of."""


def depth_request(
    model: ServedModel, steps: int, members: int, seed: int = 1, caller: str = ""
) -> PredictionRequest:
    """A request for depth of a picture of noise."""
    served = model.artifact.served("depth")
    encoder = model.artifact.encoder(served.encoder)
    return PredictionRequest(
        model=model.artifact.key,
        artifact=model.artifact,
        task=served,
        image=_picture(*encoder.size.example),
        prompt=None,
        plan=Plan(steps, members, seed),
        components=served.components,
        terms=Terms(caller=caller),
    )


@lru_cache
def _picture(height: int, width: int) -> np.ndarray:
    shape = (3, height, width)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


async def engine_tick_s(model: ServedModel, rows: int, rounds: int = 5) -> float:
    """Median processor seconds of a tick of so many rows, each a request's only member."""
    limits = EngineLimits(batch_rows=rows, image_rows=rows, requests=rows, evaluations=10**9)
    engine = Engine(Workers([InstantWorker(model)]), limits, costs=WideCosts())
    await engine.start()

    async def run(steps: int) -> tuple[float, int]:
        before = engine.stats().stages["denoise"].batches
        requests = [depth_request(model, steps, 1, seed) for seed in range(rows)]
        begun = time.process_time()
        await asyncio.gather(*(engine.predict(request) for request in requests))
        spent_s = time.process_time() - begun
        return spent_s, engine.stats().stages["denoise"].batches - before

    costs = []
    await run(_FEW_STEPS)
    for _ in range(rounds):
        few_s, few = await run(_FEW_STEPS)
        many_s, many = await run(_MANY_STEPS)
        costs.append((many_s - few_s) / (many - few))
    await engine.stop()
    return statistics.median(costs)


@dataclass
class _Row:
    owner: int


def scheduler_tick_s(rows: int, ticks: int = 200) -> float:
    """Median processor seconds of choosing rows of as many requests and putting them back."""
    scheduler: StepScheduler[_Row] = StepScheduler()
    group = Group("denoise", "m:1", "m_denoiser", (4, 16, 16))
    for owner in range(2 * rows):
        scheduler.admit(owner, Terms(caller=f"c{owner % 8}"))
        scheduler.add(group, [_Row(owner)])
    costs = []
    for _ in range(ticks):
        begun = time.process_time()
        batch = scheduler.next_batch(lambda _: rows)
        assert batch is not None
        scheduler.put_back(batch.rows)
        costs.append(time.process_time() - begun)
    return statistics.median(costs)
