"""Ten times the capacity: `python -m tests.benchmarks.overload [--seconds 120] [--times 10]`.

Finds a server's peak with a few clients that wait for their answers, then offers a multiple of that
whatever comes back, and prints goodput, what was refused and how well `Retry-After` told the time
until the work admitted by then was done, how long `/healthz` and `/metrics` took, and the memory.
Asserts nothing: machines differ. The load comes from this machine too, so cores are shared.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import multiprocessing
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console

from tests.benchmarks.servers import Server, percept, running
from tests.support.pictures import encode, gradient

CLIENTS_AT_PEAK = 16
PROBE_EVERY_S = 0.1
LAST_S = 5.0  # of refusals, whose Retry-After is held against what followed
PROBED = ("healthz", "metrics")
FILES = {"image": encode(gradient(512, 384), "JPEG", quality=90)}


@dataclass(frozen=True)
class Call:
    """Bytes to be sent to an address."""

    host: str
    port: int
    message: bytes


@dataclass(frozen=True)
class Asked:
    """One call: its moments in s, its status (0 without an answer), and its Retry-After in s."""

    begun: float
    ended: float
    status: int
    retry_after: float | None


def call_of(server: Server, form: Mapping[str, str]) -> Call:
    """Return a call whose bytes are made once: a dear client would starve the server."""
    request = httpx.Request("POST", f"{server.url}/depth", data=dict(form), files=FILES)
    body = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    message = f"POST /depth HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode() + body
    return Call(request.url.host, request.url.port or 80, message)


async def ask(call: Call) -> Asked:
    """Make one call."""
    begun = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection(call.host, call.port)
        writer.write(call.message)
        answer = await reader.read(-1)
        writer.close()
    except OSError:
        return Asked(begun, time.monotonic(), 0, None)
    head = answer.partition(b"\r\n\r\n")[0].lower()
    after = re.search(rb"\r\nretry-after: (\d+)", head)
    status = int(head.split()[1]) if head else 0
    return Asked(begun, time.monotonic(), status, None if after is None else float(after[1]))


async def closed(call: Call, seconds: float) -> list[Asked]:
    """Clients that each wait for their answer."""
    asked: list[Asked] = []

    async def one() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            asked.append(await ask(call))

    await asyncio.gather(*(one() for _ in range(CLIENTS_AT_PEAK)))
    return asked


async def offered(call: Call, seconds: float, per_s: float) -> list[Asked]:
    """Calls at random moments, whatever becomes of them; waits for all at the end."""
    moments = np.random.default_rng(1)
    calls = []
    due = time.monotonic()
    until = due + seconds
    while due < until:
        due += moments.exponential(1 / per_s)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        calls.append(asyncio.create_task(ask(call)))
    return list(await asyncio.gather(*calls))


def cpu_s(server: Server) -> float:
    """Processor seconds that a server's own process has used."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def probe(url: str, stopping: Event, found: dict[str, list[float]]) -> None:
    """Ask for health and metrics in a process of its own; seconds each, on a fresh connection."""
    took: dict[str, list[float]] = {path: [] for path in PROBED}
    host, port = url.removeprefix("http://").split(":")
    while not stopping.wait(PROBE_EVERY_S):
        for path in PROBED:
            begun = time.monotonic()
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            connection.request("GET", f"/{path}")
            assert len(connection.getresponse().read()) > 0
            connection.close()
            took[path].append(time.monotonic() - begun)
    found.update(took)


def watch_memory(server: Server, stopping: Event, most_mb: Synchronized[float]) -> None:
    """Keep the most resident memory of a server and the processes that it started, in MB."""
    while not stopping.wait(0.5):
        total = 0.0
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if int(fields[2]) == server.process.pid:  # its process group
                total += int(fields[21]) * 4096 / 1e6
        most_mb.value = max(most_mb.value, total)


def per_second(asked: list[Asked], begun: float, ended: float) -> float:
    """Answers in a span of time, a second."""
    good = [call for call in asked if call.status == 200 and begun <= call.ended < ended]
    return len(good) / (ended - begun)


def by_5_s(asked: list[Asked], begun: float) -> list[int]:
    """Answers in each five seconds."""
    spans = Counter(int((call.ended - begun) // 5) for call in asked if call.status == 200)
    return [spans[number] for number in range(max(spans) + 1)]


def drains(asked: list[Asked], since: float) -> list[float]:
    """Retry-After of the last refusals over the time until all was answered that was admitted.

    Only when no more calls come can that be told: before, newcomers share the machine.
    """
    last = max(call.ended for call in asked if call.status == 200)
    return [
        call.retry_after / (last - call.ended)
        for call in asked
        if call.retry_after is not None and since <= call.ended < last
    ]


def report(asked: list[Asked], begun: float, seconds: float, peak: float) -> list[str]:
    """Lines about answers and refusals; `peak` in answers a second."""
    last = max(call.ended for call in asked if call.status == 200)
    goodput, whole = (per_second(asked, begun, end) for end in (begun + seconds, last))
    lines = [
        f"peak {peak:.2f} answers/s, goodput {goodput:.2f}/s: {goodput / peak:.0%}",
        f"until the last was answered {whole:.2f}/s: {whole / peak:.0%}; by 5 s:",
        str(by_5_s(asked, begun)),
        f"{len(asked)} calls in {seconds:.0f} s, by status:",
        str(dict(Counter(call.status for call in asked))),
    ]
    if ratios := drains(asked, begun + seconds - LAST_S):
        near = statistics.fmean(0.75 <= ratio <= 1.25 for ratio in ratios)
        low, middle, high = np.percentile(ratios, (5, 50, 95))
        lines.append(f"Retry-After / true: {low:.2f}, {middle:.2f}, {high:.2f} (p5, 50, 95)")
        lines.append(f"within 25 %: {near:.0%} of {len(ratios)}")
    return lines


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.overload", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--places", type=int, default=256, help="PERCEPT_MAX_CONCURRENT_REQUESTS")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--ensemble", type=int, default=8)
    options = parser.parse_args()
    form = {"steps": str(options.steps), "ensemble": str(options.ensemble), "output": "png16"}
    console = Console()
    processes = multiprocessing.get_context("fork")
    plain = percept(options.repository)
    places = f"--max-concurrent-requests={options.places}"
    system = replace(plain, command=(*plain.command, places))
    with running(system) as server, processes.Manager() as manager:
        call = call_of(server, form)
        asyncio.run(closed(call, 5))  # warms up
        begun, used = time.monotonic(), cpu_s(server)
        at_peak = asyncio.run(closed(call, 30))
        peak = per_second(at_peak, begun, time.monotonic())  # they end in waves: count whole ones
        peak_cpu_s = (cpu_s(server) - used) / len(at_peak)
        stopping, most_mb, took = processes.Event(), processes.Value("d", 0.0), manager.dict()
        helpers = [
            processes.Process(target=probe, args=(server.url, stopping, took)),
            processes.Process(target=watch_memory, args=(server, stopping, most_mb)),
        ]
        for helper in helpers:
            helper.start()
        begun, used = time.monotonic(), cpu_s(server)
        asked = asyncio.run(offered(call, options.seconds, options.times * peak))
        used = (cpu_s(server) - used) / sum(call.status == 200 for call in asked)
        stopping.set()
        for helper in helpers:
            helper.join()
        for line in report(asked, begun, options.seconds, peak):
            console.print(line)
        console.print(f"{used:.3f} s of its processors an answer, {peak_cpu_s:.3f} at the peak")
        for path in PROBED:
            p50, p99, most = np.percentile([1000 * s for s in took[path]], (50, 99, 100))
            late = statistics.fmean(s > 0.1 for s in took[path])
            console.print(
                f"/{path}: {p50:.0f}, {p99:.0f}, {most:.0f} ms (p50, 99, most) of"
                f" {len(took[path])}, {late:.2%} above 100 ms"
            )
        console.print(f"at most {most_mb.value:.0f} MB resident")


if __name__ == "__main__":
    main()
