"""The composition root: the only place where settings become parts and parts become a service."""

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.api.catalog import Catalog
from service.api.images import ImageLimits
from service.api.limits import Admission, AdmissionLimits
from service.api.observe import ObserveRequests
from service.api.predict import PredictionLimits, Predictor
from service.api.problems import install_problems
from service.api.routes import TransferLimits, operation_routes, prediction_routes
from service.api.stopping import AnswerWhenCancelled
from service.backends.analytic import AnalyticBackend
from service.backends.base import Backend, Signature, model_tensors
from service.backends.onnx import OnnxBackend, available_devices
from service.backends.repository import ServedModel, load_repository
from service.engine.engine import Engine
from service.engine.work import EngineLimits
from service.metrics import Metrics
from service.settings import Settings

_SEED_BITS = 53  # what JSON readers that know only doubles still hold exactly


def create_app(settings: Settings) -> FastAPI:
    """Load the models and wire the service.

    Raises RepositoryError or BackendError for models that cannot be served, ValueError for a
    default model that is not there.
    """
    models = list(load_repository(settings.model_repo).values())
    catalog = Catalog((model.artifact for model in models), settings.default_model)
    metrics = Metrics()
    backend = _backend(settings, models)
    engine = Engine(
        backend,
        EngineLimits(
            batch_rows=settings.max_batch_rows,
            image_rows=settings.max_image_rows,
            requests=settings.max_concurrent_requests,
            evaluations=settings.max_queued_evaluations,
            watchdog_s=settings.watchdog_s,
            outage_s=settings.outage_s,
        ),
        clock=time.monotonic,
        observer=metrics,
    )
    metrics.watch_queue(lambda: engine.stats().evaluations, engine.drain_s)
    admission = Admission(
        AdmissionLimits(settings.max_concurrent_requests, settings.max_buffered_bytes),
        metrics,
        engine.drain_s,
    )
    threads = ThreadPoolExecutor(settings.image_threads, thread_name_prefix="images")
    predictor = Predictor(
        engine,
        catalog,
        metrics,
        PredictionLimits(
            ImageLimits(settings.max_pixels, settings.min_side, settings.max_side),
            settings.max_answer_bytes,
        ),
        threads,
        draw_seed=lambda: secrets.randbits(_SEED_BITS),
        clock=time.monotonic,
    )
    networks = {
        name: signature
        for model in models
        for name, signature in model_tensors(model.artifact).items()
    }
    life = _Life(engine, networks, backend, threads)
    app: FastAPI = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,  # a redirect would cost a client its whole upload
        title="Percept",
        version=_version(),
        description="Depth, optical flow and amodal completion; every call chooses its compute.",
        lifespan=life.lifespan,
    )
    transfer_limits = TransferLimits(
        settings.max_upload_bytes, settings.upload_timeout_s, settings.answer_timeout_s
    )
    app.include_router(prediction_routes(predictor, admission, transfer_limits))
    app.include_router(
        operation_routes(catalog, metrics, ready=lambda: life.ready and not engine.is_out)
    )
    app.add_middleware(AnswerWhenCancelled)
    app.add_middleware(ObserveRequests, metrics=metrics)  # the last is the outermost: it sees all
    install_problems(app)
    return app


class _Life:
    """Starts and stops the parts that run, in order."""

    def __init__(
        self,
        engine: Engine,
        networks: Mapping[str, Signature],
        backend: Backend,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._engine = engine
        self._networks = networks
        self._backend = backend
        self._threads = threads
        self.ready = False

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        await self._engine.start(self._networks)
        self.ready = True
        try:
            yield
        finally:
            self.ready = False
            await self._engine.stop()
            await self._backend.close()
            self._threads.shutdown(cancel_futures=True)


def _backend(settings: Settings, models: list[ServedModel]) -> Backend:
    match settings.backend:
        case "onnx":
            devices = available_devices()
            if settings.devices != "auto":
                devices = tuple(name.strip() for name in settings.devices.split(","))
            threads = settings.threads or None
            return OnnxBackend(
                models, devices=devices, instances=settings.instances, threads=threads
            )
        case "analytic":
            artifacts = (model.artifact for model in models)
            return AnalyticBackend(artifacts, num_workers=settings.instances)


def _version() -> str:
    try:
        return version("percept")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"
