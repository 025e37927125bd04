"""The backend of real Triton servers, as the service makes it."""

from functools import partial

from service.backends.addresses import Resolve, parse_addresses, resolve_host
from service.backends.fleet import Fleet
from service.backends.triton import TritonAccess, TritonServer


def triton_fleet(
    urls: str, *, access: TritonAccess | None = None, resolve: Resolve = resolve_host
) -> Fleet:
    """Of the servers at some addresses; not opened yet."""
    connect = partial(TritonServer, access or TritonAccess())
    return Fleet(parse_addresses(urls), connect, refresh_s=0.5, heartbeat_s=0.5, resolve=resolve)
