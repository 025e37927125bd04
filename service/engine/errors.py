"""Why the engine gives no answer; the API's error table says what each is on the wire."""


class EngineError(Exception):
    """A request could not be answered; the message says why."""


class EngineBusy(EngineError):
    """The queue is full; nothing was started. It will be worked off in `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineImpossible(EngineBusy):
    """The request would miss its deadline; nothing was started. It may fit in `retry_after_s`."""


class DeadlineMissed(EngineError):
    """The answer was not there at the deadline."""


class NoWorker(EngineBusy):
    """No worker has been usable for too long; one is looked for at least every `retry_after_s`."""


class EngineStopped(EngineError):
    """The engine is not running, or stopped before the answer was there."""
