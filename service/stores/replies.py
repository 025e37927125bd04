"""What the scripts in Redis answer, as dataclasses; and the JSON that is kept there."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from service.stores.base import (
    FINISHED,
    UNFINISHED,
    JobEvent,
    JobRecord,
    JobResult,
    JobState,
    Problem,
    StoreStats,
)

Reply = Any  # nested lists of bytes and int, as the protocol has them

_STATES: dict[bytes, JobState] = {state.encode(): state for state in (*UNFINISHED, *FINISHED)}


@dataclass(frozen=True)
class EventBatch:
    """Events of a job, of `num_events` that there were."""

    events: tuple[JobEvent, ...]
    num_events: int
    is_finished: bool


def dump_labels(labels: Mapping[str, str]) -> str:
    return json.dumps(dict(labels), separators=(",", ":"))


def dump_problem(problem: Problem) -> str:
    return json.dumps(asdict(problem), separators=(",", ":"))


def read_record(reply: Reply) -> JobRecord | None:
    """Record from `[fields of the hash, jobs ahead]`; None where there is no such job."""
    fields = _pairs(reply[0])
    if b"id" not in fields:
        return None
    state = _STATES[fields[b"state"]]
    problem = fields.get(b"problem")
    labels = fields.get(b"result")
    return JobRecord(
        id=fields[b"id"].decode(),
        state=state,
        labels=json.loads(fields[b"labels"]),
        created_s=int(fields[b"created"]) / 1000,
        started_s=_seconds(fields.get(b"started")),
        finished_s=_seconds(fields.get(b"finished")),
        attempt=int(fields[b"attempt"]),
        fence=int(fields[b"fence"]),
        done=int(fields[b"done"]),
        total=int(fields[b"total"]),
        problem=None if problem is None else Problem(**json.loads(problem)),
        result_labels=None if labels is None else json.loads(labels),
        ahead=int(reply[1]) if state == "queued" else None,
    )


def read_result(labels: bytes, data: bytes) -> JobResult:
    return JobResult(data, json.loads(labels))


def read_events(reply: Reply) -> EventBatch | None:
    """Events from `[number of events, state, entries, [preview's event, preview]]`."""
    if not reply:
        return None
    num_events, state, entries, (preview_event, preview) = reply
    previews = {} if preview_event is None else {int(preview_event): preview}
    events = (_event(entry, previews) for entry in entries)
    return EventBatch(tuple(events), int(num_events), _STATES[state] in FINISHED)


def read_stats(reply: Reply) -> StoreStats:
    """Counts from `[[count of each state], bytes]`."""
    counts, num_bytes = reply
    states = (*UNFINISHED, *FINISHED)
    return StoreStats(dict(zip(states, map(int, counts), strict=True)), int(num_bytes))


def _event(entry: Reply, previews: Mapping[int, bytes]) -> JobEvent:
    number = int(entry[0].partition(b"-")[0])
    fields = _pairs(entry[1])
    return JobEvent(
        id=number,
        at_s=int(fields[b"at"]) / 1000,
        state=_STATES[fields[b"state"]],
        attempt=int(fields[b"attempt"]),
        done=int(fields[b"done"]),
        total=int(fields[b"total"]),
        preview=previews.get(number, b""),
    )


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _seconds(milliseconds: bytes | None) -> float | None:
    return None if milliseconds is None else int(milliseconds) / 1000
