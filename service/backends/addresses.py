"""Where servers are: `host:port` as given, and what the host names mean at the moment."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

_DEFAULT_PORT = 8001  # of Triton's gRPC
_MOST_PORT = 65535


@dataclass(frozen=True)
class Address:
    """One server; `host` is a name or an IP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Endpoint:
    """Where a server is, by IP address, and `name`, which its certificate is for."""

    address: Address
    name: str


Resolve = Callable[[Address], Awaitable[frozenset[str]]]
"""IP addresses of a host at present. Raises OSError or UnicodeError."""


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Read `host:port,host2:port`; ValueError says what is wrong, and for none at all."""
    addresses = tuple(_parse(part.strip()) for part in text.split(",") if part.strip())
    if not addresses:
        raise ValueError("triton_urls must name at least one server, such as localhost:8001")
    if len(set(addresses)) != len(addresses):
        raise ValueError(f"triton_urls names a server twice: {text}")
    return addresses


def _parse(text: str) -> Address:
    bare = text.removeprefix("grpc://")
    host, colon, port = bare.rpartition(":")
    if not colon or bare.endswith("]"):
        host, port = bare, str(_DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    wrong = not host or "/" in bare or not port.isdecimal() or not 0 < int(port) <= _MOST_PORT
    if wrong or (":" in host and not _is_ip6(host)):
        raise ValueError(f"triton_urls: {text!r} is not host:port of a gRPC server")
    return Address(host, int(port))


def _is_ip6(host: str) -> bool:
    try:
        return isinstance(ip_address(host), IPv6Address)
    except ValueError:
        return False


async def resolve_host(address: Address) -> frozenset[str]:
    """Ask the system's resolver; a name may mean many servers. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    hosts = frozenset(str(place[0]) for *_, place in found)
    # A server that listens on both is one server, and the shorter road to it is IPv4.
    return frozenset(host for host in hosts if ":" not in host) or hosts


async def endpoints(addresses: Iterable[Address], resolve: Resolve) -> frozenset[Endpoint] | None:
    """Every server that the addresses mean now, or None when any name could not be resolved.

    An answer with a hole in it would retire servers that are well.
    """
    found: set[Endpoint] = set()
    for address in addresses:
        try:
            hosts = await resolve(address)
        except (OSError, UnicodeError):  # the second for what can be no host's name
            return None
        found.update(Endpoint(Address(host, address.port), address.host) for host in hosts)
    return frozenset(found)
