"""What the engine could not do, as errors of the table, each with when to come back."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

from service.api.terms import DEADLINE
from service.core.tasks import TaskName
from service.engine.errors import (
    DeadlineImpossible,
    DeadlineMissed,
    EngineBusy,
    EngineError,
    EngineStopped,
    NoWorker,
)
from service.errors import (
    ModelFailed,
    NotReady,
    PerceptError,
    TooBusy,
    TooLate,
    Unavailable,
    WouldBeTooLate,
)

_LONGEST_WAIT_S = 86_400  # a header of seconds that readers can still parse, whatever the queue

_log = logging.getLogger(__name__)


@contextmanager
def engine_failures(model: str, task: TaskName) -> Iterator[None]:
    """Raise the table's errors in the stead of the engine's."""
    try:
        yield
    except EngineError as error:
        raise _translated(error, model, task) from error


def whole_seconds(wait_s: float) -> int:
    """Return a wait as `Retry-After` states it: rounded up, at least one."""
    return max(1, math.ceil(min(_LONGEST_WAIT_S, wait_s)))


def _translated(error: EngineError, model: str, task: TaskName) -> PerceptError:
    match error:
        case DeadlineImpossible():
            # Infinite where no wait helps: then there is nothing to come back for.
            hopeless = math.isinf(error.retry_after_s)
            return WouldBeTooLate(
                f"The answer would not be ready at the deadline: {error}",
                field=DEADLINE,
                retry_after_s=None if hopeless else whole_seconds(error.retry_after_s),
            )
        case NoWorker():
            wait_s = whole_seconds(error.retry_after_s)
            return Unavailable("No worker can be used at present", retry_after_s=wait_s)
        case EngineBusy():
            wait_s = whole_seconds(error.retry_after_s)
            return TooBusy("The queue is full", retry_after_s=wait_s)
        case DeadlineMissed():
            return TooLate("The answer was not ready at the deadline", field=DEADLINE)
        case EngineStopped():
            return NotReady("The server is stopping", retry_after_s=1)
        case _:
            _log.error("%s failed on a %s request: %s", model, task, error)
            return ModelFailed(f"The model {model} gave no usable answer")
