"""A server that answers calls is alive, whatever else it is too busy for; a silent one is not."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from service.backends.addresses import Address, Endpoint
from service.backends.base import Worker, WorkerLost
from service.backends.fleet import Fleet
from service.backends.offers import Offer
from service.core.artifact import Artifact
from service.core.tensors import model_tensors
from tests.support.tiny_repository import tiny_artifact

HEARTBEAT_S = 0.2


@dataclass
class BusyServer:
    """Answers calls when `answers` is set; to a beat only as long as `beats` is."""

    artifact: Artifact
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    beats: asyncio.Event = field(default_factory=asyncio.Event)
    unanswered: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    async def examine(self) -> Offer:
        folders = dict.fromkeys(self.artifact.folders, 64)
        return Offer({self.artifact.key: self.artifact}, (), folders)

    async def beat(self) -> None:
        try:
            await self.beats.wait()
        except asyncio.CancelledError:
            self.unanswered.set()
            raise

    async def list_models(self) -> frozenset[tuple[str, str, str]]:
        return frozenset()

    async def infer(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        await self.answers.wait()
        return np.zeros((1, 3, 64, 64), np.float32)

    async def load(self, name: str) -> str:
        raise NotImplementedError

    async def unload(self, folder: str) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        self.closed = True


@dataclass
class Heard:
    """What the fleet has told."""

    joined: asyncio.Event = field(default_factory=asyncio.Event)

    def worker_joined(self, worker: Worker) -> None:
        self.joined.set()

    def worker_left(self, name: str) -> None:
        pass

    def worker_lost(self, name: str) -> None:
        pass

    def worker_back(self, name: str) -> None:
        pass

    def models_changed(self) -> None:
        pass


@asynccontextmanager
async def fleet_of(made: list[BusyServer]) -> AsyncIterator[Fleet]:
    """A fleet of one server, which is well at first; `made` gets every connection to it."""
    artifact = tiny_artifact("tiny", 1, {})

    def connect(endpoint: Endpoint) -> BusyServer:
        server = BusyServer(artifact)
        server.beats.set()
        made.append(server)
        return server

    fleet = Fleet([Address("127.0.0.1", 1)], connect, refresh_s=3600.0, heartbeat_s=HEARTBEAT_S)
    heard = Heard()
    await fleet.open(heard)
    try:
        await heard.joined.wait()
        yield fleet
    finally:
        await fleet.close()


def network(fleet: Fleet) -> str:
    return next(iter(model_tensors(fleet.artifacts[0])))


async def test_a_server_too_busy_for_a_beat_is_not_lost_while_it_answers_calls() -> None:
    made: list[BusyServer] = []
    async with fleet_of(made) as fleet:
        (server,), (worker,) = made, fleet.workers
        server.answers.set()
        server.beats.clear()
        inputs = {"image": np.zeros((1, 3, 64, 64), np.float32)}
        for _ in range(3):
            server.unanswered.clear()
            while not server.unanswered.is_set():
                await worker.run(network(fleet), inputs)
                await asyncio.sleep(0)
        assert made == [server]


async def test_a_silent_server_loses_its_calls_and_is_connected_to_anew() -> None:
    made: list[BusyServer] = []
    async with fleet_of(made) as fleet:
        (worker,) = fleet.workers
        call = asyncio.create_task(
            worker.run(network(fleet), {"image": np.zeros((1, 3, 64, 64), np.float32)})
        )
        made[0].beats.clear()
        await asyncio.wait([call])
        assert isinstance(call.exception(), WorkerLost)
        inputs = {"image": np.zeros((1, 3, 64, 64), np.float32)}
        async with asyncio.timeout(60.0):
            while len(made) == 1 or worker.server is not made[-1]:  # noqa: ASYNC110 - has no event
                await asyncio.sleep(HEARTBEAT_S)
            made[-1].answers.set()
            while True:
                with suppress(WorkerLost):
                    await worker.run(network(fleet), inputs)
                    break
                await asyncio.sleep(HEARTBEAT_S)
        assert made[0].closed
