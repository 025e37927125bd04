"""The prediction routes over an engine and a clock that do as a test says: no model, no wait."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from fastapi import FastAPI

from service.api.catalog import Catalog
from service.api.images import ImageLimits
from service.api.jobs import JobDesk
from service.api.limits import Admission, AdmissionLimits
from service.api.predict import PredictionLimits, Predictor
from service.api.problems import install_problems
from service.api.quotas import Quotas
from service.api.routes import TransferLimits, operation_routes, prediction_routes
from service.core.artifact import Artifact
from service.engine.engine import Engine
from service.engine.errors import EngineError
from service.engine.groups import Networks
from service.engine.planner import Pace
from service.engine.request import EngineResult, Follow, PredictionRequest, Terms, Timings
from service.metrics import Metrics
from service.stores.memory import MemoryStore
from tests.support.tiny_repository import IMAGE, tiny_artifact

FREE = Pace(0.0, (0.0,) * 20, (0.0,) * 20)


class Clock:
    """Says one time after another, the last one for ever."""

    def __init__(self, *times_s: float) -> None:
        self._times_s = list(times_s)

    def __call__(self) -> float:
        return self._times_s.pop(0) if len(self._times_s) > 1 else self._times_s[0]

    def jump(self, to_s: float) -> None:
        """Let it be another time from now on."""
        self._times_s = [to_s]


class ScriptedEngine(Engine):
    """Answers with noise of the seed, or fails with `error`, or never answers while `held`.

    `grown` is how many members of an adaptive plan it takes to converge.
    """

    def __init__(self) -> None:
        self.requests: list[PredictionRequest] = []
        self.arrived = asyncio.Event()
        self.paced: list[tuple[Networks, int, Terms]] = []
        self.now = FREE
        self.error: EngineError | None = None
        self.held = False
        self.num_cancelled = 0
        self.grown = 3

    def pace(self, networks: Networks, num_components: int, terms: Terms) -> Pace:
        """What the test set."""
        self.paced.append((networks, num_components, terms))
        return self.now

    async def predict(
        self, request: PredictionRequest, follow: Follow | None = None
    ) -> EngineResult:
        """Answer, fail, or wait to be cancelled."""
        self.requests.append(request)
        self.arrived.set()
        if self.error is not None:
            raise self.error
        if self.held:
            try:
                await asyncio.Event().wait()
            finally:
                self.num_cancelled += 1
        plan = request.plan
        members = plan.members if plan.tolerance is None else min(self.grown, plan.members)
        generator = np.random.default_rng(plan.seed)
        fields = {
            name: generator.uniform(-0.5, 0.5, (members, IMAGE, IMAGE)).astype(np.float32)
            for component in request.components
            for name in component.channels
        }
        evaluations = plan.steps * members * len(request.components)
        return EngineResult(fields, members, evaluations, Timings(0.0, 0.0, 0.0, 0.0))


class Desk:
    """An application without a model; `drain_s` is what its engine would predict."""

    def __init__(
        self, threads: ThreadPoolExecutor, artifacts: Sequence[Artifact] = (), max_requests: int = 8
    ) -> None:
        self.engine = ScriptedEngine()
        self.clock = Clock(0.0)
        self.drain_s = 0.0
        self.metrics = Metrics()
        catalog = Catalog()
        catalog.show(artifacts or [tiny_artifact("tiny", 1, {})])
        limits = AdmissionLimits(max_requests, 10**8)
        admission = Admission(limits, self.metrics, drain_s=lambda: self.drain_s)
        predictor = Predictor(
            self.engine,
            catalog,
            self.metrics,
            PredictionLimits(ImageLimits(10**7, 16, 10**4), 10**7),
            threads,
            draw_seed=lambda: 1,
            clock=lambda: self.clock(),
        )
        self.app = FastAPI()
        transfer = TransferLimits(10**7, upload_timeout_s=60.0, answer_timeout_s=60.0)
        jobs = JobDesk(MemoryStore(), predictor, Quotas({}, None, self.clock), None)
        self.app.include_router(prediction_routes(predictor, catalog, admission, transfer, jobs))
        self.app.include_router(operation_routes(catalog, self.metrics, ready=lambda: True))
        install_problems(self.app)

    def client(self) -> httpx.AsyncClient:
        """A client of this application; faults of ours are its 500s."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://percept")
