"""What OpenAPI says about the three predictions, taken from the task table and the form's model.

The forms are read by `service.api.uploads` while they arrive: FastAPI cannot know them by itself.
"""

from collections.abc import Mapping

from service.api.problems import MEDIA_TYPE, Problem
from service.api.render import JSON, media_type
from service.api.schemas import AmodalData, AnswerData, DepthData, FlowData, Knobs, choices
from service.core.tasks import Task, TaskName

Schema = dict[str, object]

_SUMMARIES: Mapping[TaskName, str] = {
    "depth": "How far is every pixel",
    "flow": "Where did every pixel go",
    "amodal": "What is the whole shape of a half-hidden object",
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
}
_HEADERS: Mapping[str, str] = {
    "X-Percept-Steps": "Denoising steps",
    "X-Percept-Ensemble": "Members",
    "X-Percept-Evaluations": "Denoiser rows that were evaluated",
    "X-Percept-Seed": "Seed: send it again for the same answer",
    "X-Percept-Model": "Model, name:version",
    "X-Percept-Uncertainty": "Mean spread of the members, when asked for",
    "X-Percept-Flow-Scale": "Length in px drawn in full colour; flow as color only",
    "Server-Timing": "queue, encode, denoise, decode, reduce, render in ms",
}
_PROBLEMS: Mapping[int, str] = {
    400: "The form cannot be parsed",
    408: "The upload took too long",
    413: "Too many bytes or pixels",
    415: "Not a form, or not an image that is read here",
    422: "A field is missing, unknown or wrong",
    429: "The queue is full; Retry-After says when to come back",
    502: "The model failed",
    503: "The server is starting or stopping",
}
_COME_BACK = (429, 503)  # with Retry-After


def summary(task: Task) -> str:
    """Return a task's one line."""
    return _SUMMARIES[task.name]


def description(task: Task) -> str:
    """Return a task's curl line."""
    files = " ".join(f"-F {name}=@{name}.jpg" for name in task.images)
    return f"```\ncurl {files} localhost:8000/{task.name} -o {task.name}.png\n```"


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
    return {200: success, **{status: problem(status) for status in _PROBLEMS}}


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
    if isinstance(alternatives, list) and isinstance(alternatives[0], dict):
        kept = {**alternatives[0], **kept}
    if kept.get("default", "") is None:
        del kept["default"]
    return kept
