"""Steady load of mixed requests, each of whose answers is known beforehand."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx
import numpy as np

from tests.support.pictures import task_files
from tests.support.served import Arrays, client_of, read_npz

BOUND = 1e-4  # of an answer to the undisturbed one: batch mates differ, and with them the rounding
_TASKS = ("depth", "flow", "amodal")
_THINK_S = 0.05


@dataclass(frozen=True)
class Case:
    """A request whose answer depends on nothing else."""

    task: str
    steps: int
    ensemble: int
    seed: int

    async def ask(self, client: httpx.AsyncClient) -> httpx.Response:
        """Ask for the arrays."""
        fields = {"steps": self.steps, "ensemble": self.ensemble, "seed": self.seed}
        data = {"output": "npz", **{name: str(value) for name, value in fields.items()}}
        return await client.post(f"/{self.task}", files=task_files(self.task), data=data)


def mixed_cases(count: int = 24) -> list[Case]:
    """All tasks in turn, 1 to 8 steps, 1 to 4 members."""
    return [
        Case(_TASKS[i % 3], steps=1 + i % 8, ensemble=1 + i // 3 % 4, seed=i) for i in range(count)
    ]


@dataclass(frozen=True)
class Expected:
    """A case and its undisturbed answer."""

    case: Case
    arrays: Arrays

    def fault_of(self, response: httpx.Response) -> str | None:
        """What is wrong with an answer."""
        if response.status_code != 200:
            return f"{self.case}: {response.status_code} {response.text}"
        found = read_npz(response.content)
        if found.keys() != self.arrays.keys():
            return f"{self.case}: {sorted(found)}"
        for name, values in self.arrays.items():
            if values.shape != found[name].shape:
                return f"{self.case}: {name} is {found[name].shape}"
            if values.dtype.kind in "fiub":
                off = np.abs(values.astype(np.float64) - found[name].astype(np.float64)).max()
                if not off <= BOUND:
                    return f"{self.case}: {name} is off by {off}"
            elif not np.array_equal(values, found[name]):
                return f"{self.case}: {name} is {found[name]}"
        return None


async def undisturbed(repository: Path, cases: Sequence[Case]) -> list[Expected]:
    """Answer the cases one after another in this process, by onnxruntime."""
    expected = []
    async with client_of(repository) as client:
        for case in cases:
            response = await case.ask(client)
            assert response.status_code == 200, response.text
            expected.append(Expected(case, read_npz(response.content)))
    return expected


class Load:
    """So many callers, each with one request at a time and a moment's thought between two.

    Leaving the block waits for every answer, and fails if any was lost or differs.
    """

    def __init__(
        self, client: httpx.AsyncClient, expected: Sequence[Expected], *, callers: int = 8
    ) -> None:
        self._client = client
        self._cases: Iterator[Expected] = itertools.cycle(expected)
        self._num_callers = callers
        self._going = True
        self._callers: list[asyncio.Task[None]] = []
        self._present: set[asyncio.Task[None]] = set()
        self._answered = asyncio.Condition()
        self.num_answers = 0
        self.longest_s = 0.0
        self.faults: list[str] = []

    async def __aenter__(self) -> Load:
        self._callers = [asyncio.create_task(self._call()) for _ in range(self._num_callers)]
        await self.more(self._num_callers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._going = False
        if kind is None:
            await asyncio.gather(*self._callers)
            assert self.faults == []
            return
        for caller in self._callers:
            caller.cancel()
        await asyncio.wait(self._callers)

    async def more(self, count: int) -> None:
        """Return when so many more requests were answered; fails at an answer that is wrong."""
        wanted = self.num_answers + count
        async with self._answered:
            await self._answered.wait_for(lambda: self.num_answers >= wanted or self.faults)
        assert self.faults == []

    async def flow(self) -> float:
        """Seconds until all that are under way now were answered, and as many more as callers."""
        begun = time.monotonic()
        if self._present:
            await asyncio.wait(set(self._present))
        await self.more(self._num_callers)
        return time.monotonic() - begun

    async def _call(self) -> None:
        while self._going:
            request = asyncio.create_task(self._ask(next(self._cases)))
            self._present.add(request)
            request.add_done_callback(self._present.discard)
            await request
            await asyncio.sleep(_THINK_S)

    async def _ask(self, expected: Expected) -> None:
        begun = time.monotonic()
        try:
            fault = expected.fault_of(await expected.case.ask(self._client))
        except httpx.HTTPError as error:
            fault = f"{expected.case}: {error!r}"
        self.longest_s = max(self.longest_s, time.monotonic() - begun)
        async with self._answered:
            self.num_answers += 1
            if fault is not None:
                self.faults.append(fault)
            self._answered.notify_all()
