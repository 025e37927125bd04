"""The known ways to hurt a reader of forms: refused early, by name, or read as they are meant."""

import pytest

from service.errors import InvalidField, MalformedRequest, PerceptError, TooLarge
from tests.api.test_uploads import HEAD, LIMITS, TAIL, Sender

FIELD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n'
PIECE = 1000


def sender(body: bytes) -> Sender:
    return Sender([body[at : at + PIECE] for at in range(0, len(body), PIECE)], end="silence")


def unknown(name: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n1\r\n'


FLOODS: dict[str, tuple[bytes, type[PerceptError]]] = {
    "parts of unknown names": (b"".join(unknown(b"%d" % i) for i in range(10**5)), InvalidField),
    "parts of one name": (10**5 * unknown(b"steps"), InvalidField),
    "parts of no name": (10**5 * b"--x\r\n\r\n\r\n", MalformedRequest),
    "parts of an empty name": (10**5 * unknown(b""), InvalidField),
    "headers of one part": (b"--x\r\n" + 10**6 * b"A: b\r\n", MalformedRequest),
    "a header without an end": (b"--x\r\nA: " + bytes(10**6), MalformedRequest),
    "a header's name without an end": (b"--x\r\n" + b"a" * 10**6, MalformedRequest),
    "a folded header": (FIELD + 10**5 * b" more\r\n", MalformedRequest),
    "parameters": (
        b"--x\r\nContent-Disposition: form-data" + 10**5 * b"; a=b" + b"\r\n\r\n",
        MalformedRequest,
    ),
    "a text without an end": (
        b'--x\r\nContent-Disposition: form-data; name="steps"\r\n\r\n' + b"1" * 10**6,
        TooLarge,
    ),
    "a nested form": (
        b"--x\r\nContent-Disposition: form-data; name=image\r\n"
        b"Content-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\n" + bytes(10**6),
        InvalidField,
    ),
    "bare line feeds": (FIELD.replace(b"\r\n", b"\n") + b"\n" + bytes(10**6), MalformedRequest),
    "what follows the last boundary": (HEAD + b"abc" + TAIL + bytes(10**6), TooLarge),
    "what is no form": (bytes(10**6), MalformedRequest),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_a_flood_is_refused_long_before_its_end(what):
    body, error = FLOODS[what]
    flood = sender(body)
    with pytest.raises(error) as caught:
        await flood.read()
    assert caught.value.limit
    allowed = LIMITS.max_body_bytes if error is TooLarge else 6000
    assert flood.taken * PIECE <= allowed + 2 * PIECE


@pytest.mark.parametrize(
    "filename",
    [
        b'"../../etc/passwd"',
        b'"C:\\\\windows\\\\a.png"',
        b'"/dev/zero"',
        b'""',
        b'"\xff\xfe"',
        b"a.png",
        b'"a\\".png"',
        b'"' + b"a" * 2000 + b'"',
    ],
)
async def test_the_name_of_a_file_means_nothing(filename):
    head = HEAD.replace(b'"f"', filename)
    form = await Sender([head + b"abc" + TAIL]).read()
    assert form.files == {"image": b"abc"}


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: text/html; charset=utf-7",
        b"Content-Type: multipart/mixed; boundary=x",
        b"Content-Transfer-Encoding: base64",
        b"Content-Encoding: gzip",
        b"Content-Length: 0",
        b"Content-Length: 99999999",
    ],
)
async def test_what_a_part_says_about_its_bytes_changes_none(header):
    form = await Sender([FIELD + header + b"\r\n\r\nYWJj" + TAIL]).read()
    assert form.files == {"image": b"YWJj"}


@pytest.mark.parametrize("cut", [1, 3, 5, 9, len(TAIL) + 2, len(TAIL) + len(HEAD)])
async def test_a_form_without_its_end_is_never_read(cut):
    whole = HEAD + b"abc" + TAIL[:-2]
    with pytest.raises(MalformedRequest, match="last boundary"):
        await Sender([whole[:-cut]]).read()


async def test_what_looks_like_a_boundary_is_data():
    data = b"\r\n--y\r\n--x\r\n -- x--\r\n--" + 300 * b"\r\n-"
    form = await Sender([HEAD + data.replace(b"\r\n--x\r\n", b"\r--x\r") + TAIL]).read()
    assert form.files["image"].count(b"\r\n-") >= 300
