"""The life of every admitted request, stage by stage: encode, denoise, decode.

Synchronous, with time as an argument: the engine asks for batches, calls the models, and hands
their outputs back. Everything that is not an event loop or a failing call is here. A plan with a
tolerance goes round: after decoding, new members may be added, which are denoised in their turn.
So does a request that is followed, for there to be something to see before the end.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from service.engine import batch as arrays
from service.engine.adaptive import estimated_change, next_round
from service.engine.batch import Rows
from service.engine.errors import EngineError
from service.engine.groups import Batch, Group, Stage
from service.engine.request import (
    EngineResult,
    Follow,
    PredictionRequest,
    Progress,
    Run,
    Timings,
    Trajectory,
    collect_fields,
    grow,
    make_run,
)
from service.engine.scheduler import StepScheduler


@dataclass(frozen=True, slots=True)
class Outcome:
    """A request has ended, one way or the other; the pipeline holds nothing of it any more."""

    owner: int
    result: EngineResult | EngineError


@dataclass(slots=True, eq=False)
class Live:
    """A request under way; times are in seconds. Mutable.

    `num_open` rows have not finished the present stage; `left` counts the rows that calls of each
    stage still have to take, whose group is in `groups`.
    """

    run: Run
    admitted: float
    groups: Mapping[Stage, Group]
    left: Counter[Stage] = field(default_factory=Counter)
    num_open: int = 1
    follow: Follow | None = None
    encode_started: float = 0.0
    encoded: float = 0.0
    denoised: float = 0.0


Absorb = Callable[[Rows, Mapping[str, np.ndarray], np.ndarray, float], list[Outcome]]


class Pipeline:
    """Requests are known by the number they were admitted under, their owner."""

    def __init__(self, row_cost: Callable[[Group], float]) -> None:
        """`row_cost` says what a row of a group costs, in any unit."""
        self._scheduler: StepScheduler[Trajectory] = StepScheduler(row_cost)
        self._live: dict[int, Live] = {}
        self._num_admitted = 0
        self.pending: Counter[Group] = Counter()
        """Rows that calls of each group still have to take for the requests under way."""
        self._absorb: dict[Stage, Absorb] = {
            "encode": self._absorb_conditions,
            "denoise": self._absorb_predictions,
            "decode": self._absorb_images,
        }

    def __len__(self) -> int:
        """Count the requests under way."""
        return len(self._live)

    def __contains__(self, owner: int) -> bool:
        """Whether a request is under way."""
        return owner in self._live

    def __iter__(self) -> Iterator[Live]:
        """The requests under way, oldest first."""
        return iter(self._live.values())

    @property
    def num_ready(self) -> int:
        """Rows that wait for a call."""
        return self._scheduler.num_ready

    @property
    def num_evaluations(self) -> int:
        """Rows of denoiser calls that the requests under way still need."""
        return sum(rows for group, rows in self.pending.items() if group.stage == "denoise")

    def admit(self, request: PredictionRequest, now: float, follow: Follow | None = None) -> int:
        """Begin a request, which somebody may follow; return its owner number."""
        self._num_admitted += 1
        in_rounds = request.plan.tolerance is not None or follow is not None
        run = make_run(self._num_admitted, request, in_rounds=in_rounds)
        live = Live(run, now, arrays.groups(request), follow=follow)
        self._live[run.owner] = live
        self._scheduler.admit(run.owner, request.terms)
        self._expect(live, "encode", 1)
        self._expect_members(live, len(run.trajectories))
        self._enter(live, "encode", run.trajectories[:1])  # one row stands for the whole request
        return run.owner

    def remove(self, owner: int) -> None:
        """Drop a request: waiting rows are freed now, rows in a call when their output comes."""
        live = self._live.pop(owner, None)
        if live is not None:
            for stage, rows in live.left.items():
                self._count(live.groups[stage], -rows)
            self._scheduler.remove(owner)

    def next_batch(
        self, max_rows: Callable[[Group], int], num_free_workers: int, now: float
    ) -> Batch[Trajectory] | None:
        """Choose the rows of the next call, or None when every row is in one."""
        batch = self._scheduler.next_batch(max_rows, num_free_workers)
        if batch is not None and batch.group.stage == "encode":
            for row in batch.rows:
                self._live[row.owner].encode_started = now
        return batch

    def absorb(
        self,
        group: Group,
        rows: Rows,
        inputs: Mapping[str, np.ndarray],
        output: np.ndarray,
        now: float,
    ) -> list[Outcome]:
        """Move rows on by the finite output of their call; return the requests thereby answered.

        Rows of removed requests are dropped.
        """
        num_wanted = 0
        for row in rows:
            row.failed_on, row.num_lost = (), 0
            live = self._live.get(row.owner)
            if live is not None:
                live.left[group.stage] -= 1
                num_wanted += 1
        self._count(group, -num_wanted)
        outcomes = self._absorb[group.stage](rows, inputs, output, now)
        if group.stage == "denoise":
            self._tell_followers({row.owner for row in rows})
        return outcomes

    def _tell_followers(self, owners: Iterable[int]) -> None:
        for owner in owners:
            live = self._live.get(owner)
            if live is not None and live.follow is not None:
                live.follow(_progress(live, None))

    def _absorb_conditions(
        self, rows: Rows, _inputs: Mapping[str, np.ndarray], conditions: np.ndarray, now: float
    ) -> list[Outcome]:
        for row, condition in zip(rows, conditions, strict=True):
            live = self._live.get(row.owner)
            if live is not None:
                live.run.condition = condition
                live.encoded = now
                self._enter(live, "denoise", live.run.trajectories)
        return []

    def _absorb_predictions(
        self, rows: Rows, inputs: Mapping[str, np.ndarray], predictions: np.ndarray, now: float
    ) -> list[Outcome]:
        arrays.take_step(rows, inputs["noisy"], predictions)
        unfinished = []
        for row in rows:
            live = self._live.get(row.owner)
            if live is None:
                continue
            if row.step < len(row.run.sampling.timesteps):
                unfinished.append(row)
                continue
            live.num_open -= 1
            if not live.num_open:
                live.denoised = now
                fresh = tuple(row for row in live.run.trajectories if row.image is None)
                self._enter(live, "decode", fresh)
        self._scheduler.put_back(unfinished)
        return []

    def _absorb_images(
        self, rows: Rows, _inputs: Mapping[str, np.ndarray], images: np.ndarray, now: float
    ) -> list[Outcome]:
        ended = []
        for row, image in zip(rows, images, strict=True):
            row.image = image
            live = self._live.get(row.owner)
            if live is None:
                continue
            live.num_open -= 1
            if not live.num_open and not self._grow(live, now):
                self.remove(row.owner)
                ended.append(Outcome(row.owner, _result(live, now)))
        return ended

    def _grow(self, live: Live, now: float) -> bool:
        """Add a round of members to a request whose answer would still change; False if none."""
        plan, members = live.run.request.plan, live.run.num_members
        if members >= plan.members or not self._wants_more(live, now):
            return False
        if live.follow is not None:
            live.follow(_progress(live, collect_fields(live.run)))
        wanted = next_round(members, plan.members)
        fresh = grow(live.run, wanted)
        self._expect_members(live, len(fresh))
        self._enter(live, "denoise", fresh)
        return True

    def _wants_more(self, live: Live, now: float) -> bool:
        request = live.run.request
        plan, until = request.plan, request.terms.grow_until
        if plan.tolerance is None:
            return True
        if until is not None and now > until:
            return False
        wanted = next_round(live.run.num_members, plan.members)
        return estimated_change(collect_fields(live.run), wanted) >= plan.tolerance

    def _enter(self, live: Live, stage: Stage, rows: Rows) -> None:
        live.num_open = len(rows)
        self._scheduler.add(live.groups[stage], rows)

    def _expect_members(self, live: Live, num_rows: int) -> None:
        self._expect(live, "denoise", num_rows * live.run.request.plan.steps)
        self._expect(live, "decode", num_rows)

    def _expect(self, live: Live, stage: Stage, num_rows: int) -> None:
        live.left[stage] += num_rows
        self._count(live.groups[stage], num_rows)

    def _count(self, group: Group, num_rows: int) -> None:
        self.pending[group] += num_rows
        if not self.pending[group]:
            del self.pending[group]  # models come and go; what is done leaves no trace


def _progress(live: Live, fields: Mapping[str, np.ndarray] | None) -> Progress:
    run = live.run
    done = run.evaluations - live.left["denoise"]
    return Progress(done, run.request.evaluations, fields)


def _result(live: Live, now: float) -> EngineResult:
    timings = Timings(
        queue_ms=1e3 * (live.encode_started - live.admitted),
        encode_ms=1e3 * (live.encoded - live.encode_started),
        denoise_ms=1e3 * (live.denoised - live.encoded),
        decode_ms=1e3 * (now - live.denoised),
    )
    run = live.run
    return EngineResult(collect_fields(run), run.num_members, run.evaluations, timings)
