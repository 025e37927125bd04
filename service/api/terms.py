"""What a request's headers say beside its form: how urgent it is, whose it is, and until when."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from starlette.requests import Request

from service.api.identity import identity_of
from service.engine.request import PRIORITIES, Priority, Terms
from service.errors import InvalidField, TooLate

DEADLINE = "X-Deadline-Ms"
PRIORITY = "X-Priority"
MAX_DEADLINE_MS = 3_600_000

IDEMPOTENCY_KEY = "Idempotency-Key"
CALLBACK = "X-Percept-Callback"
# ASCII alone: digits of other scripts, signs, exponents, inf and nan are no durations on a wire.
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_DEADLINE_LIMIT = f"above 0, at most {MAX_DEADLINE_MS}, as digits"


@dataclass(frozen=True)
class Call:
    """One call's terms; `arrived` and `deadline` are seconds on the engine's clock.

    `arrived` is when its headers were there: every duration that a caller states counts from then.
    """

    arrived: float
    caller: str = ""
    priority: Priority = "normal"
    deadline: float | None = None

    @property
    def deadline_ms(self) -> float | None:
        """The deadline as it was given."""
        return None if self.deadline is None else 1000 * (self.deadline - self.arrived)

    def terms(self, grow_until: float | None = None, after_s: float = 0.0) -> Terms:
        """Return what the engine has to know; `after_s` is what follows once it is done."""
        deadline = None if self.deadline is None else self.deadline - after_s
        return Terms(self.caller, self.priority, deadline, grow_until)

    @asynccontextmanager
    async def until_deadline(self, clock: Callable[[], float]) -> AsyncIterator[None]:
        """Give up what is done here at the deadline; raises TooLate then, or if it is over now."""
        if self.deadline is None:
            yield
            return
        late = TooLate(
            "The answer was not ready at the deadline",
            field=DEADLINE,
            limit=f"{self.deadline_ms:g} ms",
        )
        try:
            async with asyncio.timeout(self.deadline - clock()) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise late from error
        if clock() >= self.deadline:
            raise late


def read_call(request: Request, arrived: float) -> Call:
    """Read the headers of a call; raises InvalidField naming the one that is wrong."""
    return Call(arrived, caller_of(request), _priority(request), _deadline(request, arrived))


def caller_of(request: Request) -> str:
    """Whose turn this is: the key's, or else the client's address; for IPv6 a customer's network.

    RFC 6177 leaves every site at least a /64, so single addresses are a caller's to make up.
    """
    if keyed := identity_of(request.scope).caller:
        return keyed
    host = "" if request.client is None else request.client.host
    try:
        address = ip_address(host)
    except ValueError:  # a socket of this machine, or a server's own name for it
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def _priority(request: Request) -> Priority:
    value = _single(request, PRIORITY)
    if value is None:
        return "normal"
    for priority in PRIORITIES:
        if value == priority:
            return priority
    raise InvalidField(
        f"{PRIORITY} is no known priority", field=PRIORITY, limit=", ".join(PRIORITIES)
    )


def _deadline(request: Request, arrived: float) -> float | None:
    value = _single(request, DEADLINE)
    if value is None:
        return None
    deadline_ms = float(value) if _NUMBER.fullmatch(value) else 0.0
    if not 0 < deadline_ms <= MAX_DEADLINE_MS:
        raise InvalidField(
            f"{DEADLINE} is no usable number of milliseconds", field=DEADLINE, limit=_DEADLINE_LIMIT
        )
    return arrived + deadline_ms / 1000


def _single(request: Request, name: str) -> str | None:
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise InvalidField(f"{name} is given twice", field=name, limit="once")
    return values[0].strip() if values else None
