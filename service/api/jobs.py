"""Asynchronous calls: what is kept of one, and how a kept one is answered.

A job holds the files and fields of its form, with the model's version and the seed that were chosen
when it came: whichever server runs it, and however often, the answer is the same.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import Request

from service.api.finish import Served
from service.api.headers import prediction_headers
from service.api.keys import is_key
from service.api.knobs import Knobs, parse_knobs
from service.api.predict import Course, Predictor
from service.api.quotas import Quotas
from service.api.terms import CALLBACK, DEADLINE, IDEMPOTENCY_KEY, Call
from service.api.uploads import Form
from service.core.tasks import TASKS, Task
from service.engine.request import PRIORITIES
from service.errors import InvalidField, NotFound, TooBusy, TooLarge, Unavailable
from service.jobs.parcel import Parcel, fingerprint, pack, unpack
from service.jobs.webhooks import Webhooks
from service.stores.base import Claim, JobRecord, JobResult, NewJob, Progress, Store, Submission
from service.stores.errors import (
    IdempotencyConflict,
    JobTooLarge,
    NoSuchJob,
    StoreFull,
    StoreUnavailable,
)

MEDIA_TYPE = "Content-Type"  # among a result's labels, which are its headers

_KEY = re.compile(r"[!-~]{1,255}")  # printable ASCII
_COME_BACK_S = 5
# Labels of a job; those of its parcel stand beside the form's fields, which have no such names.
TASK, MODEL, OWNER, _CALLER, _PRIORITY, _SEED, _CALLBACK = (
    "job-task",
    "job-model",
    "job-owner",
    "job-caller",
    "job-priority",
    "job-seed",
    "job-callback",
)


def wants_job(request: Request) -> bool:
    """Whether a client prefers an answer that it can fetch later (RFC 7240)."""
    preferences = ",".join(request.headers.getlist("prefer")).split(",")
    return any(p.partition(";")[0].strip().lower() == "respond-async" for p in preferences)


@contextmanager
def store_failures() -> Iterator[None]:
    """Raise the table's errors in the stead of the store's."""
    try:
        yield
    except NoSuchJob as error:
        raise NotFound("There is no such job, or it has expired") from error
    except IdempotencyConflict as error:
        raise InvalidField(
            "This key was used with a different request", field=IDEMPOTENCY_KEY, limit="a new key"
        ) from error
    except JobTooLarge as error:
        raise TooLarge(str(error), limit=f"{error.limit} bytes") from error
    except StoreFull as error:
        raise TooBusy(
            f"No more jobs can be kept now: {error}", retry_after_s=_COME_BACK_S
        ) from error
    except StoreUnavailable as error:
        raise Unavailable("Jobs cannot be kept at present", retry_after_s=_COME_BACK_S) from error


class JobDesk:
    """Takes jobs in, answers them, and shows them to whoever brought them."""

    def __init__(
        self, store: Store, predictor: Predictor, quotas: Quotas, webhooks: Webhooks | None
    ) -> None:
        self.store = store
        self._predictor = predictor
        self._quotas = quotas
        self._webhooks = webhooks

    async def submit(self, request: Request, task: Task, form: Form, call: Call) -> Submission:
        """Keep a request that can be answered; raises the errors of the table for any other."""
        if call.deadline is not None:
            raise InvalidField(
                "A job has no deadline", field=DEADLINE, limit="calls without respond-async"
            )
        key, callback = _idempotency_key(request), self._callback(request)
        knobs = parse_knobs(form.texts, task)
        checked = await self._predictor.check(task, knobs, form.files, call)
        called_back = {} if callback is None else {_CALLBACK: callback}
        asked = {**form.texts, TASK: task.name, _PRIORITY: call.priority, **called_back}
        chosen = {**asked, "model": checked.model, _SEED: str(checked.seed)}
        job = NewJob(
            input=pack(Parcel(chosen, form.files)),
            labels={
                TASK: task.name,
                MODEL: checked.model,
                OWNER: _owner(call.caller),
                _CALLER: call.caller,
                **called_back,
            },
            evaluations=checked.evaluations,
            idempotency_key=None if key is None else _scoped(key, call.caller),
            # of what was asked for: seeds are drawn anew for every submission
            fingerprint=fingerprint(pack(Parcel(asked, form.files))),
        )
        await self._quotas.charge(call.caller, checked.evaluations)
        submission = None
        try:
            with store_failures():
                submission = await self.store.submit(job)
        finally:
            if submission is None or not submission.is_new:
                await self._quotas.give_back(call.caller, checked.evaluations)
        return submission

    async def answer(self, claim: Claim, report: Callable[[Progress], None]) -> JobResult:
        """Answer a job that was claimed; see JobRunner."""
        parcel = unpack(claim.input)
        kept = parcel.fields
        task = next(task for task in TASKS.values() if task.name == kept[TASK])
        priority = next(priority for priority in PRIORITIES if priority == kept[_PRIORITY])
        texts = {name: text for name, text in kept.items() if name in Knobs.model_fields}
        knobs = parse_knobs(texts, task)
        call = Call(self._predictor.clock(), claim.job.labels[_CALLER], priority)
        course = Course(
            int(kept[_SEED]), lambda done, total, shown: report(Progress(done, total, shown))
        )
        served = await self._predictor.predict(task, knobs, parcel.files, call, course)
        return _result(served)

    async def show(self, job_id: str, caller: str) -> JobRecord:
        """Return a job of this caller; that of another key is none. Raises NotFound, Unavailable.

        Where there are no keys whoever knows its id may see it: addresses change under way.
        """
        with store_failures():
            job = await self.store.get(job_id)
        if job.labels[OWNER] != _owner(caller):
            raise NotFound("There is no such job, or it has expired")
        return job

    def tell(self, job: JobRecord) -> None:
        """Call back whoever asked for it when a job has ended."""
        callback = job.labels.get(_CALLBACK)
        if callback is not None and self._webhooks is not None:
            self._webhooks.tell(callback, job)

    def _callback(self, request: Request) -> str | None:
        url = request.headers.get(CALLBACK)
        if url is None:
            return None
        if self._webhooks is None:
            raise InvalidField("Nobody is called back here", field=CALLBACK, limit="no callback")
        try:
            self._webhooks.check(url)
        except InvalidField as error:
            raise InvalidField(
                error.detail, field=CALLBACK, limit="origins that are listed"
            ) from error
        return url


def _result(served: Served) -> JobResult:
    headers = prediction_headers(served)
    return JobResult(served.rendered.content, {**headers, MEDIA_TYPE: served.rendered.media_type})


def _owner(caller: str) -> str:
    return caller if is_key(caller) else ""


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist(IDEMPOTENCY_KEY)
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise InvalidField(
            "The idempotency key cannot be used",
            field=IDEMPOTENCY_KEY,
            limit="one, of 1 to 255 printable ASCII characters",
        )
    return keys[0]


def _scoped(key: str, caller: str) -> str:
    """Callers' keys do not meet, whatever characters are in them."""
    return hashlib.sha256(json.dumps([caller, key]).encode()).hexdigest()
