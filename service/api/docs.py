"""What OpenAPI says about the predictions, taken from the task table and the form's model.

The forms are read by `service.api.uploads` while they arrive: FastAPI cannot know them by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import Security
from fastapi.security import APIKeyHeader, HTTPBearer

from service.api.catalog import Catalog
from service.api.knobs import Knobs, choices
from service.api.problems import MEDIA_TYPE, Problem
from service.api.rendered import JSON, media_type
from service.api.schemas import AmodalData, AnswerData, DepthData, FlowData, JobData, NormalsData
from service.api.terms import CALLBACK, DEADLINE, IDEMPOTENCY_KEY, MAX_DEADLINE_MS, PRIORITY
from service.core.tasks import Task, TaskName
from service.engine.request import PRIORITIES

Schema = dict[str, object]

# Said in the documentation alone: who comes in is decided at the door, before any route.
KEY_SCHEMES = (
    Security(HTTPBearer(auto_error=False, description="Where the server has keys")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
)

_SUMMARIES: Mapping[TaskName, str] = {
    "depth": "How far is every pixel",
    "flow": "Where did every pixel go",
    "amodal": "What is the whole shape of a half-hidden object",
    "normals": "Which way does every surface face",
}
_FILES: Mapping[str, str] = {
    "image": "The picture: JPEG, PNG, WebP, TIFF or BMP",
    "frame1": "The earlier picture",
    "frame2": "The later picture, of the same size",
    "mask": "Visible part of the object: above half in luminance, or in alpha where there is one",
}
_JSON_ANSWERS: Mapping[TaskName, type[AnswerData]] = {
    "depth": DepthData,
    "flow": FlowData,
    "amodal": AmodalData,
    "normals": NormalsData,
}
_HEADERS: Mapping[str, str] = {
    "X-Percept-Steps": "Denoising steps",
    "X-Percept-Ensemble": "Members",
    "X-Percept-Evaluations": "Denoiser rows that were evaluated",
    "X-Percept-Expected-Error": "Measured error of such steps and ensemble, in the model's metric",
    "X-Percept-Seed": "Seed: send it again for the same answer",
    "X-Percept-Model": "Model, name:version",
    "X-Percept-Uncertainty": "Mean spread of the members, when asked for",
    "X-Percept-Flow-Scale": "Length in px drawn in full colour; flow as color only",
    "X-Percept-Cache": "hit, miss, or off: without a seed, or where the clock may end the answer",
    "Age": "Seconds since the answer was made, for a hit",
    "ETag": "Changes with the answer's bytes; where a seed was given",
    "X-Request-Id": "The request's name in the log: the caller's own, where it sent one",
    "Server-Timing": "queue, encode, denoise, decode, reduce, render in ms",
}
_PROBLEMS: Mapping[int, str] = {
    400: "The form cannot be parsed",
    401: "The server has keys, and none that is known was shown",
    403: "A known key, but not for this; or nobody may do this here",
    404: "There is no such model",
    408: "The upload took too long",
    409: "The job has not ended yet; Retry-After says when it may have",
    410: "The job was cancelled",
    413: "Too many bytes or pixels",
    415: "Not a form, or not an image that is read here",
    422: "A field or header is missing, unknown or wrong, or a budget is too small",
    429: "The queue is full or a quota used up; Retry-After says when to come back",
    502: "The model failed",
    503: "The server is starting or stopping, has no worker, or cannot meet the deadline",
    504: "The deadline is over and the answer was not ready",
}
_OF_PREDICTIONS = (400, 401, 408, 413, 415, 422, 429, 502, 503, 504)
_COME_BACK = (409, 429, 503)  # with Retry-After


@dataclass(frozen=True)
class _Example:
    """What a call asks for, and how; `measured` if only a model with a calibration can do it."""

    what: str
    how: str = ""
    measured: bool = False


_EXAMPLES = (
    _Example("The model's own choice"),
    _Example(
        "The best measured answer for 20 denoiser evaluations", "-F budget_evals=20", measured=True
    ),
    _Example(
        "The best measured answer within two seconds, and none after three",
        f"-F budget_ms=2000 -H '{DEADLINE}: 3000'",
        measured=True,
    ),
    _Example("As good as is worth its cost", "-F quality=standard", measured=True),
    _Example(
        "Members until the answer hardly changes, behind more urgent calls",
        f"-F ensemble=auto -H '{PRIORITY}: low'",
    ),
)
_NO_MODEL = (
    "No model here does this: every call is answered 422. `python -m training.convert` adds a "
    "public one."
)


def summary(task: Task) -> str:
    """Return a task's one line."""
    return _SUMMARIES[task.name]


def description(task: Task, catalog: Catalog) -> str:
    """Return curl lines for a task: as it is, and with each way to say what it may cost.

    They are what the default model answers, else the first that does the task, by its name.
    """
    words = ["curl", *(f"-F {name}=@{name}.jpg" for name in task.images)]
    measured = True
    if catalog.artifacts:  # else they are yet to come, and these are the lines of most
        able = catalog.able(task)
        if not able:
            return _NO_MODEL
        if able[0] is not catalog.default:
            words.append(f"-F model={able[0].name}")
        measured = len(able[0].served(task.name).calibration) > 0
    lines = (
        f"# {example.what}\n"
        + " ".join([*words, *example.how.split(), f"localhost:8000/{task.name}"])
        + f" -o {task.name}.png"
        for example in _EXAMPLES
        if measured or not example.measured
    )
    return "```\n" + "\n".join(lines) + "\n```"


def headers() -> Sequence[Schema]:
    """Return the headers that a prediction understands, beside HTTP's own."""
    deadline = "Milliseconds from these headers on after which no answer is wanted: refused at "
    deadline += "once (503) where it cannot be met, given up (504) when it is over"
    priority = "Which calls go first; none waits for ever"
    rows: Sequence[tuple[str, str, Schema]] = (
        (DEADLINE, deadline, {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_DEADLINE_MS}),
        (PRIORITY, priority, {"type": "string", "enum": list(PRIORITIES), "default": "normal"}),
        ("Prefer", "`respond-async`: answer 202 at once, with a job", {"type": "string"}),
        (
            IDEMPOTENCY_KEY,
            "With respond-async: the same key with the same request is the same job",
            {"type": "string", "minLength": 1, "maxLength": 255},
        ),
        (
            CALLBACK,
            "With respond-async: a URL to tell when the job has ended, if its origin is listed",
            {"type": "string"},
        ),
        ("If-None-Match", "ETag of an answer that the client has", {"type": "string"}),
    )
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
        for name, text, schema in rows
    ]


def request_body(task: Task) -> Schema:
    """Return the form of a task."""
    knobs = Knobs.model_json_schema()["properties"]
    for name, values in choices(task).items():
        knobs[name] = {**_plain(knobs[name]), "type": "string", "enum": list(values)}
    knobs["output"]["default"] = task.default_output
    files: Schema = {
        name: {"type": "string", "format": "binary", "description": _FILES[name]}
        for name in task.images
    }
    schema: Schema = {
        "type": "object",
        "properties": {**files, **{name: _plain(knob) for name, knob in knobs.items()}},
        "required": list(task.images),
        "additionalProperties": False,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def responses(task: Task) -> dict[int | str, dict[str, object]]:
    """Return what a task answers, and every problem it can answer with."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    answer = _JSON_ANSWERS[task.name]
    kinds = {media_type(form) for form in task.outputs}
    content = dict.fromkeys(sorted(kinds - {JSON}), binary)  # FastAPI adds the model's JSON
    headers = {
        name: {"schema": {"type": "string"}, "description": text} for name, text in _HEADERS.items()
    }
    success: dict[str, object] = {
        "description": "The answer, in the form asked for",
        "model": answer,
        "content": content,
        "headers": headers,
    }
    kept: dict[str, object] = {
        "description": "With `Prefer: respond-async`: the call is a job, at `Location`",
        "model": JobData,
        "headers": {"Location": {"schema": {"type": "string"}, "description": "Path of the job"}},
    }
    unchanged: dict[str, object] = {
        "description": "The answer is the one that If-None-Match names; where a seed was given"
    }
    problems: dict[int | str, dict[str, object]] = {
        status: problem(status) for status in _OF_PREDICTIONS
    }
    return {200: success, 202: kept, 304: unchanged, **problems}


def problem(status: int) -> dict[str, object]:
    """Return what a problem of a status looks like."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    described: dict[str, object] = {"description": _PROBLEMS[status], "content": content}
    if status in _COME_BACK:
        header = {"schema": {"type": "integer"}, "description": "Seconds until a retry may succeed"}
        described["headers"] = {"Retry-After": header}
    return described


def _plain(knob: Schema) -> Schema:
    """Drop the null alternative: an optional form field is left out, never null."""
    alternatives = knob.get("anyOf")
    kept = {key: value for key, value in knob.items() if key not in ("anyOf", "title")}
    if isinstance(alternatives, list):
        given = [kind for kind in alternatives if kind != {"type": "null"}]
        kept = {**(given[0] if len(given) == 1 else {"anyOf": given}), **kept}
    if kept.get("default", "") is None:
        del kept["default"]
    return kept
