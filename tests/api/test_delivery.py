"""An answer goes out at its reader's pace; what it held is given back however that ends."""

import asyncio

import pytest
from starlette.types import Message

from service.api.delivery import Delivery


class Reader:
    """Takes so many messages of an answer, then does as it is told."""

    def __init__(self, takes: int = 10**6, then: str = "block") -> None:
        self.messages: list[Message] = []
        self.released = 0
        self._takes = takes
        self._then = then

    def release(self) -> None:
        self.released += 1

    async def receive(self) -> Message:
        raise AssertionError("an answer asks for nothing")

    async def send(self, message: Message) -> None:
        if len(self.messages) == self._takes:
            if self._then == "fail":
                raise ConnectionError
            await asyncio.Event().wait()
        self.messages.append(message)

    async def read(self, content: bytes, timeout_s: float = 60.0) -> None:
        delivery = Delivery(
            content,
            media_type="image/png",
            headers={"X-Percept-Seed": "1"},
            timeout_s=timeout_s,
            delivered=self.release,
        )
        await delivery({"type": "http"}, self.receive, self.send)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


@pytest.mark.parametrize("size", [0, 1, 2**18, 10**6])
async def test_all_of_an_answer_in_bounded_pieces(size):
    reader, content = Reader(), bytes(size)
    await reader.read(content)
    start, *pieces = reader.messages
    assert start["status"] == 200
    headers = dict(start["headers"])
    assert headers[b"content-length"] == str(size).encode()
    assert headers[b"x-percept-seed"] == b"1"
    assert reader.body == content
    assert max(len(piece["body"]) for piece in pieces) <= 2**18
    assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert reader.released == 1


@pytest.mark.parametrize("takes", [0, 2])
async def test_a_reader_that_stops_is_left(takes):
    reader = Reader(takes)
    await reader.read(bytes(10**6), timeout_s=0.05)
    assert len(reader.messages) == takes
    assert reader.released == 1


async def test_a_failing_connection_gives_back_what_was_held():
    reader = Reader(2, "fail")
    with pytest.raises(ConnectionError):
        await reader.read(bytes(10**6))
    assert reader.released == 1
