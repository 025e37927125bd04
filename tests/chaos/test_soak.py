"""The soak itself, for seconds: what memory does needs `python -m tests.chaos.soak`."""

from pathlib import Path

from rich.console import Console

from tests.chaos.slope import Line
from tests.chaos.soak import FLAGS, soak
from tests.e2e.test_server import serving

SECONDS = 20.0


async def test_a_short_soak(tiny_repository: Path):
    with serving(tiny_repository, *FLAGS) as server:
        done = await soak(
            server, seconds=SECONDS, callers=4, seed=1, every_s=1.0, console=Console(quiet=True)
        )
    assert done.seen.faults == []
    assert done.alive
    assert done.tracebacks == 0
    assert set(done.at_rest.values()) == {0.0}
    assert {"prediction 200", "upload broken off", "answer broken off", "job 202"} <= set(
        done.seen.answers
    )
    assert done.samples[-1].at_s >= SECONDS


def test_the_slope_of_a_line_that_is_known():
    hour = 3600.0
    line = Line.through([0.0, hour, 2 * hour, 3 * hour], [100.0, 102.0, 104.0, 106.0])
    assert (line.mean, round(line.slope, 9), round(line.error, 9)) == (103.0, 2.0, 0.0)
