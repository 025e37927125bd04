"""Forms are read piece by piece, and reading stops where a limit is passed."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request

from service.api.uploads import Body, Form, FormLimits, read_form
from service.errors import ClientGone, InvalidField, TooLarge, UploadTooSlow

LIMITS = FormLimits(frozenset({"steps"}), frozenset({"image"}), 100_000, timeout_s=5.0)
HEAD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n'
TAIL = b"\r\n--x--\r\n"


class Sender:
    """A client that sends chunks, then hangs up or falls silent; counts what was taken."""

    def __init__(self, chunks: list[bytes], *, end: str = "complete", expect: bool = False) -> None:
        self.taken = 0
        self._messages = self._say(chunks, end)
        headers = [(b"content-type", b"multipart/form-data; boundary=x")]
        if expect:
            headers.append((b"expect", b"100-continue"))
        self.request = Request({"type": "http", "headers": headers}, self._receive)
        self.body = Body(self.request)

    async def _receive(self):
        self.taken += 1
        return await anext(self._messages)

    async def _say(self, chunks: list[bytes], end: str) -> AsyncIterator[dict[str, object]]:
        for i, chunk in enumerate(chunks):
            last = i == len(chunks) - 1 and end == "complete"
            yield {"type": "http.request", "body": chunk, "more_body": not last}
        if end == "hang up":
            yield {"type": "http.disconnect"}
        await asyncio.Event().wait()

    async def read(self, limits: FormLimits = LIMITS) -> Form:
        return await read_form(self.request, self.body, limits)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
async def test_any_chunking_gives_the_same_form(size):
    data = bytes(range(256)) * 20
    text = b'\r\n--x\r\nContent-Disposition: form-data; name="steps"\r\n\r\n12'
    whole = HEAD + data + text + TAIL
    sender = Sender([whole[i : i + size] for i in range(0, len(whole), size)])
    form = await sender.read()
    assert form.files == {"image": data}
    assert form.texts == {"steps": "12"}
    assert sender.body.complete


async def test_an_endless_file_is_stopped_at_its_limit():
    sender = Sender([HEAD] + [bytes(10_000)] * 1000, end="silence")
    with pytest.raises(TooLarge) as caught:
        await sender.read()
    assert caught.value.field == "image"
    assert sender.taken <= 13


async def test_an_endless_preamble_is_stopped():
    sender = Sender([b"\r\n"] * 10 + [bytes(1000)] * 1000, end="silence")
    with pytest.raises(Exception, match="form"):
        await sender.read()
    assert sender.taken < 200


async def test_an_unknown_field_is_refused_before_its_data():
    head = HEAD.replace(b"image", b"video")
    sender = Sender([head] + [bytes(10_000)] * 8 + [TAIL])
    with pytest.raises(InvalidField) as caught:
        await sender.read()
    assert caught.value.field == "video"
    assert sender.taken == 1


async def test_a_slow_upload_is_given_up():
    limits = FormLimits(LIMITS.texts, LIMITS.files, LIMITS.max_file_bytes, timeout_s=0.05)
    with pytest.raises(UploadTooSlow):
        await Sender([HEAD], end="silence").read(limits)


async def test_a_hang_up_while_uploading():
    with pytest.raises(ClientGone):
        await Sender([HEAD, bytes(100)], end="hang up").read()


async def test_draining_takes_the_rest_within_reason():
    sender = Sender([bytes(1000)] * 20)
    await sender.body.drain(max_bytes=100_000)
    assert sender.body.complete
    sender = Sender([bytes(1000)] * 1000)
    await sender.body.drain(max_bytes=10_000)
    assert not sender.body.complete
    assert sender.taken <= 11


async def test_nothing_is_drained_from_a_client_that_waits_for_leave():
    sender = Sender([bytes(1000)] * 20, expect=True)
    await sender.body.drain(max_bytes=100_000)
    assert sender.taken == 0
