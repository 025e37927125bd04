"""Why a store of jobs refuses; the API's error table says what each is on the wire."""


class StoreError(Exception):
    """A store did not do what it was asked to; the message says why."""


class StoreUnavailable(StoreError):
    """What keeps the jobs cannot be reached at present; the same call may succeed later."""


class StoreFull(StoreError):
    """As many jobs or bytes are kept as may be; nothing was changed."""


class JobTooLarge(StoreError):
    """An input, result or preview has more bytes than one may have; nothing was changed."""

    def __init__(self, what: str, num_bytes: int, limit: int) -> None:
        super().__init__(f"The job's {what} has {num_bytes} bytes, {limit} are allowed")
        self.limit = limit


class NoSuchJob(StoreError):
    """No job has this id: there never was one, or it has expired."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id!r}, or it has expired")


class IdempotencyConflict(StoreError):
    """The idempotency key was used for another content, by the job `job_id`."""

    def __init__(self, job_id: str) -> None:
        super().__init__("This idempotency key was used with a different request")
        self.job_id = job_id
