"""One process and many workers: `python -m tests.benchmarks.fleet [--seconds 8] [--measure]`.

No model runs: calls take what a device of the table in `fleet_costs.py` would take (`--measure`
adds this machine's CPU). Prints (a) fleets of 1 to 256 workers on a virtual clock: utilisation,
fairness among equal callers who ask for quite different plans, and what a tick costs this process;
(b) 64 workers that really wait for timers, dispatched by the engine in one event loop; (c) what a
tick costs against its rows, for arrays of the shipped model and of one pixel. Asserts nothing.
"""

import argparse
import asyncio
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from service.backends.repository import ServedModel
from tests.benchmarks.fleet_costs import (
    DEVICES,
    Device,
    jain,
    measured_here,
    spread,
    with_small_arrays,
)
from tests.benchmarks.request_level import load_model
from tests.benchmarks.simulation import Fleet
from tests.benchmarks.ticks import engine_tick_s, scheduler_tick_s
from tests.benchmarks.timers import dispatch

NUM_CALLERS = 8


def print_virtual(
    console: Console,
    model: ServedModel,
    devices: tuple[Device, ...],
    fleets: list[int],
    max_rows: int,
    calls: int,
) -> None:
    """Part (a)."""
    title = f"(a) virtual clock, {NUM_CALLERS} equal callers, at most {max_rows} rows a call"
    table = Table(title=title)
    for column in ("device", "workers", "busy", "calls", "rows a call", "us a tick", "Jain index"):
        table.add_column(column)
    table.add_column("most - least,\nof a share")
    table.add_column("the same as\ncharged")
    small = with_small_arrays(model)
    for device in devices:
        for num_workers in fleets:
            fleet = Fleet(small, device, num_workers, NUM_CALLERS, max_rows)
            found = fleet.run(max(calls, 32 * num_workers))
            table.add_row(
                device.name,
                str(num_workers),
                f"{100 * found.utilisation:.1f} %",
                str(found.num_ticks),
                f"{found.rows:.1f}",
                f"{1e6 * found.tick_s:.0f}",
                f"{jain(found.service_s):.5f}",
                f"{100 * spread(found.service_s):.1f} %",
                f"{100 * spread(found.charged_s):.1f} %",
            )
    console.print(table)


def print_dispatch(
    console: Console,
    model: ServedModel,
    devices: tuple[Device, ...],
    num_workers: int,
    max_rows: int,
    seconds: float,
) -> None:
    """Part (b)."""
    table = Table(title=f"(b) event loop, {num_workers} workers, {seconds:.0f} s each")
    for column in ("device", "busy (bound >= 95 %)", "calls/s", "rows a call", "us a tick"):
        table.add_column(column)
    table.add_column("this process busy")
    for device in devices:
        found = asyncio.run(dispatch(model, device, num_workers, max_rows, seconds))
        table.add_row(
            device.name,
            f"{100 * found.utilisation:.1f} %",
            f"{found.num_ticks / (0.75 * seconds):.0f}",
            f"{found.rows:.1f}",
            f"{1e6 * found.tick_s:.0f}",
            f"{100 * found.process_share:.0f} %",
        )
    console.print(table)


def print_growth(console: Console, model: ServedModel, rows: list[int], rounds: int) -> None:
    """Part (c)."""
    table = Table(title="(c) microseconds of a tick beside the model call")
    for column in ("rows", "engine, shipped arrays", "engine, arrays of one pixel", "scheduler"):
        table.add_column(column)
    small = with_small_arrays(model)
    found = [
        (
            1e6 * asyncio.run(engine_tick_s(model, count, rounds)),
            1e6 * asyncio.run(engine_tick_s(small, count, rounds)),
            1e6 * scheduler_tick_s(count),
        )
        for count in rows
    ]
    for count, costs in zip(rows, found, strict=True):
        table.add_row(str(count), *(f"{cost:.0f}" for cost in costs))
    lines = []
    for costs in zip(*found, strict=True):
        slope, fixed = np.polyfit(rows, costs, 1)
        share = float(np.corrcoef(rows, costs)[0, 1]) ** 2
        lines.append(f"{fixed:.0f} + {slope:.2f} x rows (r2 {share:.3f})")
    table.add_row("line", *lines)
    console.print(table)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.fleet", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--fleets", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--calls", type=int, default=2000, help="simulated, at least")
    parser.add_argument("--max-rows", type=int, default=64)
    parser.add_argument("--workers", type=int, default=64, help="in real time")
    parser.add_argument("--seconds", type=float, default=8.0, help="of real time, per device")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help="add this machine's CPU")
    options = parser.parse_args()
    console, model = Console(), load_model(options.repository)
    devices = DEVICES + ((measured_here(model),) if options.measure else ())
    print_virtual(console, model, devices, options.fleets, options.max_rows, options.calls)
    print_dispatch(console, model, devices, options.workers, options.max_rows, options.seconds)
    print_growth(console, model, options.rows, options.rounds)


if __name__ == "__main__":
    main()
