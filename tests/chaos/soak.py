"""A server under mixed load for long: `python -m tests.chaos.soak [--minutes 15] [--callers 6]`.

Starts a server process on the tiny model, does to it what callers do (see `mixed_load`), looks at
the memory of the server and its decoders every 5 s, and prints how it goes on after a warm-up.
Every second time it first lets what is in work end: at rest, memory is not that of the moment's
requests, and a slope is known better.

What is kept by design is bounded so tightly that it is full long before the warm-up is over:
answers up to 4 MB, ended jobs for 20 s. The warm-up is the first third.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from rich.console import Console

from tests.chaos.gate import Gate
from tests.chaos.heap_server import SIGNAL as HEAP_SIGNAL
from tests.chaos.heap_server import Heap
from tests.chaos.memory import children, resident_mb
from tests.chaos.mixed_load import PATIENCE_S, Caller, Seen, documented
from tests.chaos.slope import Line
from tests.e2e.test_server import Server, serving
from tests.support.tiny_repository import build_tiny_repository

CACHE_BYTES = 4 * 2**20
JOB_KEEP_S = 20
WARM_UP_SHARE = 1 / 3
FLAGS = (
    f"--cache-bytes={CACHE_BYTES}",
    f"--job-keep-s={JOB_KEEP_S}",
    "--max-pixels=1000000",  # one broken picture in its decoder would hide all else
    "--upload-timeout-s=10",
)
EMPTY_AT_REST = (
    "percept_requests_in_flight",
    "percept_buffered_bytes",
    "percept_pending_evaluations",
    'percept_jobs{state="queued"}',
    'percept_jobs{state="running"}',
)


@dataclass(frozen=True)
class Sample:
    """MB at a moment, `at_s` from the beginning; `decoders_mb` are all of them together."""

    at_s: float
    server_mb: float
    decoders_mb: float
    num_decoders: int
    at_rest: bool
    heap: Heap | None = None

    @property
    def total_mb(self) -> float:
        """What the service holds."""
        return self.server_mb + self.decoders_mb

    @property
    def heap_mb(self) -> float:
        """What is in use of the server's heap, 0 where that was not asked."""
        return 0.0 if self.heap is None else self.heap.used / 1e6

    @property
    def kilo_blocks(self) -> float:
        """Thousands of Python's small blocks, 0 where that was not asked."""
        return 0.0 if self.heap is None else self.heap.blocks / 1e3


@dataclass(frozen=True)
class Soak:
    """What came of it; `at_rest` are metrics once nobody called any more."""

    seen: Seen
    samples: Sequence[Sample]
    at_rest: dict[str, float]
    alive: bool
    tracebacks: int

    def warm(self, at_rest: bool) -> Sequence[Sample]:
        """Return the samples after the warm-up: those at rest, or the others."""
        from_s = WARM_UP_SHARE * self.samples[-1].at_s
        return [s for s in self.samples if s.at_s >= from_s and s.at_rest == at_rest]


def take(server: Server, begun: float, at_rest: bool) -> Sample:
    """Look at the processes now."""
    decoders = []
    for pid in children(server.process.pid):
        try:
            decoders.append(resident_mb(pid))
        except (FileNotFoundError, ProcessLookupError, AssertionError):
            continue  # it ended meanwhile
    held = resident_mb(server.process.pid)
    return Sample(time.monotonic() - begun, held, sum(decoders), len(decoders), at_rest)


async def look_inside(server: Server) -> Heap:
    """Ask a `heap_server` what its heap holds."""
    num_before = len(Heap.read_all("".join(server.log)))
    server.process.send_signal(HEAP_SIGNAL)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = Heap.read_all("".join(server.log))
            if len(found) > num_before:
                return found[-1]
            await asyncio.sleep(0.05)


async def metrics(client: httpx.AsyncClient) -> dict[str, float]:
    """Read all samples by name and labels."""
    text = (await client.get("/metrics")).raise_for_status().text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def come_to_rest(url: str) -> dict[str, float]:
    """Wait until nothing is in work, as long as patience lasts; return what the metrics say."""
    deadline = time.monotonic() + PATIENCE_S
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        while True:
            said = await metrics(client)
            at_rest = {name: said.get(name, 0.0) for name in EMPTY_AT_REST}
            if not any(at_rest.values()) or time.monotonic() > deadline:
                return at_rest
            await asyncio.sleep(0.1)


async def soak(
    server: Server,
    *,
    seconds: float,
    callers: int,
    seed: int,
    every_s: float,
    console: Console,
    inside: bool = False,
) -> Soak:
    """Call for so long and look on; also `inside` a `heap_server`."""
    seen = Seen(await documented(server.url))
    gate, begun = Gate(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            caller = Caller(server.port, seen, random.Random(1000 * seed + number))
            group.create_task(caller.call(gate))
        samples = [take(server, begun, at_rest=True)]
        while samples[-1].at_s < seconds and server.process.poll() is None:
            await asyncio.sleep(every_s)
            if samples[-1].at_rest:
                samples.append(take(server, begun, at_rest=False))
            else:
                async with gate.closed():
                    await come_to_rest(server.url)
                    heap = await look_inside(server) if inside else None
                    samples.append(replace(take(server, begun, at_rest=True), heap=heap))
            now = samples[-1]
            state = "rest" if now.at_rest else "work"
            console.print(
                f"{now.at_s:7.1f} s at {state}: server {now.server_mb:.1f} MB, "
                f"{now.num_decoders} decoders {now.decoders_mb:.1f} MB, "
                f"{sum(seen.answers.values())} calls, {len(seen.faults)} faults"
            )
        gate.end()
    at_rest = await come_to_rest(server.url)
    tracebacks = "".join(server.log).count("Traceback")
    return Soak(seen, samples, at_rest, server.process.poll() is None, tracebacks)


def show(done: Soak, console: Console) -> None:
    """Print the figures."""
    for at_rest in (False, True):
        warm = done.warm(at_rest)
        at_s = [sample.at_s for sample in warm]
        console.print(
            f"{len(warm)} samples {'at rest' if at_rest else 'at work'}, "
            f"{at_s[0]:.0f} to {at_s[-1]:.0f} s"
        )
        for name in ("total_mb", "server_mb", "decoders_mb"):
            console.print(f"  {name}: {Line.through(at_s, [getattr(s, name) for s in warm])}")
        if warm[-1].heap is not None:
            for name in ("heap_mb", "kilo_blocks"):
                console.print(f"  {name}: {Line.through(at_s, [getattr(s, name) for s in warm])}")
    console.print(f"calls: {sum(done.seen.answers.values())}")
    for what, count in sorted(done.seen.answers.items()):
        console.print(f"  {what}: {count}")
    console.print(f"cache: {dict(done.seen.cache)}")
    console.print(f"at rest: {done.at_rest}")
    console.print(f"alive: {done.alive}, tracebacks: {done.tracebacks}")
    console.print(f"faults: {len(done.seen.faults)} {done.seen.faults[:10]}")


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--callers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--heap", action="store_true", help="look at the server's heap, too")
    chosen = parser.parse_args()
    console = Console(highlight=False, width=200)
    with tempfile.TemporaryDirectory() as folder:
        repository = build_tiny_repository(Path(folder))
        module = "tests.chaos.heap_server" if chosen.heap else "service"
        with serving(repository, *FLAGS, module=module) as server:
            done = asyncio.run(
                soak(
                    server,
                    seconds=60 * chosen.minutes,
                    callers=chosen.callers,
                    seed=chosen.seed,
                    every_s=5.0,
                    console=console,
                    inside=chosen.heap,
                )
            )
            show(done, console)


if __name__ == "__main__":
    main()
