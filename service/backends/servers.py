"""A server as a worker: what is asked of the connection, and what becomes of calls when it is lost.

Knows no protocol: a `Server` does the talking.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from service.backends.addresses import Endpoint
from service.backends.base import BackendError, LoadError, WorkerLost
from service.backends.offers import Offer

Arrays = Mapping[str, np.ndarray]


class Unreachable(WorkerLost):
    """No answer, or not a server's: what it offers is to be asked again before its next call."""


class NotThere(BackendError):
    """The server answers that it has no such network: it is to be asked what it has now."""


@runtime_checkable
class Server(Protocol):
    """A connection to one server. Every method but `close` raises BackendError."""

    async def examine(self) -> Offer:
        """Ask what it offers."""

    async def beat(self) -> None:
        """Return when the server has given a sign of life."""

    async def list_models(self) -> frozenset[tuple[str, str, str]]:
        """Folder, version and state of every model: another set when anything has changed."""

    async def infer(self, network: str, inputs: Arrays) -> np.ndarray:
        """Call a network ("folder:version")."""

    async def load(self, name: str) -> str:
        """Read a model again; return the key of its newest version. LoadError, UnknownModel."""

    async def unload(self, folder: str) -> None:
        """Let go of a network. LoadError."""

    async def close(self) -> None:
        """Hang up."""


class ServerWorker:
    """While it is lost every call fails at once, those under way too."""

    device = "triton"
    max_calls = 2  # the transfer of one hides behind the computation of the other

    def __init__(self, name: str, server: Server, offer: Offer) -> None:
        self.name = name
        self.server = server
        self.suspected = asyncio.Event()
        self.num_answers = 0  # of any kind: each is a sign of life
        self._lost: str | None = None
        self._calls: set[asyncio.Task[np.ndarray]] = set()
        self.adopt(offer)

    @property
    def offer(self) -> Offer:
        """What the server offers."""
        return self._offer

    @offer.setter
    def offer(self, offer: Offer) -> None:
        self._offer, self._networks = offer, offer.networks

    @property
    def is_lost(self) -> bool:
        """Whether calls would fail until it is examined."""
        return self._lost is not None

    def serves(self, network: str) -> bool:
        """Whether the server offers a network."""
        return network in self._networks

    def adopt(self, offer: Offer) -> None:
        """It is there, and this is what it offers."""
        self.offer = offer
        self._lost = None
        self.suspected.clear()

    def lose(self, reason: str) -> None:
        """It cannot be used until it is examined again."""
        self._lost = self._lost or reason  # the first says most
        for call in self._calls:
            call.cancel()

    async def drained(self) -> None:
        """Return when no call is under way."""
        if self._calls:
            await asyncio.wait(self._calls)

    async def run(self, network: str, inputs: Arrays) -> np.ndarray:
        """Call a network of the server, in parts if it takes fewer rows; see Worker.run."""
        if self._lost is not None:
            raise WorkerLost(f"{self.name} {self._lost}")
        if network not in self._networks:
            raise BackendError(f"{self.name} offers no network {network!r}")
        most = self.offer.max_rows[network.rpartition(":")[0]]
        rows = len(next(iter(inputs.values())))
        if rows <= most:
            return await self._call(network, inputs)
        parts = [
            self._call(network, {name: values[i : i + most] for name, values in inputs.items()})
            for i in range(0, rows, most)
        ]
        return np.concatenate(await asyncio.gather(*parts))

    async def _call(self, network: str, inputs: Arrays) -> np.ndarray:
        call = asyncio.get_running_loop().create_task(self.server.infer(network, inputs))
        self._calls.add(call)
        try:
            await asyncio.wait([call])
        finally:
            self._calls.discard(call)
            call.cancel()
        if call.cancelled():
            raise WorkerLost(f"{self.name} {self._lost or 'was hung up on'}")
        if isinstance(call.exception(), Unreachable):
            self.lose("broke off")
            self.suspected.set()
        elif isinstance(call.exception(), NotThere):  # its other calls are none the worse for it
            self._networks -= {network}
            self.suspected.set()
        else:
            self.num_answers += 1
        return call.result()


async def failures(
    work: Callable[[Endpoint, ServerWorker], Awaitable[None]],
    workers: Mapping[Endpoint, ServerWorker],
) -> Mapping[str, BackendError]:
    """Do something with every server; return what went wrong, by the worker's name."""
    errors: dict[str, BackendError] = {}

    async def attempt(endpoint: Endpoint, worker: ServerWorker) -> None:
        try:
            await work(endpoint, worker)
        except BackendError as error:
            errors[worker.name] = error

    await asyncio.gather(*(attempt(*item) for item in workers.items()))
    return errors


def raise_all(errors: Mapping[str, BackendError]) -> None:
    """Raise LoadError naming every server on which something went wrong."""
    if errors:
        raise LoadError("; ".join(f"{name}: {error}" for name, error in sorted(errors.items())))
