"""Brings models and workers of a backend to the engine and the catalog, while requests run.

A request keeps the version it was admitted with: a new version is shown to requests that come after
it is ready, and an old one is dropped when its last request is answered.
"""

import asyncio
from collections.abc import Sequence

from service.api.catalog import Catalog
from service.backends.base import Backend, LoadError, UnknownModel, Worker
from service.core.artifact import Artifact
from service.core.tensors import model_tensors
from service.engine.engine import Engine
from service.errors import ModelNotLoaded, NotFound


class ModelControl:
    """One per application; the backend's listener."""

    def __init__(self, catalog: Catalog, engine: Engine, backend: Backend) -> None:
        self._catalog = catalog
        self._engine = engine
        self._backend = backend
        self._withdrawn: set[str] = set()
        self._closing = False
        self._turn = asyncio.Lock()  # of loads and unloads: one after another
        self._refreshing = asyncio.Lock()
        self._refreshes: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start the engine on what there is, and follow what comes and goes."""
        await self._engine.start()
        await self._refresh()
        await self._backend.open(self)

    async def close(self) -> None:
        """Stop the engine, then the backend."""
        self._closing = True
        for refresh in self._refreshes:
            refresh.cancel()
        await self._engine.stop()
        await self._backend.close()

    def worker_joined(self, worker: Worker) -> None:
        """Use it."""
        if not self._closing:
            self._engine.add_worker(worker)

    def worker_left(self, name: str) -> None:
        """Let it finish, and give it nothing more."""
        if not self._closing:
            self._engine.retire_worker(name)

    def worker_lost(self, name: str) -> None:
        """Wait for it."""
        if not self._closing:
            self._engine.suspend_worker(name)

    def worker_back(self, name: str) -> None:
        """Use it again."""
        if not self._closing:
            self._engine.resume_worker(name)

    def models_changed(self) -> None:
        """Show what there is now, when its costs are known."""
        if self._closing:
            return
        self._engine.workers_changed()
        refresh = asyncio.get_running_loop().create_task(self._refresh())
        self._refreshes.add(refresh)
        refresh.add_done_callback(self._refreshes.discard)

    async def load(self, name: str) -> Sequence[Artifact]:
        """Read a model again and serve its new versions; return all versions, newest first.

        Raises NotFound, and ModelNotLoaded when what was served goes on as before.
        """
        async with self._turn:
            try:
                await self._backend.load(name)
            except UnknownModel as error:
                raise NotFound(f"There is no model {name!r} to load") from error
            except LoadError as error:
                raise ModelNotLoaded(f"{name} could not be loaded: {error}") from error
            await self._refresh()
        return self._versions(name)

    async def unload(self, name: str) -> Sequence[Artifact]:
        """Serve a model no more, and forget it when its last request is answered.

        Returns the versions that went. Raises NotFound, and ModelNotLoaded when it stays.
        """
        async with self._turn:
            going = [artifact for artifact in self._backend.artifacts if artifact.name == name]
            if not going:
                raise NotFound(f"No model {name!r} is served")
            self._withdrawn = {artifact.key for artifact in going}
            try:
                self._show()
                for artifact in going:
                    await self._engine.unused(artifact.key)
                await self._backend.unload(going)
            except LoadError as error:
                raise ModelNotLoaded(f"{name} could not be unloaded: {error}") from error
            finally:
                self._withdrawn = set()
                self._show()
        return going

    def _versions(self, name: str) -> Sequence[Artifact]:
        return [a for a in self._catalog.artifacts.values() if a.name == name]

    async def _refresh(self) -> None:
        async with self._refreshing:
            networks = {
                network: signature
                for artifact in self._backend.artifacts
                for network, signature in model_tensors(artifact).items()
            }
            await self._engine.learn(networks)
            self._show()

    def _show(self) -> None:
        self._catalog.show(a for a in self._backend.artifacts if a.key not in self._withdrawn)
