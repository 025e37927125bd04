"""Who may load and unload models."""

import hmac

from fastapi import Request
from pydantic import SecretStr

from service.errors import Forbidden, Unauthorized


class AdminKey:
    """Lets requests pass that carry the key as `Authorization: Bearer KEY`."""

    def __init__(self, key: SecretStr | None) -> None:
        self._key = None if key is None else key.get_secret_value().encode()

    def __call__(self, request: Request) -> None:
        """Raises Forbidden where there is no key at all, Unauthorized for a wrong one or none."""
        if self._key is None:
            raise Forbidden("No admin key is configured", limit="PERCEPT_ADMIN_KEY")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        fits = hmac.compare_digest(given.encode(), self._key)
        if scheme.lower() != "bearer" or not fits:
            raise Unauthorized("The admin key is missing or wrong", field="Authorization")
