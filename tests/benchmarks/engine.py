"""How well the engine spends compute: `python -m tests.benchmarks.engine [--calls 150]`.

On the shipped model and this machine it prints (a) the share of time in model calls at saturation,
against the same calls back to back, and what a tick of 64 rows costs beside the call; (b) latencies
of one mixed trace of depth calls through Percept, a plain FastAPI server with a loop, and LitServe
with several batch sizes (`pip install -e '.[benchmark]'`; without it its rows are left out), each a
process of its own over HTTP; (c) an ensemble in one call against separate calls. How the others run
the model, and why that favours them, is said in `request_level.py`. Arrivals are Poisson at
`--load` times the rate at which answering one by one would take all the time; every steps x
members occurs equally often. Wants an otherwise idle machine; asserts nothing.
"""

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.benchmarks.ensembles import Way, compare_ensembles
from tests.benchmarks.request_level import RequestLevel, cheapest_rows, load_model
from tests.benchmarks.saturation import measure_saturation
from tests.benchmarks.servers import percept, request_level, running
from tests.benchmarks.ticks import engine_tick_s, scheduler_tick_s
from tests.benchmarks.traces import CLASSES, MEMBERS, STEPS, Replay, draw_trace, replay
from tests.support.pictures import encode, gradient

WIDTH, HEIGHT = 640, 480
BATCH_SIZES = (1, 4, 8)
TICK_ROWS = 64


def picture() -> bytes:
    """A JPEG with the grain of a photograph."""
    grain = np.random.default_rng(1).normal(scale=6, size=(HEIGHT, WIDTH, 3))
    pixels = np.clip(gradient(WIDTH, HEIGHT) + grain, 0, 255).astype(np.uint8)
    return encode(pixels, "JPEG", quality=90)


def print_saturation(console: Console, repository: Path, requests: int, rounds: int) -> None:
    """Part (a)."""
    model = load_model(repository)
    found = asyncio.run(measure_saturation(model, requests, rounds))
    table = Table(title=f"(a) saturation: {requests} requests at once, medians of {rounds} rounds")
    for column in ("what", "measured", "bound"):
        table.add_column(column)
    by_round = ", ".join(f"{100 * share:.1f}" for share in found.reached_by_round)
    table.add_row("wall of the engine", f"{found.engine_s:.3f} s, {found.num_calls} calls", "")
    table.add_row("the same calls back to back", f"{found.direct_s:.3f} s", "")
    table.add_row("rows of a denoiser call", f"{found.rows:.1f}", "")
    table.add_row("time in calls / wall", f"{100 * found.in_calls:.1f} %", "")
    reached = f"{100 * found.reached:.1f} % ({by_round})"
    table.add_row("back to back / wall of the engine", reached, ">= 97 %")
    tick_ms = 1e3 * asyncio.run(engine_tick_s(model, TICK_ROWS))
    scheduler_ms = 1e3 * scheduler_tick_s(TICK_ROWS)
    table.add_row(f"engine, a tick of {TICK_ROWS} rows", f"{tick_ms:.3f} ms", "<= 0.2 ms")
    table.add_row("of it the scheduler's order", f"{scheduler_ms:.3f} ms", "")
    console.print(table)


def call_costs(
    model: RequestLevel, image: bytes, repeats: int
) -> tuple[dict[tuple[int, int], float], int, int]:
    """Seconds of a call alone by (steps, members), and the cheapest rows of a step and an image.

    Measured piece by piece: reading, encoding, a step and a decoding of each number of members,
    drawing.
    """
    artifact = model.model.artifact
    step = model.networks.seconds(artifact.denoiser, repeats)
    decode = model.networks.seconds(artifact.decoder, repeats)
    step_rows, image_rows = cheapest_rows(step), cheapest_rows(decode)
    encode_s = model.networks.seconds(artifact.served("depth").encoder, repeats)[1]
    host = []
    for _ in range(repeats):
        begun = time.perf_counter()
        asked = model.read(image, 1, 1, 1)
        read = time.perf_counter()
        (fields,) = model.predict([asked])
        predicted = time.perf_counter()
        model.draw(asked, fields)
        host.append(read - begun + time.perf_counter() - predicted)

    def in_parts(seconds: dict[int, float], rows: int, most: int) -> float:
        whole, rest = divmod(rows, most)
        rest_s = float(np.interp(rest, list(seconds), list(seconds.values()))) if rest else 0.0
        return whole * seconds[most] + rest_s

    costs = {
        (steps, members): float(np.median(host))
        + encode_s
        + steps * in_parts(step, members, step_rows)
        + in_parts(decode, members, image_rows)
        for steps in STEPS
        for members in MEMBERS
    }
    return costs, step_rows, image_rows


def print_trace(console: Console, results: dict[str, Replay]) -> None:
    """Part (b)."""
    table = Table(title="(b) mixed trace: latency in ms from when a call was due")
    for column in ("system", "calls/s", "evaluations/s", "failed"):
        table.add_column(column)
    for kind in CLASSES:
        first = next(iter(results.values()))
        count = sum(answer.arrival.kind == kind for answer in first.answers)
        table.add_column(f"{kind} ({count})\np50 / p95 / p99")
    for name, result in results.items():
        cells = []
        for kind in CLASSES:
            found = result.percentiles_ms(kind)
            cells.append("-" if found is None else " / ".join(f"{ms:.0f}" for ms in found))
        rates = (f"{result.calls_per_s:.2f}", f"{result.evaluations_per_s:.0f}")
        table.add_row(name, *rates, str(result.num_failed), *cells)
    console.print(table)
    ours = results["Percept"].percentiles_ms("short")
    for name, result in results.items():
        theirs = result.percentiles_ms("short")
        if name != "Percept" and ours is not None and theirs is not None:
            pace = result.calls_per_s / results["Percept"].calls_per_s
            console.print(
                f"{name}: p95 of short calls {theirs[1] / ours[1]:.1f} x Percept's (bound >= 5), "
                f"throughput {pace:.3f} x"
            )


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.engine", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--requests", type=int, default=24, help="at saturation")
    parser.add_argument("--rounds", type=int, default=5, help="of saturation")
    parser.add_argument("--calls", type=int, default=150, help="of the trace")
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1, help="of the trace")
    parser.add_argument("--repeats", type=int, default=5, help="of single measurements")
    options = parser.parse_args()
    console, repository = Console(), options.repository
    print_saturation(console, repository, options.requests, options.rounds)

    image = picture()
    costs, step_rows, image_rows = call_costs(
        RequestLevel(repository, 4, 4), image, options.repeats
    )
    trace = draw_trace(options.calls, options.load, lambda s, m: costs[s, m], options.seed)
    mean_ms = 1e3 * np.mean([costs[call.steps, call.members] for call in trace])
    console.print(
        f"trace: {len(trace)} calls within {trace[-1].at_s:.1f} s, {mean_ms:.0f} ms each when "
        f"alone; the others' calls have at most {step_rows} rows (denoiser), {image_rows} (images)"
    )
    others = request_level(repository, step_rows, image_rows, BATCH_SIZES)
    results: dict[str, Replay] = {}
    ways: list[Way] = []
    for system in (percept(repository), *others):
        with running(system) as server:
            results[system.name] = asyncio.run(replay(f"{server.url}/depth", trace, image))
            if not ways:  # the first is ours
                ways = asyncio.run(
                    compare_ensembles(f"{server.url}/depth", image, (5, 10), 10, options.repeats)
                )
    print_trace(console, results)
    if len(others) == 1:
        console.print("litserve is not installed: pip install -e '.[benchmark]' for its rows")

    table = Table(title="(c) an ensemble of N in one call and in N, 10 steps each")
    for column in ("N", "way", "wall ms", "evaluations"):
        table.add_column(column)
    for way in ways:
        table.add_row(str(way.members), way.name, f"{way.wall_ms:.0f}", str(way.evaluations))
    console.print(table)


if __name__ == "__main__":
    main()
