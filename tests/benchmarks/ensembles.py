"""An ensemble of N in one call against N calls with one member each."""

import asyncio
import statistics
import time
from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Way:
    """How N members were had: median wall time and the evaluations that the answers name."""

    members: int
    name: str
    wall_ms: float
    evaluations: int


async def compare_ensembles(
    url: str, image: bytes, sizes: tuple[int, ...], steps: int, repeats: int
) -> list[Way]:
    """One call, N calls one after another, and N at the same time, in turn."""
    ways = []
    async with httpx.AsyncClient(timeout=600) as client:

        async def call(members: int, seed: int) -> int:
            data = {"steps": str(steps), "ensemble": str(members), "seed": str(seed)}
            response = await client.post(url, files={"image": image}, data=data)
            response.raise_for_status()
            return int(response.headers["X-Percept-Evaluations"])

        async def together(members: int) -> int:
            return await call(members, 1)

        async def in_turn(members: int) -> int:
            return sum([await call(1, seed) for seed in range(members)])

        async def at_once(members: int) -> int:
            return sum(await asyncio.gather(*(call(1, seed) for seed in range(members))))

        named = {
            "one call": together,
            "N calls, one after another": in_turn,
            "N calls at once": at_once,
        }
        for members in sizes:
            walls: dict[str, list[float]] = {name: [] for name in named}
            spent = {}
            for repeat in range(repeats + 1):
                for name, way in named.items():
                    begun = time.perf_counter()
                    spent[name] = await way(members)
                    if repeat:  # the first warms up
                        walls[name].append(1e3 * (time.perf_counter() - begun))
            ways += [Way(members, n, statistics.median(walls[n]), spent[n]) for n in named]
    return ways
