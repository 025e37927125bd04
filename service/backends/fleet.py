"""Many servers as workers: found by name, examined, followed, and let go.

A server becomes a worker when it has shown what it offers, is asked for signs of life, and shows
its offer again after every interruption. Servers that a name no longer means are drained.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from service.backends.addresses import Address, Endpoint, Resolve, endpoints, resolve_host
from service.backends.base import BackendError, Listener, LoadError, UnknownModel
from service.backends.offers import Offer
from service.backends.servers import Server, ServerWorker, failures, raise_all
from service.core.artifact import Artifact

logger = logging.getLogger(__name__)

_BEATS_TO_ANSWER = 2  # a busy server answers late
_BEATS_TO_EXAMINE = 10

Connect = Callable[[Endpoint], Server]


class Fleet:
    """The servers that some addresses mean; see Backend.

    `heartbeat_s` is between questions for a sign of life, `refresh_s` between those for a server's
    models, and the resolver's for servers.
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
        self._lost: set[ServerWorker] = set()  # of which the listener knows
        self._leaving: dict[Endpoint, asyncio.Task[None]] = {}
        self._contested: dict[Endpoint, Offer] = {}  # in full, of servers that contradict others
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
        """Hang up everywhere, after the calls in flight."""
        for endpoint in list(self._followed):
            self._leave(endpoint)
        ending = list(self._leaving.values())
        if self._looking is not None:
            self._looking.cancel()
            ending.append(self._looking)
        await asyncio.gather(*ending, return_exceptions=True)

    async def load(self, name: str) -> None:
        """Let every server read a model again."""
        if not self._workers:
            raise LoadError("no server is connected")

        async def load(endpoint: Endpoint, worker: ServerWorker) -> None:
            key = await worker.server.load(name)
            self._adopt(endpoint, await worker.server.examine())
            if key not in worker.offer.artifacts:
                raise LoadError("; ".join(worker.offer.refusals) or f"{key} is not ready")

        asked = len(self._workers)
        errors = await failures(load, self._workers)
        unknown = [error for error in errors.values() if isinstance(error, UnknownModel)]
        if asked == len(unknown):
            raise UnknownModel(f"no server has a model {name!r}")
        raise_all(errors)

    async def unload(self, artifacts: Sequence[Artifact]) -> None:
        """Let every server forget these models."""
        folders = sorted({folder for artifact in artifacts for folder in artifact.folders})

        async def unload(endpoint: Endpoint, worker: ServerWorker) -> None:
            for folder in folders:
                await worker.server.unload(folder)
            self._adopt(endpoint, await worker.server.examine())

        raise_all(await failures(unload, self._workers))

    def _offered_by(self, workers: Iterable[ServerWorker]) -> dict[str, Artifact]:
        """Where they differ there is one refused already."""
        return {key: a for worker in workers for key, a in worker.offer.artifacts.items()}

    async def _look(self) -> None:
        """Follow every server that the addresses mean, and no others."""
        while True:
            found = await endpoints(self._addresses, self._resolve)
            if found is None:
                logger.warning("the servers' names cannot be resolved at present")
            else:
                for endpoint in self._followed.keys() - found:
                    self._leave(endpoint)
                # One that is back while its calls of before still end is a worker after that.
                for endpoint in found - self._followed.keys() - self._leaving.keys():
                    follow = asyncio.get_running_loop().create_task(self._follow(endpoint))
                    follow.add_done_callback(partial(self._ended, endpoint))
                    self._followed[endpoint] = follow
            await asyncio.sleep(self._refresh_s)

    def _leave(self, endpoint: Endpoint) -> None:
        follow = self._leaving[endpoint] = self._followed.pop(endpoint)
        follow.cancel()

    def _ended(self, endpoint: Endpoint, follow: asyncio.Task[None]) -> None:
        """A server was left; or there is a defect, and it is followed anew at the next look."""
        if self._leaving.get(endpoint) is follow:
            del self._leaving[endpoint]
        else:
            self._followed.pop(endpoint, None)
        if not follow.cancelled() and follow.exception() is not None:
            logger.error("%s was given up for now", endpoint.address, exc_info=follow.exception())

    async def _follow(self, endpoint: Endpoint) -> None:
        """Use a server as long as it is well; ends by being cancelled."""
        server = self._connect(endpoint)
        try:
            while True:
                try:
                    async with asyncio.timeout(_BEATS_TO_ANSWER * self._heartbeat_s):
                        await server.beat()
                    async with asyncio.timeout(_BEATS_TO_EXAMINE * self._heartbeat_s):
                        models = await server.list_models()
                        self._adopt(endpoint, await server.examine(), server)
                except (BackendError, TimeoutError) as error:
                    if endpoint in self._workers:  # its models had changed: what it has is unknown
                        self._lose(self._workers[endpoint], "does not say what it offers")
                    self._say(endpoint, f"cannot be used: {str(error) or 'no answer'}")
                    if isinstance(error, TimeoutError):
                        server = await self._reconnect(endpoint, server)
                    await asyncio.sleep(self._heartbeat_s)
                else:
                    await self._watch(self._workers[endpoint], models)
        finally:
            worker = self._workers.pop(endpoint, None)
            self._said.pop(endpoint, None)
            self._contested.pop(endpoint, None)
            if worker is not None:
                self._lost.discard(worker)
                self._tell(lambda listener: listener.worker_left(worker.name))
                self._reconsider()
                await worker.drained()
            await server.close()

    async def _reconnect(self, endpoint: Endpoint, server: Server) -> Server:
        """A connection on which nothing comes may be dead at this end alone, for a long time."""
        await server.close()
        server = self._connect(endpoint)
        if endpoint in self._workers:
            self._workers[endpoint].server = server
        return server

    def _adopt(self, endpoint: Endpoint, offer: Offer, server: Server | None = None) -> None:
        """Take what a server offers at present."""
        fitting = self._fitting(endpoint, offer)
        worker = self._workers.get(endpoint)
        if worker is not None:
            worker.adopt(fitting)
            if worker in self._lost:
                self._lost.discard(worker)
                self._tell(lambda listener: listener.worker_back(worker.name))
        elif server is not None:
            name = f"triton:{endpoint.address}"
            joined = self._workers[endpoint] = ServerWorker(name, server, fitting)
            self._tell(lambda listener: listener.worker_joined(joined))
        self._reconsider()

    def _fitting(self, endpoint: Endpoint, offer: Offer) -> Offer:
        """A server's offer without what differs from what others offer."""
        elsewhere = self._offered_by(w for at, w in self._workers.items() if at != endpoint)
        fitting = {
            key: artifact
            for key, artifact in offer.artifacts.items()
            if elsewhere.get(key, artifact) == artifact
        }
        odd = tuple(
            f"{key} is not the {key} that other servers have: give what is new a new version"
            for key in offer.artifacts.keys() - fitting.keys()
        )
        if odd:
            self._contested[endpoint] = offer
        else:
            self._contested.pop(endpoint, None)
        refusals = (*offer.refusals, *odd)
        self._say(endpoint, "; ".join((f"offers {', '.join(fitting) or 'nothing'}", *refusals)))
        return replace(offer, artifacts=fitting, refusals=refusals)

    def _reconsider(self) -> None:
        """Take what was refused for the sake of a server that is gone, or has changed."""
        for endpoint, offer in list(self._contested.items()):
            if endpoint in self._workers:
                self._workers[endpoint].offer = self._fitting(endpoint, offer)
        self._tell(lambda listener: listener.models_changed())

    def _tell(self, what: Callable[[Listener], None]) -> None:
        if self._listener is not None:
            what(self._listener)

    async def _watch(self, worker: ServerWorker, models: frozenset[tuple[str, str, str]]) -> None:
        """Return when the server is to be examined: it was lost, or its models have changed."""
        loop = asyncio.get_running_loop()
        refresh_at = loop.time() + self._refresh_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_s):
                    await worker.suspected.wait()
                    if worker.is_lost:
                        self._lose(worker, "broke off")
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
                self._lose(worker, "gives no sign of life")
                return

    def _lose(self, worker: ServerWorker, reason: str) -> None:
        """Until it is examined its calls fail, and it is to get none."""
        worker.lose(reason)
        if worker not in self._lost:
            self._lost.add(worker)
            self._tell(lambda listener: listener.worker_lost(worker.name))

    def _say(self, endpoint: Endpoint, what: str) -> None:
        """Log what has changed about a server, once."""
        if self._said.get(endpoint) != what:
            self._said[endpoint] = what
            logger.info("the server at %s %s", endpoint.address, what)
