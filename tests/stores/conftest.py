"""Every kind of store, empty."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from service.stores.base import Store, StoreLimits
from service.stores.memory import MemoryStore
from service.stores.redis import RedisPlace, RedisStore
from tests.support.redis_server import RedisServer, require_redis


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """Return a server that no test may stop."""
    require_redis()
    with TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """Return a server that a test may stop and start."""
    require_redis()
    with TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()


class Servers:
    """Opens the store as each of several servers would; in memory there is one server."""

    def __init__(self, place: RedisPlace | None) -> None:
        self.place = place
        self._opened: list[Store] = []

    def open(self, limits: StoreLimits | None = None) -> Store:
        if self.place is not None:
            self._opened.append(RedisStore(self.place, limits))
        elif not self._opened:
            self._opened.append(MemoryStore(limits))
        return self._opened[-1]

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


@pytest.fixture(params=["memory", "redis", "redis-folder"])
async def servers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Servers]:
    place = None
    if request.param != "memory":
        server = request.getfixturevalue("shared_redis")
        server.flush()
        folder = tmp_path if request.param == "redis-folder" else None
        place = RedisPlace(server.url, folder=folder, timeout_s=30.0)
    servers = Servers(place)
    yield servers
    await servers.close()


@pytest.fixture
def store(servers: Servers) -> Store:
    return servers.open()
