"""Many servers as workers: found by name, examined, followed, and let go.

A server becomes a worker when it has shown what it offers. It is asked for a sign of life all the
while, and shows its offer again after every interruption, since what comes back may be another.
Servers that a name no longer means are drained.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from service.backends.addresses import Address, Endpoint, Resolve, endpoints, resolve_host
from service.backends.base import BackendError, Listener, LoadError, UnknownModel
from service.backends.offers import Offer
from service.backends.servers import Server, ServerWorker
from service.core.artifact import Artifact

logger = logging.getLogger(__name__)

_BEATS_TO_ANSWER = 2  # a busy server answers late
_BEATS_TO_EXAMINE = 10

Connect = Callable[[Endpoint], Server]


class Fleet:
    """The servers that some addresses mean; see Backend.

    Every `heartbeat_s` a server is asked for a sign of life, every `refresh_s` for its models, and
    the resolver for the servers.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        connect: Connect,
        *,
        refresh_s: float,
        heartbeat_s: float,
        resolve: Resolve = resolve_host,
    ) -> None:
        self._addresses = addresses
        self._connect = connect
        self._refresh_s = refresh_s
        self._heartbeat_s = heartbeat_s
        self._resolve = resolve
        self._workers: dict[Endpoint, ServerWorker] = {}
        self._followed: dict[Endpoint, asyncio.Task[None]] = {}
        self._said: dict[Endpoint, str] = {}
        self._listener: Listener | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def workers(self) -> Sequence[ServerWorker]:
        """Servers that have shown their offer, the longest known first."""
        return tuple(self._workers.values())

    @property
    def artifacts(self) -> Sequence[Artifact]:
        """What they offer together."""
        return tuple(self._offered_by(self._workers.values()).values())

    async def open(self, listener: Listener) -> None:
        """Look for servers from now on."""
        self._listener = listener
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def close(self) -> None:
        """Hang up everywhere."""
        tasks = [task for task in (self._looking, *self._followed.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def load(self, name: str) -> None:
        """Let every server read a model again."""

        async def load(endpoint: Endpoint, worker: ServerWorker) -> None:
            key = await worker.server.load(name)
            self._adopt(endpoint, await worker.server.examine())
            if key not in worker.offer.artifacts:
                raise LoadError("; ".join(worker.offer.refusals) or f"{key} is not ready")

        results = await self._everywhere(load)
        if all(isinstance(error, UnknownModel) for error in results.values()):
            raise UnknownModel(f"no server has a model {name!r}")
        _raise_first(results)

    async def unload(self, artifacts: Sequence[Artifact]) -> None:
        """Let every server forget these models."""
        folders = sorted({folder for artifact in artifacts for folder in artifact.folders})

        async def unload(endpoint: Endpoint, worker: ServerWorker) -> None:
            for folder in folders:
                await worker.server.unload(folder)
            self._adopt(endpoint, await worker.server.examine())

        _raise_first(await self._everywhere(unload))

    async def _everywhere(
        self, work: Callable[[Endpoint, ServerWorker], Awaitable[None]]
    ) -> Mapping[str, BackendError]:
        """Do something with every server; return what went wrong, by the worker's name."""
        workers = dict(self._workers)
        if not workers:
            raise LoadError("no server is connected")
        errors: dict[str, BackendError] = {}

        async def attempt(endpoint: Endpoint, worker: ServerWorker) -> None:
            try:
                await work(endpoint, worker)
            except BackendError as error:
                errors[worker.name] = error

        await asyncio.gather(*(attempt(*item) for item in workers.items()))
        return errors

    def _offered_by(self, workers: Iterable[ServerWorker]) -> dict[str, Artifact]:
        offered: dict[str, Artifact] = {}
        for worker in workers:
            for key, artifact in worker.offer.artifacts.items():
                offered.setdefault(key, artifact)
        return offered

    async def _look(self) -> None:
        """Follow every server that the addresses mean, and no others."""
        while True:
            found = await endpoints(self._addresses, self._resolve)
            if found is None:
                logger.warning("the servers' names cannot be resolved at present")
            else:
                for endpoint in found - self._followed.keys():
                    follow = self._follow(endpoint)
                    self._followed[endpoint] = asyncio.get_running_loop().create_task(follow)
                for endpoint in self._followed.keys() - found:
                    self._followed.pop(endpoint).cancel()
            await asyncio.sleep(self._refresh_s)

    async def _follow(self, endpoint: Endpoint) -> None:
        """Use a server as long as it is well; ends by being cancelled."""
        server = self._connect(endpoint)
        try:
            while True:
                try:
                    async with asyncio.timeout(_BEATS_TO_EXAMINE * self._heartbeat_s):
                        models = await server.list_models()
                        self._adopt(endpoint, await server.examine(), server)
                except (BackendError, TimeoutError) as error:
                    self._say(endpoint, f"cannot be used: {str(error) or 'no answer'}")
                    await asyncio.sleep(self._heartbeat_s)
                else:
                    await self._watch(self._workers[endpoint], models)
        finally:
            worker = self._workers.pop(endpoint, None)
            self._said.pop(endpoint, None)
            if worker is not None and self._listener is not None:
                self._listener.worker_left(worker.name)
                self._listener.models_changed()
                with suppress(asyncio.CancelledError):  # closing: nobody waits for the calls
                    await worker.drained()
            await server.close()

    def _adopt(self, endpoint: Endpoint, offer: Offer, server: Server | None = None) -> None:
        """Take a server's present offer, but for what differs from what others offer."""
        others = (worker for at, worker in self._workers.items() if at != endpoint)
        elsewhere = self._offered_by(others)
        fitting = {
            key: artifact
            for key, artifact in offer.artifacts.items()
            if elsewhere.get(key, artifact) == artifact
        }
        odd = tuple(
            f"{key} is not the {key} that other servers have: give what is new a new version"
            for key in offer.artifacts.keys() - fitting.keys()
        )
        offer = replace(offer, artifacts=fitting, refusals=(*offer.refusals, *odd))
        self._say(
            endpoint, "; ".join((f"offers {', '.join(fitting) or 'nothing'}", *offer.refusals))
        )
        worker = self._workers.get(endpoint)
        if worker is not None:
            worker.adopt(offer)
        elif server is not None:
            worker = self._workers[endpoint] = ServerWorker(
                f"triton:{endpoint.address}", server, offer
            )
            if self._listener is not None:
                self._listener.worker_joined(worker)
        if self._listener is not None:
            self._listener.models_changed()

    async def _watch(self, worker: ServerWorker, models: frozenset[tuple[str, str, str]]) -> None:
        """Return when the server is to be examined: it was lost, or its models have changed."""
        loop = asyncio.get_running_loop()
        refresh_at = loop.time() + self._refresh_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_s):
                    await worker.suspected.wait()
                    worker.lose("broke off")
                    return
            heard = worker.num_answers
            try:
                async with asyncio.timeout(_BEATS_TO_ANSWER * self._heartbeat_s):
                    await worker.server.beat()
                    if loop.time() >= refresh_at:
                        refresh_at = loop.time() + self._refresh_s
                        if await worker.server.list_models() != models:
                            return
            except (BackendError, TimeoutError) as error:
                if isinstance(error, TimeoutError) and worker.num_answers > heard:
                    continue  # too busy for this, but not for what it is there for
                worker.lose("gives no sign of life")
                return

    def _say(self, endpoint: Endpoint, what: str) -> None:
        """Log what has changed about a server, once."""
        if self._said.get(endpoint) != what:
            self._said[endpoint] = what
            logger.info("the server at %s %s", endpoint.address, what)


def _raise_first(errors: Mapping[str, BackendError]) -> None:
    """Raise LoadError naming every server on which something went wrong."""
    if errors:
        raise LoadError("; ".join(f"{name}: {error}" for name, error in sorted(errors.items())))
