"""Who makes a request, as the guard at the door found out."""

from dataclasses import dataclass

from starlette.types import Scope

_IDENTITY = "percept.identity"


@dataclass(frozen=True)
class Identity:
    """Who calls: `caller` is empty without a key; `admin_exists` where an admin's key is set."""

    caller: str = ""
    is_admin: bool = False
    admin_exists: bool = False


def identify(scope: Scope, identity: Identity) -> None:
    """Note who makes a request."""
    scope[_IDENTITY] = identity


def identity_of(scope: Scope) -> Identity:
    """Return who makes a request; nobody in particular where no guard stood."""
    identity = scope.get(_IDENTITY)
    return identity if isinstance(identity, Identity) else Identity()
