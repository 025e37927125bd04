"""How much of a saturated engine's time is spent in model calls, against the calls alone."""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product

import numpy as np

from service.backends.base import Worker
from service.backends.onnx import OnnxBackend
from service.backends.repository import ServedModel
from service.core.tensors import model_tensors
from service.engine.engine import Engine
from tests.benchmarks.request_level import Networks
from tests.benchmarks.ticks import depth_request

Call = tuple[str, Mapping[str, np.ndarray]]


class RecordingWorker:
    """Passes calls on to a worker, and keeps them and the time they took."""

    def __init__(self, inner: Worker) -> None:
        self._inner = inner
        self.name, self.device, self.max_calls = inner.name, inner.device, inner.max_calls
        self.calls: list[Call] = []
        self.seconds = 0.0

    def serves(self, network: str) -> bool:
        """See Worker.serves."""
        return self._inner.serves(network)

    async def run(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """See Worker.run."""
        self.calls.append((network, inputs))
        begun = time.perf_counter()
        try:
            return await self._inner.run(network, inputs)
        finally:
            self.seconds += time.perf_counter() - begun

    def take(self) -> tuple[list[Call], float]:
        """What was recorded since the last time."""
        taken = self.calls, self.seconds
        self.calls, self.seconds = [], 0.0
        return taken


class _Recorded:
    def __init__(self, workers: Sequence[RecordingWorker]) -> None:
        self.workers = tuple(workers)


@dataclass(frozen=True)
class Saturation:
    """Medians over the rounds of one measurement.

    `in_calls` is the share of the engine's wall time with a call under way, hand-over to the
    worker's thread included. `reached` is the time of the same calls back to back over the
    engine's. `rows` is a denoiser call's mean.
    """

    in_calls: float
    reached: float
    reached_by_round: tuple[float, ...]
    engine_s: float
    direct_s: float
    num_calls: int
    rows: float


async def measure_saturation(model: ServedModel, num_requests: int, rounds: int) -> Saturation:
    """Requests of mixed plans, all at once, then the very same calls without the engine."""
    backend = OnnxBackend([model])
    recorders = [RecordingWorker(worker) for worker in backend.workers]
    (recorder,) = recorders
    engine = Engine(_Recorded(recorders))
    await engine.start(model_tensors(model.artifact))
    networks = Networks(model)
    _back_to_back(networks, recorder.take()[0])  # warms both up
    plans = list(islice(cycle(product((1, 4, 10, 25), (1, 3, 5))), num_requests))
    shares, reached, walls, directs = [], [], [], []
    calls: list[Call] = []
    for number in range(rounds + 1):
        requests = [depth_request(model, *plan, seed) for seed, plan in enumerate(plans)]
        begun = time.perf_counter()
        await asyncio.gather(*(engine.predict(request) for request in requests))
        wall_s = time.perf_counter() - begun
        calls, in_calls_s = recorder.take()
        direct_s = _back_to_back(networks, calls)
        if number:  # the first round teaches the engine what batches are worth
            shares.append(in_calls_s / wall_s)
            reached.append(direct_s / wall_s)
            walls.append(wall_s)
            directs.append(direct_s)
    await engine.stop()
    await backend.close()
    steps = [len(i["noisy"]) for name, i in calls if name == model.artifact.denoiser]
    return Saturation(
        statistics.median(shares),
        statistics.median(reached),
        tuple(reached),
        statistics.median(walls),
        statistics.median(directs),
        len(calls),
        float(np.mean(steps)),
    )


def _back_to_back(networks: Networks, calls: Sequence[Call]) -> float:
    begun = time.perf_counter()
    for network, inputs in calls:
        networks.run(network, inputs)
    return time.perf_counter() - begun
