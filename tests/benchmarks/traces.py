"""A mixed trace of calls, and how a server did on it.

Open loop: a call is sent when it is due, whatever became of those before, and its latency counts
from that moment. A trace is a function of its seed and of what calls cost, so every system gets
the same one.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, product

import httpx
import numpy as np

STEPS = (1, 4, 10, 25, 50)
MEMBERS = tuple(range(1, 11))
CLASSES = ("short", "medium", "long")
_LONGEST_SHORT, _LONGEST_MEDIUM = 4, 50  # evaluations


@dataclass(frozen=True)
class Arrival:
    """A call that is due `at_s` seconds after the beginning."""

    at_s: float
    steps: int
    members: int
    seed: int

    @property
    def evaluations(self) -> int:
        """Rows of denoiser calls (depth has one component)."""
        return self.steps * self.members

    @property
    def kind(self) -> str:
        """One of `CLASSES`, by evaluations."""
        if self.evaluations <= _LONGEST_SHORT:
            return "short"
        return "medium" if self.evaluations <= _LONGEST_MEDIUM else "long"


@dataclass(frozen=True)
class Answered:
    """What became of a call: seconds from when it was due, and whether an answer came."""

    arrival: Arrival
    latency_s: float
    fine: bool


@dataclass(frozen=True)
class Replay:
    """Every call of a trace, and seconds from the beginning to the last answer."""

    answers: tuple[Answered, ...]
    wall_s: float

    @property
    def num_failed(self) -> int:
        """Calls without an answer."""
        return sum(not answer.fine for answer in self.answers)

    @property
    def calls_per_s(self) -> float:
        """Answers by time."""
        return (len(self.answers) - self.num_failed) / self.wall_s

    @property
    def evaluations_per_s(self) -> float:
        """Denoiser rows of the answers by time."""
        return sum(a.arrival.evaluations for a in self.answers if a.fine) / self.wall_s

    def percentiles_ms(self, kind: str) -> tuple[float, float, float] | None:
        """p50, p95 and p99 latency of a class, None where none of it was answered."""
        found = [1e3 * a.latency_s for a in self.answers if a.fine and a.arrival.kind == kind]
        if not found:
            return None
        p50, p95, p99 = np.percentile(found, (50, 95, 99))
        return float(p50), float(p95), float(p99)


def draw_trace(
    num_calls: int, load: float, seconds_of: Callable[[int, int], float], seed: int
) -> tuple[Arrival, ...]:
    """Poisson arrivals of every steps x members equally often, in random order.

    `seconds_of(steps, members)` is what a call costs alone; calls come at `load` times the rate at
    which a server that answers them one by one, with no pause, would be busy all the time.
    """
    generator = np.random.default_rng(seed)
    cells = list(product(STEPS, MEMBERS))
    order = [index for _ in range(-(-num_calls // len(cells))) for index in _shuffled(generator)]
    kinds = [cells[index] for index in islice(order, num_calls)]
    mean_s = float(np.mean([seconds_of(*kind) for kind in kinds]))
    times = np.cumsum(generator.exponential(mean_s / load, num_calls))
    return tuple(
        Arrival(float(at), steps, members, number)
        for number, (at, (steps, members)) in enumerate(zip(times, kinds, strict=True))
    )


def _shuffled(generator: np.random.Generator) -> Sequence[int]:
    order: list[int] = generator.permutation(len(STEPS) * len(MEMBERS)).tolist()
    return order


async def replay(url: str, trace: Sequence[Arrival], image: bytes) -> Replay:
    """Send a trace to `url`, after a few calls that warm the server up."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        for steps, members in ((1, 1), (2, 4), (2, 10)):
            (await _post(client, url, Arrival(0.0, steps, members, 0), image)).raise_for_status()
        begun = time.perf_counter()

        async def call(arrival: Arrival) -> Answered:
            await asyncio.sleep(begun + arrival.at_s - time.perf_counter())
            try:
                response = await _post(client, url, arrival, image)
                fine = response.status_code == httpx.codes.OK
            except httpx.HTTPError:
                fine = False
            return Answered(arrival, time.perf_counter() - begun - arrival.at_s, fine)

        answers = await asyncio.gather(*(call(arrival) for arrival in trace))
        return Replay(tuple(answers), time.perf_counter() - begun)


async def _post(
    client: httpx.AsyncClient, url: str, arrival: Arrival, image: bytes
) -> httpx.Response:
    knobs = {"steps": arrival.steps, "ensemble": arrival.members, "seed": arrival.seed}
    data = {name: str(value) for name, value in knobs.items()}
    return await client.post(url, files={"image": ("image.jpg", image)}, data=data)
