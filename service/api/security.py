"""Who may call: everything is closed but what is listed here, as soon as a server has keys."""

from dataclasses import dataclass
from hmac import compare_digest
from ipaddress import ip_address

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.identity import Identity, identify, identity_of
from service.api.keys import KeyRing, digest_of
from service.api.problems import render_error
from service.api.quotas import Quotas
from service.api.uploads import Body
from service.errors import Forbidden, PerceptError, Unauthorized

METRICS_PATH = "/metrics"
# Probes come without a key; pages and documentation hold nothing that is not public.
_OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
_OPEN_FOLDERS = ("/static-offline-docs/",)
_MAX_SECRET_CHARS = 512
_ASKS_FOR_WORK = "POST"
_HOW = "Authorization: Bearer KEY, or X-API-Key: KEY"


@dataclass(frozen=True)
class Access:
    """What opens a server: `keys` None for everyone, `admin` the digest of the admin's key."""

    keys: KeyRing | None = None
    admin: bytes | None = None
    open_metrics: bool = False

    def identify(self, secret: str | None) -> Identity | None:
        """Return who shows a secret, None for someone unknown where keys are needed."""
        is_admin, caller = False, None
        if secret is not None and len(secret) <= _MAX_SECRET_CHARS:
            is_admin = self.admin is not None and compare_digest(digest_of(secret), self.admin)
            caller = self._caller(secret, is_admin)
        if self.keys is not None and caller is None:
            return None
        return Identity(caller or "", is_admin, admin_exists=self.admin is not None)

    def _caller(self, secret: str, is_admin: bool) -> str | None:
        if is_admin:
            return "admin"
        key = None if self.keys is None else self.keys.find(secret)
        return None if key is None else key.caller

    def is_open(self, path: str) -> bool:
        """Whether a path needs no key."""
        if path == METRICS_PATH:
            return self.open_metrics
        return path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS)


class GuardRequests:
    """ASGI middleware: nobody unknown gets in, and nobody asks more often than his key may."""

    def __init__(self, app: ASGIApp, access: Access, quotas: Quotas) -> None:
        self._app = app
        self._access = access
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream."""
        if scope["type"] == "http":
            request = Request(scope, receive)
            try:
                await self._admit(request)
            except PerceptError as error:
                body = Body(request)
                await body.drain()
                await render_error(error, close=not body.complete)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, request: Request) -> None:
        identity = self._access.identify(_secret(request))
        if identity is None:
            if self._access.is_open(request.scope["path"]):
                return
            raise Unauthorized(
                "A key is needed, or this one is unknown", field="Authorization", limit=_HOW
            )
        identify(request.scope, identity)
        if request.method == _ASKS_FOR_WORK:
            await self._quotas.count_call(identity.caller)


def require_admin(request: Request) -> None:
    """Let nobody pass but the admin: a dependency of routes that change the server.

    Raises Unauthorized without a key or with an unknown one, Forbidden with a key that is not the
    admin's, and for everyone where no admin key is set.
    """
    identity = identity_of(request.scope)
    if not identity.admin_exists:
        raise Forbidden("No admin key is set: nobody may do this", limit="PERCEPT_ADMIN_KEY")
    if identity.is_admin:
        return
    if identity.caller:
        raise Forbidden("This takes the admin's key", field="Authorization")
    raise Unauthorized("This takes the admin's key", field="Authorization", limit=_HOW)


def refuse_public(host: str, *, has_keys: bool, allow_open: bool) -> None:
    """Raise ValueError for an address beyond this machine without keys, unless that is wanted."""
    if has_keys or allow_open or is_loopback(host):
        return
    raise ValueError(
        f"{host or 'every interface'} is open to other machines and there are no API keys: "
        "make one with `percept key new NAME`, put its line into a file and set "
        "PERCEPT_API_KEYS_FILE; or set PERCEPT_ALLOW_OPEN=true to let everyone in"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name may turn out to be any address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _secret(request: Request) -> str | None:
    """Return the secret that a request shows; raises Unauthorized for two that differ."""
    shown = set(request.headers.getlist("x-api-key"))
    for value in request.headers.getlist("authorization"):
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() == "bearer":
            shown.add(credentials.strip())
    if len(shown) > 1:
        raise Unauthorized("Two different keys are shown", field="Authorization", limit=_HOW)
    return next(iter(shown), None)
