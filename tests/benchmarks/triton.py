"""What a step costs through gRPC to a Triton server, over the same step in process.

`python -m tests.benchmarks.triton`: the shipped denoiser, one thread of computation on either side,
one call in flight in process and two to the server, whose transfers hide behind each other's
computation. Calls of both kinds alternate in rounds, and ratios are of one round.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from service.backends.addresses import Endpoint, parse_addresses
from service.backends.base import Worker
from service.backends.onnx import OnnxBackend
from service.backends.repository import load_repository
from service.backends.servers import ServerWorker
from service.backends.triton import TritonAccess, TritonServer
from service.core.tensors import model_tensors
from service.engine.profile import sample_inputs
from tests.support.triton_server import triton_server

REPOSITORY = Path("model_repo")
ROWS = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 9
ROUND_S = 0.6

Arrays = Mapping[str, np.ndarray]


async def call_s(worker: Worker, network: str, inputs: Arrays, in_flight: int) -> float:
    """Seconds between two answers with so many calls in flight."""
    num_calls, begun = 0, time.perf_counter()

    async def caller() -> None:
        nonlocal num_calls
        while time.perf_counter() - begun < ROUND_S:
            await worker.run(network, inputs)
            num_calls += 1

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return (time.perf_counter() - begun) / num_calls


async def compare(
    inner: Worker, outer: Worker, network: str, inputs: Arrays
) -> tuple[float, float, float, float]:
    """Medians of seconds in process, and to the server with one and two in flight; of the ratio."""
    rounds: list[tuple[float, float, float]] = []
    for _ in range(ROUNDS):
        rounds.append(
            (
                await call_s(inner, network, inputs, 1),
                await call_s(outer, network, inputs, 1),
                await call_s(outer, network, inputs, 2),
            )
        )
    inside, one, two = (statistics.median(times) for times in zip(*rounds, strict=True))
    return inside, one, two, statistics.median(last / first for first, _, last in rounds)


async def measure(url: str) -> Sequence[tuple[int, tuple[float, float, float, float]]]:
    """Every size of batch."""
    (model,) = load_repository(REPOSITORY).values()
    network = model.artifact.network(model.artifact.denoiser)
    signature = model_tensors(model.artifact)[network]
    backend = OnnxBackend([model], threads=1)
    (address,) = parse_addresses(url)
    server = TritonServer(TritonAccess(), Endpoint(address, address.host))
    try:
        worker = ServerWorker("triton", server, await server.examine())
        compared = partial(compare, backend.workers[0], worker, network)
        return [(rows, await compared(sample_inputs(signature, rows))) for rows in ROWS]
    finally:
        await server.close()
        await backend.close()


def main() -> None:
    """Print the table."""
    with (
        tempfile.TemporaryDirectory() as folder,
        triton_server(REPOSITORY, Path(folder)) as running,
    ):
        measured = asyncio.run(measure(running.url))
    table = Table(title="a denoiser call, ms")
    for column in ("rows", "in process", "gRPC, 1 in flight", "gRPC, 2 in flight", "overhead"):
        table.add_column(column, justify="right")
    for rows, (inside, one, two, ratio) in measured:
        cells = (f"{1e3 * seconds:.2f}" for seconds in (inside, one, two))
        table.add_row(str(rows), *cells, f"{100 * (ratio - 1):+.0f} %")
    Console().print(table)


if __name__ == "__main__":
    main()
