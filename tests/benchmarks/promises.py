"""Whether the service keeps what it promises: `python -m tests.benchmarks.promises`.

Starts a real server on `model_repo/` and prints (a) for several `budget_ms` the wall time of calls
one at a time on the idle server, and the share that came within the budget; (b) the time that the
engine predicts for working off a queue, which is what `Retry-After` says, beside the time it took;
(c) the server's memory while hundreds of calls with 12-megapixel pictures come at once, and what
they were answered. Asserts nothing; wants an otherwise idle machine.
"""

import argparse
import asyncio
import time
from collections import Counter
from itertools import product
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from service.backends.onnx import OnnxBackend
from service.core.tensors import model_tensors
from service.engine.engine import Engine
from tests.benchmarks.request_level import load_model
from tests.benchmarks.servers import percept, running
from tests.benchmarks.service import grainy, resident_mb
from tests.benchmarks.ticks import depth_request
from tests.support.pictures import encode

BUDGETS_MS = (70, 100, 150, 200, 400, 800)
QUEUES = ((8, 2, 2), (16, 10, 5), (32, 25, 3), (4, 50, 20))  # requests of steps x members
LARGE = (4000, 3000)  # px: 12 megapixels


def print_budgets(console: Console, url: str, repeats: int) -> None:
    """Part (a)."""
    table = Table(title=f"(a) budget_ms on an idle server, 1080p JPEG, {repeats} calls each")
    for column in ("budget ms", "steps x members", "p50 ms", "p95 ms", "within the budget"):
        table.add_column(column)
    image = encode(grainy(), "JPEG", quality=90)
    with httpx.Client(timeout=600) as client:
        for _ in range(5):  # what a server that has just started cannot know yet
            client.post(f"{url}/depth", files={"image": image}, data={"output": "png16"})
        for budget_ms in BUDGETS_MS:
            walls, plans = [], Counter[str]()
            data = {"budget_ms": str(budget_ms), "output": "png16"}
            for _ in range(repeats):
                start = time.perf_counter()
                answer = client.post(f"{url}/depth", files={"image": image}, data=data)
                walls.append(1e3 * (time.perf_counter() - start))
                if answer.status_code != httpx.codes.OK:
                    plans[f"{answer.status_code}"] += 1
                    continue
                headers = answer.headers
                plans[f"{headers['X-Percept-Steps']} x {headers['X-Percept-Ensemble']}"] += 1
            within = float(np.mean(np.array(walls) <= budget_ms))
            p50, p95 = np.percentile(walls, (50, 95))
            plan = plans.most_common(1)[0][0]
            table.add_row(str(budget_ms), plan, f"{p50:.0f}", f"{p95:.0f}", f"{100 * within:.0f} %")
    console.print(table)


async def print_drains(console: Console, repository: Path) -> None:
    """Part (b)."""
    model = load_model(repository)
    backend = OnnxBackend([model])
    engine = Engine(backend)
    await engine.start(model_tensors(model.artifact))
    table = Table(title="(b) time to work off a queue")
    for column in ("requests", "steps x members", "predicted s", "real s", "predicted / real"):
        table.add_column(column)
    for number, steps, members in QUEUES:
        for measured in (False, True):  # the first round settles the size of batches
            requests = [depth_request(model, steps, members, seed) for seed in range(number)]
            answers = [asyncio.create_task(engine.predict(request)) for request in requests]
            await asyncio.sleep(0)
            predicted, start = engine.drain_s(), time.perf_counter()
            await asyncio.gather(*answers)
            real = time.perf_counter() - start
            if measured:
                ratio = f"{predicted / real:.2f}"
                plan = f"{steps} x {members}"
                table.add_row(str(number), plan, f"{predicted:.2f}", f"{real:.2f}", ratio)
    await engine.stop()
    await backend.close()
    console.print(table)


async def post_at_once(url: str, image: bytes, number: int) -> Counter[str]:
    """How `number` calls at the same time are answered, by status."""
    limits = httpx.Limits(max_connections=number)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:

        async def post(steps: int, members: int) -> str:
            data = {"steps": str(steps), "ensemble": str(members), "output": "png16"}
            try:
                answer = await client.post(f"{url}/depth", files={"image": image}, data=data)
            except httpx.TransportError as error:
                return type(error).__name__
            return str(answer.status_code)

        plans = list(product((1, 2, 4), (1, 3)))
        posts = (post(*plans[index % len(plans)]) for index in range(number))
        return Counter(await asyncio.gather(*posts))


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.promises", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--repeats", type=int, default=40, help="calls of each budget")
    parser.add_argument("--crowd", type=int, default=500, help="calls at once with 12 megapixels")
    options = parser.parse_args()
    console = Console()
    with running(percept(options.repository)) as server:
        print_budgets(console, server.url, options.repeats)
    asyncio.run(print_drains(console, options.repository))
    noise = np.random.default_rng(2).normal(128, 40, (LARGE[1], LARGE[0], 3))
    image = encode(np.clip(noise, 0, 255).astype(np.uint8), "JPEG", quality=80)
    with running(percept(options.repository)) as server:
        answers = asyncio.run(post_at_once(server.url, image, options.crowd))
        peak_mb = resident_mb(server.process)
    told = ", ".join(f"{count} x {status}" for status, count in sorted(answers.items()))
    console.print(
        f"(c) {options.crowd} calls at once, {len(image) / 1e6:.1f} MB of JPEG and 12 megapixels "
        f"each: {told}; at most {peak_mb:.0f} MB resident (bound 2000)"
    )


if __name__ == "__main__":
    main()
