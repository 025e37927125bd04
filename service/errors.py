"""The error table: everything Percept tells a caller went wrong, with its HTTP status.

Any layer may raise one; `service.api.problems` writes it onto the wire.
"""

from typing import ClassVar


class PerceptError(Exception):
    """Something the caller should be told about.

    `detail` is a sentence for a person. `field` names the form field or header at fault and `limit`
    what is allowed there; `retry_after_s` says when the same request may succeed.
    """

    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        limit: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.limit = limit
        self.retry_after_s = retry_after_s


class MalformedRequest(PerceptError):
    """The body cannot be parsed as what it says it is."""

    status = 400
    title = "Malformed request"


class Unauthorized(PerceptError):
    """No key, or none that is known here."""

    status = 401
    title = "Unauthorized"


class Forbidden(PerceptError):
    """A known key, but not for this; or nobody may do this here."""

    status = 403
    title = "Forbidden"


class NotFound(PerceptError):
    """What the path names does not exist."""

    status = 404
    title = "Not found"


class NotFinished(PerceptError):
    """The job has no answer yet."""

    status = 409
    title = "Not finished"


class Gone(PerceptError):
    """There was such a thing, and there will be none again."""

    status = 410
    title = "Gone"


class UploadTooSlow(PerceptError):
    """The body did not arrive in time; the place it held was given to others."""

    status = 408
    title = "Upload took too long"


class TooLarge(PerceptError):
    """More bytes, pixels or results than this server accepts."""

    status = 413
    title = "Too large"


class UnsupportedType(PerceptError):
    """A content type, image format or colour mode that this server does not read."""

    status = 415
    title = "Unsupported type"


class InvalidField(PerceptError):
    """A field or header is missing, unknown, repeated, or holds a value that cannot be used."""

    status = 422
    title = "Invalid field"


class TooBusy(PerceptError):
    """The queue is full."""

    status = 429
    title = "Too many requests"


class QuotaExceeded(PerceptError):
    """A key has used what it may in a while; `limit` says which of its quotas that is."""

    status = 429
    title = "Quota exceeded"


class ClientGone(PerceptError):
    """The client hung up: nobody reads the answer, the status exists for the metrics alone."""

    status = 499
    title = "Client closed the connection"


class ModelFailed(PerceptError):
    """The model or the machine that runs it gave no usable answer."""

    status = 502
    title = "The model failed"


class ModelNotLoaded(PerceptError):
    """A model could not be loaded or unloaded; what was served before still is."""

    status = 502
    title = "The models are as they were"


class NotReady(PerceptError):
    """The service is starting or stopping."""

    status = 503
    title = "Not ready"


class Unavailable(PerceptError):
    """No worker can be used at present; they are looked for."""

    status = 503
    title = "No worker available"


class WouldBeTooLate(PerceptError):
    """The deadline cannot be met; nothing was started."""

    status = 503
    title = "Deadline cannot be met"


class TooLate(PerceptError):
    """The deadline is over, and the answer was not ready: the work was given up."""

    status = 504
    title = "Deadline missed"
