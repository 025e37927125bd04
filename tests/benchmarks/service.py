"""What one call costs on this machine: `python -m tests.benchmarks.service [--repeats 15]`.

Starts a real server on `model_repo/`, posts a 1080p JPEG (and a frame pair, and a picture with a
mask) one call at a time, and prints per output the median and 95th percentile of the wall time, the
part of it outside the model's networks, and at the end how long the server took to be ready and the
most memory it held. Asserts nothing: machines differ.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.benchmarks.servers import percept, running
from tests.support.pictures import encode, gradient

WIDTH, HEIGHT = 1920, 1080
CALLS = (
    ("depth", "color"),
    ("depth", "npz"),
    ("flow", "color"),
    ("flow", "flo"),
    ("amodal", "mask"),
    ("amodal", "rgb"),
)
MODEL_STAGES = ("encode", "denoise", "decode")


def grainy() -> np.ndarray:
    """Smooth colours under fine grain (h, w, 3), which cost a codec what a photograph does."""
    grain = np.random.default_rng(1).normal(scale=6, size=(HEIGHT, WIDTH, 3))
    return np.clip(gradient(WIDTH, HEIGHT) + grain, 0, 255).astype(np.uint8)


def uploads(task: str) -> dict[str, bytes]:
    """The files of one call."""
    image = encode(grainy(), "JPEG", quality=90)
    if task == "depth":
        return {"image": image}
    if task == "flow":
        return {"frame1": image, "frame2": image}
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[HEIGHT // 3 : 2 * HEIGHT // 3, WIDTH // 3 : 2 * WIDTH // 3] = 255
    return {"image": image, "mask": encode(mask, "PNG")}


def outside_model_ms(response: httpx.Response, wall_ms: float) -> float:
    """Wall time of a call without what its Server-Timing says was spent in the networks."""
    pairs = re.findall(r"(\w+);dur=([\d.]+)", response.headers["Server-Timing"])
    return wall_ms - sum(float(ms) for stage, ms in pairs if stage in MODEL_STAGES)


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    """The most memory that the server has held so far, in MB (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    return int(peak[1]) / 1000


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.service", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    console = Console()
    title = f"one call at a time, {WIDTH} x {HEIGHT} JPEG, {options.repeats} calls each"
    table = Table(title=title)
    for column in ("call", "steps x members", "p50 ms", "p95 ms", "outside the model, p50 ms"):
        table.add_column(column)
    with running(percept(options.repository)) as server, httpx.Client(timeout=600) as client:
        for task, output in CALLS:
            files = uploads(task)
            walls, outside, budget = [], [], ""
            for repeat in range(options.repeats + 1):
                start = time.perf_counter()
                response = client.post(
                    f"{server.url}/{task}", files=files, data={"output": output, "seed": "1"}
                )
                wall_ms = 1000 * (time.perf_counter() - start)
                response.raise_for_status()
                headers = response.headers
                budget = f"{headers['X-Percept-Steps']} x {headers['X-Percept-Ensemble']}"
                if repeat:  # the first call warms up
                    walls.append(wall_ms)
                    outside.append(outside_model_ms(response, wall_ms))
            table.add_row(
                f"{task} {output}",
                budget,
                f"{statistics.median(walls):.0f}",
                f"{np.percentile(walls, 95):.0f}",
                f"{statistics.median(outside):.0f}",
            )
        peak_mb = resident_mb(server.process)
    console.print(table)
    console.print(f"ready after {server.ready_s:.2f} s, at most {peak_mb:.0f} MB resident")


if __name__ == "__main__":
    main()
