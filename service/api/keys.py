"""API keys: what is kept of them, and which one a caller has shown.

A key is 256 random bits, so its plain SHA-256 cannot be turned around: slow hashes are for words
that people think up. The file has a line per key, `NAME sha256=HEX`, with `rate=60/minute` (calls
that ask for work) and `evaluations=5000/hour` where the key has quotas; `#` begins a comment.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from limits import RateLimitItem, parse

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_QUOTA = re.compile(r"[1-9][0-9]{0,11}/([1-9][0-9]{0,3})?(second|minute|hour|day)s?")
_QUOTAS = ("rate", "evaluations")
_LEAST_SECRET_CHARS = 16
_SECRET_BYTES = 32
_PREFIX = "percept_"  # so that scanners for leaked keys can know one
_HASHED = "sha256:"
_CALLER = "key:"  # a name is no address: callers with and without keys never mix


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key: its SHA-256, and how much it may ask for in how long."""

    name: str
    digest: bytes
    rate: RateLimitItem | None = None
    evaluations: RateLimitItem | None = None

    @property
    def caller(self) -> str:
        """Whom its calls belong to, where callers share the machine."""
        return f"{_CALLER}{self.name}"


class KeyRing:
    """Every key of a server. Raises ValueError for two keys of one name."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)
        self.by_caller: Mapping[str, ApiKey] = {key.caller: key for key in self._keys}
        if len(self.by_caller) != len(self._keys):
            raise ValueError("two API keys have the same name")

    def find(self, secret: str) -> ApiKey | None:
        """Return the key that was shown; takes as long whichever it is, or none."""
        digest, found = digest_of(secret), None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found


def is_key(caller: str) -> bool:
    """Whether a caller is known by his key, and not by his address."""
    return caller.startswith(_CALLER)


def digest_of(secret: str) -> bytes:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def stored_digest(text: str) -> bytes:
    """Return the digest that a setting states: of a secret, or as `sha256:` and its hash.

    Raises ValueError for a secret that could be guessed, or a hash that is none.
    """
    if not text.startswith(_HASHED):
        if len(text) < _LEAST_SECRET_CHARS:
            raise ValueError(f"a key must have {_LEAST_SECRET_CHARS} characters or more")
        return digest_of(text)
    return _parse_digest(text.removeprefix(_HASHED))


def new_key(name: str, quotas: Mapping[str, str | None]) -> tuple[str, str]:
    """Make a key: return the secret for its user and the line for the file.

    `quotas` are `rate` and `evaluations`; raises ValueError for a wrong name or quota.
    """
    secret = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    words = [name, f"sha256={digest_of(secret).hex()}"]
    line = " ".join(words + [f"{what}={quota}" for what, quota in quotas.items() if quota])
    _parse_key(line)
    return secret, line


def load_keys(path: Path) -> KeyRing:
    """Read a file of keys; raises ValueError naming the line that is wrong, or an empty file."""
    keys = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        try:
            keys.append(_parse_key(content))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not keys:
        raise ValueError(f"{path} holds no key; `percept key new NAME` makes one")
    return KeyRing(keys)


def _parse_key(line: str) -> ApiKey:
    name, *rest = line.split()
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name: letters, digits and . _ -, 64 at most")
    fields = dict(word.partition("=")[::2] for word in rest)
    if len(fields) != len(rest):
        raise ValueError("something is stated twice")
    if unknown := fields.keys() - {"sha256", *_QUOTAS}:
        raise ValueError(f"{', '.join(sorted(unknown))} is not known")
    if "sha256" not in fields:
        raise ValueError("sha256 is missing")
    quotas = {what: _parse_quota(fields[what]) for what in _QUOTAS if what in fields}
    return ApiKey(name, _parse_digest(fields["sha256"]), **quotas)


def _parse_digest(text: str) -> bytes:
    if _DIGEST.fullmatch(text) is None:
        raise ValueError("sha256 must be 64 small hexadecimal digits")
    return bytes.fromhex(text)


def _parse_quota(text: str) -> RateLimitItem:
    if _QUOTA.fullmatch(text) is None:  # the parser passes over what it does not understand
        raise ValueError(f"{text!r} is no quota; 60/minute and 5000/2hours are")
    return parse(text)
