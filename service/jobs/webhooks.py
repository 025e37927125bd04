"""Tells those who asked that a job has ended: signed, only to hosts that the operator has listed.

Best effort: a server that dies between the end of a job and the call tells nobody. Whoever gets a
call should look at the job, and may get it twice.
"""

import asyncio
import hashlib
import hmac
import http.client
import json
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from urllib.parse import SplitResult, urlsplit

from service.errors import InvalidField
from service.stores.base import JobRecord

SIGNATURE_HEADER = "X-Percept-Signature"
DELIVERY_HEADER = "X-Percept-Delivery"

Post = Callable[[SplitResult, bytes, Mapping[str, str], float], int]

_PORTS = {"https": 443, "http": 80}
_PLAIN = re.compile(r"[!-\[\]-~]+")  # printable ASCII but for the backslash
_WORTH_ANOTHER_TRY = (408, 425, 429)
_log = logging.getLogger("percept.webhooks")


@dataclass(frozen=True)
class WebhookTerms:
    """Who may be called, such as `https://hooks.example.com`, and how often it is tried."""

    origins: frozenset[str]
    secret: bytes
    max_attempts: int = 6
    first_pause_s: float = 1.0
    timeout_s: float = 10.0
    max_pending: int = 1000


def post(url: SplitResult, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
    """Send a request and return its status; blocks, follows no redirect, uses no proxy."""
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=timeout_s)
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("POST", path, body, dict(headers))
        return connection.getresponse().status
    finally:
        connection.close()


def sign(secret: bytes, at_s: int, body: bytes) -> str:
    """Return the signature header: HMAC-SHA256 over `time.body`, and the time against replays."""
    digest = hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


class Webhooks:
    """Calls that are made in the background; `now` gives seconds since 1970."""

    def __init__(
        self, terms: WebhookTerms, send: Post = post, now: Callable[[], float] = time.time
    ) -> None:
        self._terms = terms
        self._send = send
        self._now = now
        self._allowed = {_origin(urlsplit(origin)) for origin in terms.origins}
        self._calls: set[asyncio.Task[None]] = set()

    def check(self, url: str) -> SplitResult:
        """Return the parts of a URL that may be called; raises InvalidField for any other."""
        try:
            parts = urlsplit(url)
            allowed = bool(_PLAIN.fullmatch(url)) and _origin(parts) in self._allowed
        except ValueError:
            allowed = False
        if not allowed or "@" in parts.netloc:
            raise InvalidField("This URL may not be called back", field="callback_url")
        return parts

    def tell(self, url: str, job: JobRecord) -> None:
        """Begin to tell a URL about a finished job."""
        parts = self.check(url)
        if len(self._calls) >= self._terms.max_pending:
            _log.warning("too many calls are pending: nobody is told of job %s", job.id)
            return
        call = asyncio.create_task(self._deliver(parts, job), name=f"webhook-{job.id}")
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def close(self, grace_s: float) -> None:
        """Give up what has not ended within `grace_s`."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=grace_s)
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _deliver(self, url: SplitResult, job: JobRecord) -> None:
        body = _describe(job)
        pause_s = self._terms.first_pause_s
        for attempt in range(self._terms.max_attempts):
            if attempt:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                pause_s *= 4
            status = await self._try(url, job, body)
            if status is not None and status < 500 and status not in _WORTH_ANOTHER_TRY:
                break
        else:
            _log.warning("%s could not be told of job %s", url.netloc, job.id)
            return
        if status >= 300:
            _log.warning("%s answered %d when told of job %s", url.netloc, status, job.id)

    async def _try(self, url: SplitResult, job: JobRecord, body: bytes) -> int | None:
        """Return the status of one request; None where there was no answer."""
        headers = {
            "Content-Type": "application/json",
            SIGNATURE_HEADER: sign(self._terms.secret, int(self._now()), body),
            DELIVERY_HEADER: job.id,
        }
        try:
            return await asyncio.to_thread(self._send, url, body, headers, self._terms.timeout_s)
        except (OSError, http.client.HTTPException) as error:
            _log.info("%s does not answer: %s", url.netloc, error)
            return None


def _origin(url: SplitResult) -> tuple[str, str, int]:
    """Scheme, host and port; raises ValueError where a URL cannot be called."""
    if url.scheme not in _PORTS or not url.hostname:
        raise ValueError(f"{url.geturl()!r} is no http(s) URL")
    return url.scheme, url.hostname, url.port or _PORTS[url.scheme]


def _describe(job: JobRecord) -> bytes:
    problem = None if job.problem is None else asdict(job.problem)
    said = {"id": job.id, "state": job.state, "finished_s": job.finished_s, "problem": problem}
    return json.dumps(said, separators=(",", ":")).encode()
