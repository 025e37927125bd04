"""Servers in memory, for tests of what a fleet makes of them: they answer, hang, fail and change.

Nothing here sleeps or looks at a clock. A call returns its first input, so that rows can be told
apart.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from service.backends.addresses import Address, Endpoint
from service.backends.base import UnknownModel
from service.backends.offers import Offer
from service.backends.servers import NotThere, Unreachable
from service.core.artifact import Artifact

MAX_ROWS = 4


@dataclass(eq=False)
class FakeMachine:
    """What runs at an address, whoever is connected to it.

    While `free` is not set calls wait for it, while `alive` is not set calls, signs of life and
    examinations do. `failure` is raised by whatever is asked of it.
    """

    artifacts: dict[str, Artifact]
    to_load: dict[str, Artifact] = field(default_factory=dict)
    failure: Exception | None = None
    free: asyncio.Event = field(default_factory=asyncio.Event)
    alive: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Queue[int] = field(default_factory=asyncio.Queue)  # rows of calls
    connections: list["FakeServer"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free.set()
        self.alive.set()

    @property
    def num_open(self) -> int:
        """Connections that were not hung up."""
        return sum(not connection.is_closed for connection in self.connections)


class FakeServer:
    """A connection to a machine; see Server."""

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine
        self.is_closed = False
        self.num_cancelled = 0
        machine.connections.append(self)

    async def examine(self) -> Offer:
        """What the machine has now."""
        await self._answer()
        artifacts = dict(self.machine.artifacts)
        folders = {folder for artifact in artifacts.values() for folder in artifact.folders}
        return Offer(artifacts, (), dict.fromkeys(folders, MAX_ROWS))

    async def beat(self) -> None:
        """When it is alive."""
        await self._answer()

    async def list_models(self) -> frozenset[tuple[str, str, str]]:
        """Another set for every other set of artifacts."""
        await self._answer()
        return frozenset((key, a.description, "READY") for key, a in self.machine.artifacts.items())

    async def infer(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The first input, when calls are free to return."""
        first = next(iter(inputs.values()))
        self.machine.arrived.put_nowait(len(first))
        if all(network not in served(artifact) for artifact in self.machine.artifacts.values()):
            raise NotThere(f"no {network} any more")
        try:
            await self.machine.free.wait()
            await self.machine.alive.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if self.is_closed:
            raise Unreachable("hung up")
        if self.machine.failure is not None:
            raise self.machine.failure
        return first

    async def load(self, name: str) -> str:
        """Take what is there to load of a model."""
        await self._answer()
        fresh = {key: a for key, a in self.machine.to_load.items() if a.name == name}
        if not fresh:
            raise UnknownModel(f"there is no model {name!r}")
        self.machine.artifacts |= fresh
        return max(fresh, key=lambda key: fresh[key].version)

    async def unload(self, folder: str) -> None:
        """Forget every model with such a network."""
        await self._answer()
        self.machine.artifacts = {
            key: a for key, a in self.machine.artifacts.items() if folder not in a.folders
        }

    async def close(self) -> None:
        """Hang up."""
        self.is_closed = True

    async def _answer(self) -> None:
        await self.machine.alive.wait()
        if self.machine.failure is not None:
            raise self.machine.failure


def served(artifact: Artifact) -> set[str]:
    """Networks of an artifact."""
    return {artifact.network(folder) for folder in artifact.folders}


class FakeNetwork:
    """Machines by IP address, and the names that mean them. `resolve` and `connect` are a fleet's.

    A name without an entry cannot be resolved.
    """

    def __init__(self, machines: Mapping[str, FakeMachine], **names: set[str]) -> None:
        self.machines = dict(machines)
        self.names = names
        self.num_resolved = 0
        self._resolved = asyncio.Event()

    async def resolve(self, address: Address) -> frozenset[str]:
        """What a name means now."""
        self.num_resolved += 1
        self._resolved.set()
        if address.host in self.machines:
            return frozenset([address.host])
        if address.host not in self.names:
            raise OSError(f"no such name: {address.host}")
        return frozenset(self.names[address.host])

    async def resolved_again(self) -> None:
        """Return when a look that began after this call has been acted upon."""
        for _ in range(2):
            self._resolved.clear()
            await self._resolved.wait()

    def connect(self, endpoint: Endpoint) -> FakeServer:
        """A connection to the machine there."""
        return FakeServer(self.machines[endpoint.address.host])
