"""Addresses of servers as they are given, and what their names mean."""

import socket

import pytest

from service.backends.addresses import (
    Address,
    Endpoint,
    endpoints,
    parse_addresses,
    resolve_host,
)
from tests.support.fake_server import FakeNetwork


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("localhost:8001", [("localhost", 8001)]),
        ("a:1, b:65535 ,", [("a", 1), ("b", 65535)]),
        ("triton.models.svc.cluster.local", [("triton.models.svc.cluster.local", 8001)]),
        ("grpc://host:9", [("host", 9)]),
        ("[::1]:9", [("::1", 9)]),
        ("[fd00::7]", [("fd00::7", 8001)]),
        ("10.0.0.1:7,10.0.0.1:8", [("10.0.0.1", 7), ("10.0.0.1", 8)]),
    ],
)
def test_addresses_are_read(text: str, addresses: list[tuple[str, int]]) -> None:
    assert parse_addresses(text) == tuple(Address(*address) for address in addresses)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one server"),
        (" , ", "at least one server"),
        ("http://host:8001", "'http://host:8001' is not host:port"),
        ("host:port", "is not host:port"),
        ("host:0", "is not host:port"),
        ("host:65536", "is not host:port"),
        (":8001", "is not host:port"),
        ("a:b:1", "is not host:port"),
        ("host/path:1", "is not host:port"),
        ("a:1,a:1", "names a server twice"),
        ("a,a:8001", "names a server twice"),
    ],
)
def test_what_is_no_address_is_refused_with_its_text(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_addresses(text)


def test_an_address_is_written_as_it_is_read() -> None:
    for text in ("host:1", "10.0.0.1:2", "[::1]:3"):
        assert str(parse_addresses(text)[0]) == text


async def test_loopback_is_one_server() -> None:
    assert await resolve_host(Address("localhost", 1)) in ({"127.0.0.1"}, {"::1"})
    assert await resolve_host(Address("127.0.0.2", 1)) == {"127.0.0.2"}


async def test_a_name_that_means_both_kinds_of_address_means_the_short_road(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = ["::7", "10.0.0.1", "10.0.0.2"]

    def both(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, 1)) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert await resolve_host(Address("both", 1)) == {"10.0.0.1", "10.0.0.2"}
    places[:] = ["::7"]
    assert await resolve_host(Address("both", 1)) == {"::7"}


@pytest.mark.parametrize("name", ["name.invalid", f"{'x' * 64}.example", "a..b"])
async def test_a_name_without_an_answer_leaves_no_list_at_all(name: str) -> None:
    assert await endpoints([Address("127.0.0.1", 1), Address(name, 1)], resolve_host) is None


async def test_servers_keep_the_name_that_their_certificate_is_for() -> None:
    network = FakeNetwork({}, tritons={"10.0.0.1", "10.0.0.2"}, other={"10.0.0.2"})
    found = await endpoints([Address("tritons", 5), Address("other", 6)], network.resolve)
    assert set(found or ()) == {
        Endpoint(Address("10.0.0.1", 5), "tritons"),
        Endpoint(Address("10.0.0.2", 5), "tritons"),
        Endpoint(Address("10.0.0.2", 6), "other"),
    }
