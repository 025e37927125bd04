"""A backend for tests of concurrency: every call waits for the test, and may be made to fail.

Nothing here sleeps or looks at a clock, so tests do not depend on the speed of the machine.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from service.backends.base import Backend, BackendError

Spoil = Callable[[str, Mapping[str, np.ndarray], np.ndarray], np.ndarray]


@dataclass(eq=False)
class Call:
    """One call that has arrived; it returns when `release` is set."""

    model: str
    inputs: Mapping[str, np.ndarray]
    release: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def rows(self) -> int:
        """Batch size."""
        return len(next(iter(self.inputs.values())))


class ScriptedBackend:
    """Forwards to another backend, call by call as the test allows.

    `held`: calls wait for `Call.release`, and the test takes them from `arrived`. `fail(model,
    inputs)` returning True raises BackendError; `spoil` may change an output.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        num_workers: int = 1,
        held: bool = False,
        fail: Callable[[str, Mapping[str, np.ndarray]], bool] | None = None,
        spoil: Spoil | None = None,
    ) -> None:
        self._inner = inner
        self._num_workers = num_workers
        self._held = held
        self._fail = fail
        self._spoil = spoil
        self.calls: list[Call] = []
        self.arrived: asyncio.Queue[Call] = asyncio.Queue()
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def num_workers(self) -> int:
        """Calls that may be in flight."""
        return self._num_workers

    def let_go(self) -> None:
        """Hold no call any longer."""
        self._held = False
        for call in self.calls:
            call.release.set()

    async def run(self, model: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Announce the call, wait for the test, answer or fail."""
        call = Call(model, inputs)
        self.calls.append(call)
        self.arrived.put_nowait(call)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self._held:
                await call.release.wait()
            if self._fail is not None and self._fail(model, inputs):
                raise BackendError(f"{model} was told to fail")
            output = await self._inner.run(model, inputs)
            return output if self._spoil is None else self._spoil(model, inputs, output)
        finally:
            self.in_flight -= 1

    async def close(self) -> None:
        """Close the backend behind."""
        await self._inner.close()
