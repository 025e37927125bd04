"""Broken multipart bodies without end: forms put together wrongly, then damaged, by a number.

`broken_form(seed, index)` is a function of its arguments alone: a case that failed comes again.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tests.support.pictures import encode, gradient

_BOUNDARIES = (
    b"x",
    b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
    b"a" * 70,
    b"-" * 30,
    b"a'()+_,-./:=?",
    b"x y",
)
_STRANGE_TYPES = (
    b"multipart/form-data",
    b"multipart/form-data; boundary=",
    b'multipart/form-data; boundary="',
    b"multipart/form-data; boundary=" + b"b" * 5000,
    b"multipart/form-data; boundary=x; boundary=y",
    b"multipart/form-data; boundary*0=x; boundary*1=y",
    b"multipart/form-data; boundary*=utf-8''x",
    b"multipart/form-data; charset=utf-7; boundary=x",
    b"multipart/form-data; boundary=\xff\xfe",
    b"multipart/form-data; boundary=x\r\n",
    b"multipart/mixed; boundary=x",
    b"MULTIPART/FORM-DATA; BOUNDARY=x",
    b"application/x-www-form-urlencoded",
    b"text/plain",
    b";;;;",
    b"",
)
_NAMES = (
    b"image",
    b"image",
    b"image",
    b"steps",
    b"seed",
    b"output",
    b"model",
    b"ensemble",
    b"uncertainty",
    b"mask",
    b"IMAGE",
    b"image[]",
    b"../image",
    b"im\x00age",
    b"\xff\xfe",
    "\uff49mage".encode(),
    b"",
    b"a" * 3000,
    b"__proto__",
    b"image%00",
)
_VALUES = (
    b"1",
    b"0",
    b"-1",
    b"1e309",
    b"nan",
    b"inf",
    b"9" * 400,
    b"9" * 4096,
    b"json",
    b"png16",
    b"npz",
    b"../../etc/passwd",
    b"..\\..\\model",
    b"tiny:1",
    b"tiny:../1",
    b"tiny:1\x00",
    b"/etc/passwd",
    b"http://127.0.0.1/",
    b"\xff\xfe\x00",
    "\uff11".encode(),
    b"true",
    b"<script>",
    b"' OR 1=1",
    b"${jndi:ldap://x}",
    b"%s%n",
    b"x" * 5000,
    b"",
)
_FILENAMES = (
    b"a.png",
    b"../../../etc/passwd",
    b"..\\..\\windows\\system32",
    b"C:\\a.png",
    b"/dev/zero",
    b"a\x00.png",
    b"",
    b"a" * 2000,
    b'a";x="',
    b"\xff\xfe.png",
    b"=?utf-8?b?YQ==?=",
)
_HEADERS = (
    b"Content-Type: image/png",
    b"Content-Type: multipart/mixed; boundary=y",
    b"Content-Transfer-Encoding: base64",
    b"Content-Transfer-Encoding: quoted-printable",
    b"Content-Length: 99999999999",
    b"Content-Length: -1",
    b"Transfer-Encoding: chunked",
    b"Content-Disposition: attachment; filename=x",
    b'Content-Disposition: form-data; name="seed"',
    b"X: " + b"y" * 9000,
    b": no name",
    b"no colon",
    b"A\x00B: c",
    b" folded: line",
    b"X-\xff: \xff",
)


@dataclass(frozen=True)
class BrokenForm:
    """A body in the pieces that it arrives in, and what its content type says."""

    content_type: bytes
    pieces: Sequence[bytes]


@cache
def _picture() -> bytes:
    return encode(gradient(24, 20))


def broken_form(seed: int, index: int) -> BrokenForm:
    """Return one form: its parts chosen badly, put together badly, damaged, cut into pieces."""
    dice = random.Random(f"form {seed} {index}")
    boundary = dice.choice(_BOUNDARIES)
    kind = b'multipart/form-data; boundary="' + boundary + b'"'
    if dice.random() < 0.08:
        kind = dice.choice(_STRANGE_TYPES)
        boundary = b"x"
    num_parts = dice.choice((0, 1, 1, 2, 2, 3, 5, 12)) if dice.random() < 0.98 else 400
    parts = [_part(dice, boundary) for _ in range(num_parts)]
    body = _joined(dice, boundary, parts)
    if dice.random() < 0.5:
        body = _damaged(dice, body)
    return BrokenForm(kind, _cut(dice, body))


def _part(dice: random.Random, boundary: bytes) -> bytes:
    name = dice.choice(_NAMES)
    disposition = b'Content-Disposition: form-data; name="' + name + b'"'
    if dice.random() < 0.1:
        disposition = dice.choice((b"Content-Disposition: form-data; name*=utf-8''image", b""))
    content = dice.choice(_VALUES)
    if dice.random() < 0.5:
        form = dice.choice((b'; filename="%s"', b"; filename=%s", b"; filename*=utf-8''%s"))
        disposition += form.replace(b"%s", dice.choice(_FILENAMES))
        content = dice.choice((_picture(), dice.randbytes(200), b"", content, _nested(boundary)))
    headers = [disposition]
    while dice.random() < 0.3:
        headers.insert(dice.randrange(len(headers) + 1), dice.choice(_HEADERS))
    if dice.random() < 0.02:
        headers += [b"X-%d: y" % number for number in range(600)]
    line = b"\r\n" if dice.random() < 0.95 else dice.choice((b"\n", b"\r", b"\r\r\n"))
    return line.join(headers) + 2 * line + content


def _nested(boundary: bytes) -> bytes:
    inner = b'Content-Disposition: form-data; name="image"\r\n\r\nx'
    return b"--y\r\n" + inner + b"\r\n--y--\r\n--" + boundary[:-1] + b"\r\n" + inner


def _joined(dice: random.Random, boundary: bytes, parts: Sequence[bytes]) -> bytes:
    line = b"\r\n"
    before = dice.choice((b"", b"", b"", b"", line, b"preamble\r\n", b"\0" * 40))
    after = dice.choice((b"", line, line, b"epilogue", line * 500, b"--" + boundary))
    end = b"--" + boundary + b"--" if dice.random() < 0.85 else dice.choice((b"", b"--", b"--x-"))
    body = before + b"".join(b"--" + boundary + line + part + line for part in parts)
    return body + end + after


def _damaged(dice: random.Random, body: bytes) -> bytes:
    broken = bytearray(body)
    for _ in range(dice.choice((1, 1, 2, 5))):
        if not broken:
            break
        at = dice.randrange(len(broken))
        match dice.randrange(5):
            case 0:
                broken[at] = dice.randrange(256)
            case 1:
                del broken[at : at + dice.choice((1, 2, 20, 300))]
            case 2:
                broken[at:at] = dice.choice((b"\r\n", b"--", b"\0", b'"', b";", b"\r\n--x\r\n"))
            case 3:
                del broken[at:]
            case _:
                broken[at:at] = broken[at : at + dice.choice((4, 60, 400))]
    return bytes(broken)


def _cut(dice: random.Random, body: bytes) -> Sequence[bytes]:
    """Cut a body as a network might, now and then byte by byte or with empty pieces."""
    if dice.random() < 0.5:
        return [body]
    size = dice.choice((7, 64, 1000, max(1, len(body) // 3)))
    if dice.random() < 0.03:
        size = 1
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    if dice.random() < 0.2:
        pieces.insert(dice.randrange(len(pieces) + 1), b"")
    return pieces or [b""]
