"""Jobs over HTTP: what has become of one, its answer, its course as Server-Sent Events, its end."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import JSONResponse, Response, StreamingResponse

from service.api import docs
from service.api.failures import whole_seconds
from service.api.jobs import MEDIA_TYPE, MODEL, TASK, JobDesk, store_failures
from service.api.problems import Problem, problem_response
from service.api.schemas import JobData
from service.api.terms import caller_of
from service.api.validators import has_already, not_modified
from service.errors import Gone, InvalidField, ModelFailed, NotFinished, NotFound
from service.stores.base import JobEvent, JobRecord, Submission
from service.stores.base import Problem as JobProblem
from service.stores.errors import StoreError

_KEEPALIVE_S = 15.0  # proxies take a silent connection for a dead one
_ASK_AGAIN_S = 1.0
_OUR_FAULT = 500
_MAX_EVENT_DIGITS = 15
_EVENT_STREAM = "text/event-stream"
LAST_EVENT = "Last-Event-ID"

Problems = dict[int | str, dict[str, object]]
_EVENTS: dict[str, object] = {
    "description": "`progress` with state, done, total and perhaps a preview; `end` is the last",
    "content": {_EVENT_STREAM: {"schema": {"type": "string"}}},
}


def accepted(submission: Submission) -> Response:
    """Return where to look for a job that was just submitted, or was before with the same key."""
    job = submission.job
    return JSONResponse(
        describe(job, None).model_dump(mode="json"),
        status_code=202,
        headers={
            "Location": f"/jobs/{job.id}",
            "Preference-Applied": "respond-async",
            "Cache-Control": "no-store",
        },
    )


def job_routes(desk: JobDesk, now_s: Callable[[], float], stopping: asyncio.Event) -> APIRouter:
    """Return `/jobs/...`; `now_s` is on the store's clock, `stopping` ends every event stream."""
    router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"], dependencies=docs.KEY_SCHEMES)
    unknown: Problems = {status: docs.problem(status) for status in (401, 404, 503)}

    @router.get("", summary="What has become of a job", responses=unknown)
    async def status(job_id: str, request: Request) -> JobData:
        return describe(await desk.show(job_id, caller_of(request)), now_s())

    @router.delete("", summary="Cancel a job that has not ended", responses=unknown)
    async def cancel(job_id: str, request: Request) -> JobData:
        await desk.show(job_id, caller_of(request))
        with store_failures():
            return describe(await desk.store.cancel(job_id), now_s())

    @router.get(
        "/result",
        summary="The answer of a job, as its call would have been answered at once",
        response_class=Response,
        responses={
            **unknown,
            304: {"description": "The answer is the one that If-None-Match names"},
            **{status: docs.problem(status) for status in (409, 410, 422, 502)},
        },
    )
    async def result(job_id: str, request: Request) -> Response:
        job = await desk.show(job_id, caller_of(request))
        _require_end(job, now_s())
        if job.problem is not None:
            return _failure(job.problem)
        with store_failures():
            kept = await desk.store.result(job_id)
        if kept is None:
            raise NotFound("There is no such job, or it has expired")
        headers = dict(kept.labels)
        if "ETag" in headers and has_already(request, headers["ETag"]):
            return not_modified(headers)
        return Response(kept.data, media_type=headers.pop(MEDIA_TYPE), headers=headers)

    @router.get(
        "/events",
        summary="The course of a job as Server-Sent Events, from `Last-Event-ID` on",
        response_class=Response,
        responses={**unknown, 200: _EVENTS, 422: docs.problem(422)},
    )
    async def events(job_id: str, request: Request) -> Response:
        after = _last_event(request)
        await desk.show(job_id, caller_of(request))
        stream = _stream(desk.store.events(job_id, after), stopping)
        # a proxy that buffered would keep the news until the end
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type=_EVENT_STREAM, headers=headers)

    return router


def describe(job: JobRecord, now_s: float | None) -> JobData:
    """Say what is known of a job, and when it may end if that can be told."""
    problem = None
    if job.problem is not None:
        problem = Problem(**asdict(job.problem))
    return JobData(
        id=job.id,
        state=job.state,
        task=job.labels[TASK],
        model=job.labels[MODEL],
        created=_moment(job.created_s),
        started=None if job.started_s is None else _moment(job.started_s),
        finished=None if job.finished_s is None else _moment(job.finished_s),
        done=job.done,
        total=job.total,
        eta_s=None if now_s is None else _eta_s(job, now_s),
        ahead=job.ahead,
        problem=problem,
        result=f"/jobs/{job.id}/result",
        events=f"/jobs/{job.id}/events",
    )


def _moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def _eta_s(job: JobRecord, now_s: float) -> float | None:
    """Seconds that the rest takes at the pace so far."""
    if job.state != "running" or job.started_s is None or not job.done:
        return None
    pace = max(0.0, now_s - job.started_s) / job.done
    return round(pace * (job.total - job.done), 3)


def _require_end(job: JobRecord, now_s: float) -> None:
    """Raise NotFinished for a job that goes on, Gone for one that was cancelled."""
    if not job.is_finished:
        wait_s = _eta_s(job, now_s) or _ASK_AGAIN_S
        raise NotFinished("The job has not ended yet", retry_after_s=whole_seconds(wait_s))
    if job.state == "cancelled":
        raise Gone("The job was cancelled")


def _failure(problem: JobProblem) -> Response:
    """Return why a job failed; a fault of a server is the failure of the one that is asked now."""
    status = max(problem.status, 400)
    if status == _OUR_FAULT:
        status = ModelFailed.status
    return problem_response(Problem(**{**asdict(problem), "status": status}), reason="job_failed")


def _last_event(request: Request) -> int:
    value = request.headers.get(LAST_EVENT, "").strip()
    if not value:
        return 0
    if not (value.isascii() and value.isdecimal() and len(value) <= _MAX_EVENT_DIGITS):
        raise InvalidField(
            f"{LAST_EVENT} is no event's", field=LAST_EVENT, limit="the id of an event"
        )
    return int(value)


async def _stream(events: AsyncIterator[JobEvent], stopping: asyncio.Event) -> AsyncIterator[bytes]:
    """Write events as they come, a comment when none does, and end with them or with the server.

    Whoever is cut off asks again from the last event that he has.
    """
    ended = asyncio.ensure_future(stopping.wait())
    following = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            await asyncio.wait(
                (following, ended), timeout=_KEEPALIVE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if ended.done():
                return
            if not following.done():
                yield KEEPALIVE_COMMENT
                continue
            event = following.result()
            if event is None:
                return
            yield _written(event)
            following = asyncio.ensure_future(anext(events, None))
    except StoreError:  # the answer has begun: all that can be said is its end
        return
    finally:
        for future in (ended, following):
            future.cancel()
        await asyncio.gather(ended, following, return_exceptions=True)


def _written(event: JobEvent) -> bytes:
    said: dict[str, object] = {
        "state": event.state,
        "attempt": event.attempt,
        "done": event.done,
        "total": event.total,
        "at": _moment(event.at_s).isoformat(),
    }
    if event.preview:
        said["preview"] = f"data:image/png;base64,{b64encode(event.preview).decode()}"
    name = "end" if event.is_last else "progress"
    return format_sse_event(data_str=json.dumps(said), event=name, id=str(event.id))
