"""The HTTP surface: one endpoint per row of the task table, and what operators ask."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from service.api import docs
from service.api.catalog import Catalog
from service.api.delivery import Delivery
from service.api.hangup import unless_hung_up
from service.api.headers import prediction_headers
from service.api.job_routes import accepted
from service.api.jobs import JobDesk, wants_job
from service.api.knobs import Knobs, parse_knobs
from service.api.limits import Admission
from service.api.model_control import ModelControl
from service.api.predict import Predictor
from service.api.problems import render_error
from service.api.schemas import Health, ModelData, ModelList, VersionList
from service.api.terms import read_call
from service.api.uploads import DRAIN_S, LATE_DRAIN_S, Body, FormLimits, read_form
from service.api.validators import has_already, not_modified
from service.core.artifact import Artifact
from service.core.tasks import TASKS, Task
from service.errors import InvalidField, NotReady, PerceptError, TooLate, UploadTooSlow
from service.metrics import Metrics

_MAX_LENGTH_DIGITS = 20


@dataclass(frozen=True)
class TransferLimits:
    """How large one uploaded file may be; how long a form may take to come, an answer to go."""

    max_upload_bytes: int
    upload_timeout_s: float
    answer_timeout_s: float

    def form(self, task: Task) -> FormLimits:
        """Return the limits of a task's form."""
        return FormLimits(
            texts=frozenset(Knobs.model_fields),
            files=frozenset(task.images),
            max_file_bytes=self.max_upload_bytes,
            timeout_s=self.upload_timeout_s,
        )


def prediction_routes(
    predictor: Predictor,
    catalog: Catalog,
    admission: Admission,
    limits: TransferLimits,
    desk: JobDesk,
) -> APIRouter:
    """Return `POST /{task}` for every task."""
    router = APIRouter(tags=["predictions"], dependencies=docs.KEY_SCHEMES)
    for task in TASKS.values():
        router.add_api_route(
            f"/{task.name}",
            _prediction_endpoint(task, predictor, admission, limits, desk),
            methods=["POST"],
            name=task.name,
            summary=docs.summary(task),
            description=docs.description(task, catalog),
            response_class=Response,
            responses=docs.responses(task),
            openapi_extra={"requestBody": docs.request_body(task), "parameters": docs.headers()},
        )
    return router


def operation_routes(catalog: Catalog, metrics: Metrics, ready: Callable[[], bool]) -> APIRouter:
    """Return the model list, health, readiness and metrics."""
    router = APIRouter(tags=["operation"])

    @router.get(
        "/models",
        summary="Which models are served, and what each can do",
        responses={401: docs.problem(401)},
    )
    async def models() -> ModelList:
        return ModelList(
            default=None if catalog.default is None else catalog.default.key,
            models=[ModelData.of(artifact) for artifact in catalog.artifacts.values()],
        )

    @router.get("/healthz", summary="Whether the process is alive")
    async def healthz() -> Health:
        return Health(status="ok")

    @router.get(
        "/readyz",
        summary="Whether predictions are answered now",
        responses={503: docs.problem(503)},
    )
    async def readyz() -> Health:
        if not ready():
            raise NotReady("No worker or no model is usable", retry_after_s=1)
        return Health(status="ok")

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=PlainTextResponse,
        responses={401: docs.problem(401)},
    )
    async def exposition() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/", include_in_schema=False)
    async def home() -> Response:
        return RedirectResponse("docs")

    return router


def model_routes(control: ModelControl, may_control: Callable[[Request], None]) -> APIRouter:
    """Return what loads and unloads models; `may_control` raises for requests that may not."""
    router = APIRouter(tags=["operation"], dependencies=[Depends(may_control)])
    problems: dict[int | str, dict[str, object]] = {
        status: docs.problem(status) for status in (401, 403, 404, 502)
    }

    @router.post(
        "/models/{name}/load",
        summary="Read a model again: new versions serve new requests",
        responses=problems,
    )
    async def load(name: str) -> VersionList:
        return _versions(name, await control.load(name))

    @router.post(
        "/models/{name}/unload",
        summary="Serve a model no more, when its last request is answered",
        responses=problems,
    )
    async def unload(name: str) -> VersionList:
        return _versions(name, await control.unload(name))

    return router


def _versions(name: str, artifacts: Iterable[Artifact]) -> VersionList:
    return VersionList(
        name=name, versions=sorted((artifact.version for artifact in artifacts), reverse=True)
    )


def _prediction_endpoint(
    task: Task,
    predictor: Predictor,
    admission: Admission,
    limits: TransferLimits,
    desk: JobDesk,
) -> Callable[[Request], Awaitable[Response]]:
    form_limits = limits.form(task)

    async def endpoint(request: Request) -> Response:
        arrived = predictor.clock()
        body = Body(request)
        try:
            with ExitStack() as held:
                _refuse_query(request)
                call = read_call(request, arrived)
                async with call.until_deadline(predictor.clock):
                    announced = _announced_bytes(request, form_limits)
                    place = held.enter_context(admission.enter(announced, call.caller))
                    form = await read_form(request, body, form_limits)
                    if wants_job(request):
                        return accepted(await desk.submit(request, task, form, call))
                    knobs = parse_knobs(form.texts, task)
                    work = predictor.predict(task, knobs, form.files, call)
                    served = await unless_hung_up(work, request.receive)
                headers = prediction_headers(served)
                if served.etag is not None and has_already(request, served.etag):
                    return not_modified(headers)
                admission.resize(place, len(served.rendered.content))
                # The place is held until the answer is sent: nobody may pile up what nobody reads.
                return Delivery(
                    served.rendered.content,
                    media_type=served.rendered.media_type,
                    headers=headers,
                    timeout_s=limits.answer_timeout_s,
                    delivered=held.pop_all().close,
                )
        except PerceptError as error:
            # The place is free again: discarding what still arrives holds up nobody.
            late = isinstance(error, TooLate | UploadTooSlow)
            await body.drain(LATE_DRAIN_S if late else DRAIN_S)
            return render_error(error, close=not body.complete)

    return endpoint


def _refuse_query(request: Request) -> None:
    """Raise InvalidField for knobs in the address, which would otherwise be passed over."""
    for name in request.query_params:
        raise InvalidField(
            f"{name} stands in the address", field=name, limit="fields of the form only"
        )


def _announced_bytes(request: Request, limits: FormLimits) -> int:
    """Return the bytes an upload may turn out to have."""
    announced = request.headers.get("content-length", "")
    is_number = announced.isdecimal() and len(announced) <= _MAX_LENGTH_DIGITS
    known = int(announced) if is_number else limits.max_body_bytes
    return min(known, limits.max_body_bytes)
