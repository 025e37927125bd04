"""The composition root: the only place where settings become parts and parts become a service."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.api.catalog import Catalog
from service.api.cors import allow_origins
from service.api.decoders import DecoderLimits, DecoderPool
from service.api.finish import Served
from service.api.images import ImageLimits
from service.api.job_routes import job_routes
from service.api.jobs import JobDesk
from service.api.keys import load_keys, stored_digest
from service.api.limits import MOST_BEYOND, Admission, AdmissionLimits
from service.api.model_control import ModelControl
from service.api.observe import ObserveRequests
from service.api.predict import PredictionLimits, Predictor
from service.api.problems import install_problems
from service.api.quotas import Quotas, redis_store
from service.api.request_ids import NameRequests
from service.api.routes import TransferLimits, model_routes, operation_routes, prediction_routes
from service.api.security import Access, GuardRequests, require_admin
from service.api.stopping import AnswerWhenCancelled
from service.api.tracing import TraceRequests, Tracing
from service.backends.addresses import parse_addresses
from service.backends.analytic import AnalyticBackend
from service.backends.base import Backend, BackendError
from service.backends.fleet import Fleet
from service.backends.repository import load_repository
from service.cache import AnswerCache
from service.engine.engine import Engine
from service.engine.work import EngineLimits
from service.jobs.census import Census
from service.jobs.runner import JobRunner, RunnerTerms
from service.jobs.webhooks import Webhooks, WebhookTerms
from service.metrics import Metrics
from service.settings import Settings
from service.stores.base import Store, StoreLimits, StoreStats
from service.stores.memory import MemoryStore

_WEBHOOKS_GRACE_S = 1.0  # jobs had theirs before
_FIELDS_BYTES = 2**20  # of a job's form, beside its files
_SEED_BITS = 53  # what JSON readers that know only doubles still hold exactly


def create_app(settings: Settings) -> FastAPI:
    """Load the models and wire the service.

    Raises RepositoryError or BackendError for models that cannot be served, ValueError for settings
    that contradict each other and for a default model that is not there.
    """
    backend = _backend(settings)
    catalog = Catalog(settings.default_model)
    catalog.show(backend.artifacts)
    if backend.artifacts and catalog.default is None:
        known = ", ".join(catalog.artifacts)
        raise ValueError(f"there is no model {settings.default_model!r}; there are {known}")
    metrics = Metrics()
    engine = Engine(
        backend,
        EngineLimits(
            batch_rows=settings.max_batch_rows,
            image_rows=settings.max_image_rows,
            requests=MOST_BEYOND * settings.max_concurrent_requests,  # admission is stricter
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
    access, quotas = _doors(settings)
    images = ImageLimits(settings.max_pixels, settings.min_side, settings.max_side)
    decoders = DecoderPool(
        DecoderLimits.of(
            settings.image_threads, settings.decode_timeout_s, images, settings.max_upload_bytes
        )
    )
    threads = ThreadPoolExecutor(settings.image_threads, thread_name_prefix="images")
    predictor = Predictor(
        engine,
        catalog,
        metrics,
        PredictionLimits(images, settings.max_answer_bytes),
        threads,
        draw_seed=lambda: secrets.randbits(_SEED_BITS),
        clock=time.monotonic,
        quotas=quotas,
        cache=_cache(settings, metrics),
        upload=decoders.upload,
    )
    control = ModelControl(catalog, engine, backend)
    webhooks = _webhooks(settings)
    desk = JobDesk(_store(settings), predictor, quotas, webhooks)
    terms = RunnerTerms(max_running=settings.job_workers, lease_s=settings.job_lease_s)
    runner = JobRunner(desk.store, desk.answer, terms, desk.tell)
    tracing = _tracing(settings)
    life = _Life(
        control,
        runner,
        _census(desk.store, metrics),
        decoders,
        float(settings.shutdown_grace_s),
        closing=(
            *((partial(webhooks.close, _WEBHOOKS_GRACE_S),) if webhooks is not None else ()),
            desk.store.close,
            quotas.close,
            partial(asyncio.to_thread, decoders.close),  # a thread that waits for one is let go
            partial(asyncio.to_thread, threads.shutdown, cancel_futures=True),
            *((partial(asyncio.to_thread, tracing.close),) if tracing is not None else ()),
        ),
    )
    app: FastAPI = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,  # a redirect would cost a client its whole upload
        title="Percept",
        version=_version(),
        description="Depth, flow, amodal completion, normals; every call chooses its compute.",
        lifespan=life.lifespan,
    )
    transfer_limits = TransferLimits(
        settings.max_upload_bytes, settings.upload_timeout_s, settings.answer_timeout_s
    )
    app.state.stopping = life.stopping  # for whoever runs the server: set when the end has begun
    app.include_router(prediction_routes(predictor, catalog, admission, transfer_limits, desk))
    app.include_router(
        operation_routes(
            catalog,
            metrics,
            ready=lambda: life.ready and engine.has_worker and bool(catalog.artifacts),
        )
    )
    app.include_router(job_routes(desk, time.time, life.stopping))
    app.include_router(model_routes(control, require_admin))
    app.add_middleware(GuardRequests, access=access, quotas=quotas)
    app.add_middleware(AnswerWhenCancelled)
    allow_origins(app, settings.cors_origins)
    app.add_middleware(ObserveRequests, metrics=metrics)
    if tracing is not None:
        app.add_middleware(TraceRequests, tracing=tracing)
    # The last is the outermost: it sees all.
    app.add_middleware(NameRequests, log_requests=settings.log_format == "json")
    install_problems(app)
    return app


class _Life:
    """Starts and stops the parts that run, in order."""

    def __init__(
        self,
        control: ModelControl,
        runner: JobRunner,
        census: Census,
        decoders: DecoderPool,
        grace_s: float,
        closing: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        """`closing` are the ends of what else there is, after the models' and in this order."""
        self._control = control
        self._runner = runner
        self._census = census
        self._decoders = decoders
        self._grace_s = grace_s
        self._closing = closing
        self.stopping = asyncio.Event()
        self.ready = False

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as ends:  # the last that is named comes first
            for close in reversed(self._closing):
                ends.push_async_callback(close)
            ends.push_async_callback(self._control.close)
            self._decoders.warm_up()
            await self._control.open()
            self._runner.start()
            self._census.start()
            jobs_end = asyncio.get_running_loop().create_task(self._end_jobs())
            ends.push_async_callback(lambda: jobs_end)
            ends.callback(self.stopping.set)
            self.ready = True
            try:
                yield
            finally:
                self.ready = False

    async def _end_jobs(self) -> None:
        """Wait for the end, and then for jobs, as long as connections are waited for."""
        await self.stopping.wait()
        await self._runner.stop(self._grace_s)
        await self._census.stop()


def _doors(settings: Settings) -> tuple[Access, Quotas]:
    keys = None if settings.api_keys_file is None else load_keys(settings.api_keys_file)
    admin = None
    if settings.admin_key is not None:
        admin = stored_digest(settings.admin_key.get_secret_value())
    store = None if settings.redis_url is None or keys is None else redis_store(settings.redis_url)
    quotas = Quotas({} if keys is None else keys.by_caller, store, time.monotonic)
    return Access(keys, admin, settings.open_metrics), quotas


def _tracing(settings: Settings) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    try:
        from service.telemetry import OtelTracing, otlp_exporter
    except ImportError as error:
        raise ValueError("traces need an extra: pip install 'percept[telemetry]'") from error
    return OtelTracing(otlp_exporter(settings.otlp_endpoint), _version())


def _cache(settings: Settings, metrics: Metrics) -> AnswerCache[Served] | None:
    if not settings.cache_bytes:
        return None
    cache = AnswerCache[Served](
        settings.cache_bytes,
        settings.cache_age_s,
        size_of=lambda served: len(served.rendered.content),
        clock=time.monotonic,
    )
    metrics.watch_cache(lambda: cache.num_bytes)
    return cache


def _store(settings: Settings) -> Store:
    limits = StoreLimits(
        max_unfinished=settings.max_jobs,
        max_bytes=settings.max_job_bytes,
        max_input_bytes=2 * settings.max_upload_bytes + _FIELDS_BYTES,
        max_result_bytes=settings.max_answer_bytes,
        max_attempts=settings.job_attempts,
        keep_s=settings.job_keep_s,
    )
    if settings.redis_url is None:
        return MemoryStore(limits)
    try:
        from service.stores.redis import RedisPlace, RedisStore
    except ModuleNotFoundError as error:
        raise ValueError(
            "redis_url needs the redis client: pip install 'percept[redis]'"
        ) from error
    return RedisStore(RedisPlace(settings.redis_url, folder=settings.job_folder), limits)


def _census(store: Store, metrics: Metrics) -> Census:
    def tell(stats: StoreStats | None) -> None:
        if stats is None:
            metrics.jobs_counted(None, 0)
        else:
            metrics.jobs_counted(dict(stats.jobs.items()), stats.num_bytes)

    return Census(store, tell)


def _webhooks(settings: Settings) -> Webhooks | None:
    origins = frozenset(
        name.strip() for name in settings.webhook_origins.split(",") if name.strip()
    )
    if not origins:
        return None
    if settings.webhook_secret is None:
        raise ValueError("webhook_origins needs webhook_secret: calls are signed")
    return Webhooks(WebhookTerms(origins, settings.webhook_secret.get_secret_value().encode()))


def _backend(settings: Settings) -> Backend:
    return _BACKENDS[settings.backend](settings)


def _onnx(settings: Settings) -> Backend:
    from service.backends.onnx import OnnxBackend, available_devices

    devices = available_devices()
    if settings.devices != "auto":
        devices = tuple(name.strip() for name in settings.devices.split(","))
    return OnnxBackend(
        load_repository(settings.model_repo).values(),
        devices=devices,
        instances=settings.instances,
        threads=settings.threads or None,
    )


def _triton(settings: Settings) -> Backend:
    try:
        from service.backends.triton import TritonAccess, TritonServer
    except ModuleNotFoundError as error:
        raise BackendError(
            "the triton backend needs tritonclient: pip install 'percept[triton]'"
        ) from error
    token = settings.triton_token
    access = TritonAccess(
        tls=settings.triton_tls,
        ca_file=settings.triton_ca_file,
        cert_file=settings.triton_cert_file,
        key_file=settings.triton_key_file,
        token=None if token is None else token.get_secret_value(),
    )
    return Fleet(
        parse_addresses(settings.triton_urls),
        partial(TritonServer, access),
        refresh_s=settings.triton_refresh_s,
        heartbeat_s=settings.triton_heartbeat_s,
    )


def _analytic(settings: Settings) -> Backend:
    artifacts = [model.artifact for model in load_repository(settings.model_repo).values()]
    return AnalyticBackend(artifacts, num_workers=settings.instances)


# A runtime is imported by whoever chose it: a gateway before Triton needs no onnxruntime.
_BACKENDS: Mapping[str, Callable[[Settings], Backend]] = {
    "onnx": _onnx,
    "triton": _triton,
    "analytic": _analytic,
}


def _version() -> str:
    try:
        return version("percept")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"
