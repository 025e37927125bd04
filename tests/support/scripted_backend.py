"""A backend for tests of concurrency: every call waits for the test, and may be made to fail.

Nothing here sleeps or looks at a clock, so tests do not depend on the speed of the machine.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.backends.base import BackendError, WorkerSource

Inputs = Mapping[str, np.ndarray]
Fail = Callable[["Call"], bool]
Spoil = Callable[["Call", np.ndarray], np.ndarray]


@dataclass(eq=False)
class Call:
    """One call that has arrived at a worker; it returns when `release` is set."""

    worker: str
    model: str
    inputs: Inputs
    release: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def rows(self) -> int:
        """Batch size."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class ScriptedWorker:
    """One of the workers; all of them do what the backend says."""

    backend: "ScriptedBackend"
    name: str
    max_calls: int
    device: str = "scripted"

    def serves(self, network: str) -> bool:
        """What the backend behind serves."""
        return self.backend.serves(network)

    async def run(self, network: str, inputs: Inputs) -> np.ndarray:
        """Announce the call, wait for the test, answer or fail."""
        return await self.backend.perform(Call(self.name, network, inputs))


class ScriptedBackend:
    """Forwards to another backend's first worker, call by call as the test allows.

    `held`: calls wait for `Call.release`, and the test takes them from `arrived`. `fail(call)`
    returning True raises `error`; `spoil` may change an output. Workers are "w0", "w1", ...
    """

    def __init__(
        self,
        inner: WorkerSource,
        *,
        num_workers: int = 1,
        max_calls: int = 1,
        held: bool = False,
        fail: Fail | None = None,
        spoil: Spoil | None = None,
        error: type[BackendError] = BackendError,
    ) -> None:
        self._inner = inner
        self._held = held
        self._fail = fail
        self._spoil = spoil
        self._error = error
        self.workers: Sequence[ScriptedWorker] = [
            ScriptedWorker(self, f"w{i}", max_calls) for i in range(num_workers)
        ]
        self.calls: list[Call] = []
        self.arrived: asyncio.Queue[Call] = asyncio.Queue()
        self.in_flight = 0
        self.most_in_flight = 0

    def serves(self, network: str) -> bool:
        """What the backend behind serves."""
        return self._inner.workers[0].serves(network)

    def let_go(self) -> None:
        """Hold no call any longer."""
        self._held = False
        for call in self.calls:
            call.release.set()

    async def perform(self, call: Call) -> np.ndarray:
        """Announce the call, wait for the test, answer or fail."""
        self.calls.append(call)
        self.arrived.put_nowait(call)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self._held:
                await call.release.wait()
            if self._fail is not None and self._fail(call):
                raise self._error(f"{call.model} was told to fail")
            output = await self._inner.workers[0].run(call.model, call.inputs)
            return output if self._spoil is None else self._spoil(call, output)
        finally:
            self.in_flight -= 1
