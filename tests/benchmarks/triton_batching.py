"""What Triton's dynamic batching gains: the shipped denoiser, called by several at once over gRPC.

`python -m tests.benchmarks.triton_batching [--rounds 6] [--seconds 0.4]`

The numbers in `training/triton_config.py` come from here. One server; the denoiser is loaded anew
with each choice of configuration, and the choices take turns, so that a disturbance hits all. Every
caller has one call in flight. Prints, by callers and rows of a call: rows a second as a ratio to
those without batching, the time of a call, and how many calls ran as one.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.support.triton_server import ROOT, TritonServer, triton_server

FOLDER = "percept_denoiser"
LOADS = [(callers, rows) for rows in (1, 4, 16) for callers in (1, 2, 4, 8)]
TYPES = {"TYPE_FP32": (np.float32, "FP32"), "TYPE_INT64": (np.int64, "INT64")}


@dataclass(frozen=True)
class Choice:
    """A configuration; no `batching` is one execution per call."""

    batching: bool
    preferred: tuple[int, ...] = ()
    delay_us: int = 0
    instances: int = 1

    def __str__(self) -> str:
        if not self.batching:
            return f"none, x{self.instances}"
        preferred = ",".join(map(str, self.preferred)) or "any"
        return f"{preferred}; {self.delay_us} us; x{self.instances}"

    def applied(self, config: dict[str, Any]) -> dict[str, Any]:
        """The served configuration with this choice in it."""
        changed = {key: value for key, value in config.items() if key != "dynamic_batching"}
        changed["instance_group"] = [{"count": self.instances, "kind": "KIND_CPU"}]
        if self.batching:
            changed["dynamic_batching"] = {
                "preferred_batch_size": list(self.preferred),
                "max_queue_delay_microseconds": self.delay_us,
            }
        return changed


CHOICES = (
    Choice(False),
    Choice(False, instances=2),
    Choice(True),
    Choice(True, instances=2),
    Choice(True, (16, 32, 64), 100),
    Choice(True, (16, 32, 64), 100, instances=2),
    Choice(True, (16, 32, 64), 500),
    Choice(True, (8, 16, 32, 64), 500),
    Choice(True, (16, 32, 64), 2000),
)


@dataclass(frozen=True)
class Outcome:
    """Of one load: rows a second, milliseconds of a call, and calls that ran as one."""

    rows_per_s: float
    p50_ms: float
    merged: float


def get(server: TritonServer, path: str) -> Any:
    with urllib.request.urlopen(server.http_url + path, timeout=60) as answer:
        return json.load(answer)


def load(server: TritonServer, config: dict[str, Any]) -> None:
    body = json.dumps({"parameters": {"config": json.dumps(config)}}).encode()
    url = f"{server.http_url}/v2/repository/models/{FOLDER}/load"
    urllib.request.urlopen(url, body, timeout=60).close()


def counts(server: TritonServer) -> tuple[int, int]:
    """Calls answered and executions until now."""
    (stats,) = get(server, f"/v2/models/{FOLDER}/versions/1/stats")["model_stats"]
    return stats["inference_stats"]["success"]["count"], stats["execution_count"]


def call_inputs(config: dict[str, Any], rows: int) -> list[Any]:
    from tritonclient.grpc.aio import InferInput

    inputs = []
    for entry in config["input"]:
        dtype, name = TYPES[entry["data_type"]]
        shape = (rows, *entry["dims"])
        values = np.random.default_rng(0).normal(size=shape)
        sent = InferInput(entry["name"], shape, name)
        sent.set_data_from_numpy((values if dtype is np.float32 else np.zeros(shape)).astype(dtype))
        inputs.append(sent)
    return inputs


async def measure(server: TritonServer, callers: int, rows: int, seconds: float) -> Outcome:
    from tritonclient.grpc.aio import InferenceServerClient

    inputs = call_inputs(get(server, f"/v2/models/{FOLDER}/config"), rows)
    times: list[float] = []
    async with InferenceServerClient(server.url) as client:

        async def caller(until: float) -> None:
            while (begun := time.perf_counter()) < until:
                await client.infer(FOLDER, inputs)
                times.append(time.perf_counter() - begun)

        await caller(time.perf_counter() + 0.2)
        times.clear()
        calls, runs = counts(server)
        begun = time.perf_counter()
        await asyncio.gather(*(caller(begun + seconds) for _ in range(callers)))
        wall = time.perf_counter() - begun
        calls_after, runs_after = counts(server)
    return Outcome(
        rows * len(times) / wall,
        1000 * statistics.median(times),
        (calls_after - calls) / (runs_after - runs),
    )


def report(found: dict[tuple[Choice, tuple[int, int]], list[Outcome]], console: Console) -> None:
    """Rows a second over those of the first choice, time of a call, calls in an execution."""
    for rows in sorted({rows for _, rows in LOADS}):
        loads = [load for load in LOADS if load[1] == rows]
        table = Table(title=f"{rows} rows a call: ratio of rows/s, p50 ms, merged calls")
        table.add_column("preferred; delay; instances")
        for callers, _ in loads:
            table.add_column(f"{callers} callers")
        for choice in CHOICES:
            cells = []
            for load_ in loads:
                ratios = [
                    outcome.rows_per_s / base.rows_per_s
                    for outcome, base in zip(
                        found[choice, load_], found[CHOICES[0], load_], strict=True
                    )
                ]
                p50 = statistics.median(outcome.p50_ms for outcome in found[choice, load_])
                merged = statistics.median(outcome.merged for outcome in found[choice, load_])
                cells.append(f"{statistics.median(ratios):.2f}  {p50:.1f}  {merged:.1f}")
            table.add_row(str(choice), *cells)
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.triton_batching", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.4)
    options = parser.parse_args()
    found: dict[tuple[Choice, tuple[int, int]], list[Outcome]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        more = ("--load", FOLDER)
        with triton_server(ROOT / "model_repo", Path(folder), threads=None, options=more) as server:
            config = get(server, f"/v2/models/{FOLDER}/config")
            for _ in range(options.rounds):
                for choice in CHOICES:
                    load(server, choice.applied(config))
                    for callers, rows in LOADS:
                        outcome = measure(server, callers, rows, options.seconds)
                        found[choice, (callers, rows)].append(asyncio.run(outcome))
    report(found, Console(width=120))


if __name__ == "__main__":
    main()
