"""What the engine asks of whatever runs the networks. Knows no runtime."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from service.core.artifact import Artifact


class BackendError(Exception):
    """A model could not be loaded, or a call of it failed; the message says which and why."""


class WorkerLost(BackendError):
    """The worker broke off under a call: that says nothing of what the call was about."""


class LoadError(BackendError):
    """A model could not be read or forgotten; what was served before still is."""


class UnknownModel(BackendError):
    """There is no model of that name to read."""


@runtime_checkable
class Worker(Protocol):
    """One device that runs the networks of a model repository, one batch at a time."""

    @property
    def name(self) -> str:
        """What it is called in logs and metrics, such as `cpu:0`; no two workers share a name."""

    @property
    def device(self) -> str:
        """The kind of device: workers of equal speed share it, and what is learnt of its costs."""

    @property
    def max_calls(self) -> int:
        """Calls that may be in flight: 1 where nothing is gained by more, 2 across a network."""

    def serves(self, network: str) -> bool:
        """Whether it has a network ("folder:version") at present; models come and go."""

    async def run(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Call a network ("folder:version") and return its single output, rows in input order.

        Arrays have the names, types and shapes of `model_tensors`. Does not block the event loop.
        Raises BackendError, which is WorkerLost when there was no answer at all. Equal inputs give
        equal outputs on every worker, up to rounding.
        """


@runtime_checkable
class Listener(Protocol):
    """Is told by a backend what can be used; quick, and called in the event loop."""

    def worker_joined(self, worker: Worker) -> None:
        """One more worker; no two share a name."""

    def worker_left(self, name: str) -> None:
        """A worker is to get no more calls."""

    def worker_lost(self, name: str) -> None:
        """A worker is to get no calls until it is back."""

    def worker_back(self, name: str) -> None:
        """A worker that was lost can be called again."""

    def models_changed(self) -> None:
        """`artifacts`, or what some worker serves, is another than before."""


@runtime_checkable
class WorkerSource(Protocol):
    """Has workers."""

    @property
    def workers(self) -> Sequence[Worker]:
        """One per device or server."""


@runtime_checkable
class Backend(WorkerSource, Protocol):
    """The workers of one kind, and the models that they serve.

    Both are there from the start or come while it is open; who opens it is told.
    """

    @property
    def artifacts(self) -> Sequence[Artifact]:
        """Every version of every model that at least one worker serves."""

    async def open(self, listener: Listener) -> None:
        """Begin to look for workers and models where these come and go; tell of each change."""

    async def load(self, name: str) -> None:
        """Read a model again: new versions are served beside those that are.

        Raises LoadError, which leaves what was served, and UnknownModel.
        """

    async def unload(self, artifacts: Sequence[Artifact]) -> None:
        """Forget these versions, which nobody uses any more. Raises LoadError."""

    async def close(self) -> None:
        """Let go of models and threads, after the calls in flight."""
