"""A process that runs the jobs of a Redis, to be killed: `python -m tests.support.job_process`.

Arguments: URL of Redis, a file to which it appends the id of every job that it ended, and the
seconds of a lease. An answer is the input's digest, after a few steps.
"""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from service.jobs.runner import JobRunner, RunnerTerms
from service.stores.base import Claim, JobRecord, JobResult, Progress, StoreLimits
from service.stores.redis import RedisPlace, RedisStore

STEPS = 8
STEP_S = 0.01
LIMITS = StoreLimits(max_attempts=10_000, max_events=10_000)


def expected_answer(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


async def answer(claim: Claim, report: Callable[[Progress], None]) -> JobResult:
    for step in range(STEPS):
        report(Progress(step, STEPS))
        await asyncio.sleep(STEP_S)
    return JobResult(expected_answer(claim.input), {"pid": str(os.getpid())})


async def main(url: str, log: str, lease_s: float) -> None:
    def note(job: JobRecord) -> None:
        with open(log, "a") as file:
            file.write(f"{job.id}\n")

    store = RedisStore(RedisPlace(url), LIMITS)
    terms = RunnerTerms(lease_s=lease_s, progress_every_s=STEP_S)
    JobRunner(store, answer, terms, note).start()
    await asyncio.Event().wait()


def start_process(url: str, log: Path, lease_s: float) -> subprocess.Popen[bytes]:
    """Start one; whoever does kills it."""
    command = [sys.executable, "-m", "tests.support.job_process", url, str(log), str(lease_s)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
