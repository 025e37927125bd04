"""The life of every admitted request, stage by stage: encode, denoise, decode.

Synchronous, with time as an argument: the engine asks for batches, calls the models, and hands
their outputs back. Everything that is not an event loop or a failing call is here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from service.engine import batch as arrays
from service.engine.batch import Rows
from service.engine.request import (
    EngineError,
    EngineResult,
    PredictionRequest,
    Run,
    Timings,
    Trajectory,
    collect_fields,
    make_run,
)
from service.engine.scheduler import Batch, Group, Stage, StepScheduler


@dataclass(frozen=True, slots=True)
class Outcome:
    """A request has ended, one way or the other; the pipeline holds nothing of it any more."""

    owner: int
    result: EngineResult | EngineError


@dataclass(slots=True, eq=False)
class _Live:
    """A request under way; `num_open` rows have not finished its stage, times are in seconds."""

    run: Run
    admitted: float
    evaluations: int
    num_open: int = 1
    encode_started: float = 0.0
    encoded: float = 0.0
    denoised: float = 0.0


Absorb = Callable[[Rows, Mapping[str, np.ndarray], np.ndarray, float], list[Outcome]]


class Pipeline:
    """Requests are known by the number they were admitted under, their owner."""

    def __init__(self, max_batch_rows: int, max_image_rows: int) -> None:
        """`max_batch_rows` bounds a denoiser call, `max_image_rows` an encoder or decoder call."""
        self._scheduler: StepScheduler[Trajectory] = StepScheduler(
            {"encode": max_image_rows, "denoise": max_batch_rows, "decode": max_image_rows}
        )
        self._live: dict[int, _Live] = {}
        self._num_admitted = 0
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

    @property
    def num_evaluations(self) -> int:
        """Rows of denoiser calls that the requests under way still need."""
        return sum(live.evaluations for live in self._live.values())

    def admit(self, request: PredictionRequest, now: float) -> int:
        """Begin a request; return its owner number."""
        self._num_admitted += 1
        run = make_run(self._num_admitted, request)
        self._live[run.owner] = _Live(run, now, request.evaluations)
        # one row stands for the whole request in the encoder
        self._scheduler.add(arrays.encoder_group(request), run.trajectories[:1])
        return run.owner

    def remove(self, owner: int) -> None:
        """Drop a request: waiting rows are freed now, rows in a call when their output comes."""
        self._live.pop(owner, None)
        self._scheduler.remove(owner)

    def next_batch(self, num_free_workers: int, now: float) -> Batch[Trajectory] | None:
        """Choose the rows of the next call, or None when every row is in one."""
        batch = self._scheduler.next_batch(num_free_workers)
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
        """Move rows on by the output of their call, and return the requests that thereby ended.

        A row that is not finite ends its own request. Rows of removed requests are dropped.
        """
        ended = []
        finite = arrays.finite_rows(output)
        if finite is not None:
            for owner in {row.owner for row, fine in zip(rows, finite, strict=True) if not fine}:
                if owner in self._live:
                    self.remove(owner)
                    error = EngineError(f"{group.model} gave a result that is not finite")
                    ended.append(Outcome(owner, error))
        return ended + self._absorb[group.stage](rows, inputs, output, now)

    def _absorb_conditions(
        self, rows: Rows, _inputs: Mapping[str, np.ndarray], conditions: np.ndarray, now: float
    ) -> list[Outcome]:
        for row, condition in zip(rows, conditions, strict=True):
            live = self._live.get(row.owner)
            if live is not None:
                live.run.condition = condition
                live.encoded = now
                self._enter(live, arrays.denoiser_group(live.run.request))
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
            live.evaluations -= 1
            if row.step < len(row.run.sampling.timesteps):
                unfinished.append(row)
                continue
            live.num_open -= 1
            if not live.num_open:
                live.denoised = now
                self._enter(live, arrays.decoder_group(live.run.request))
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
            if not live.num_open:
                self.remove(row.owner)
                ended.append(Outcome(row.owner, _result(live, now)))
        return ended

    def _enter(self, live: _Live, group: Group) -> None:
        live.num_open = len(live.run.trajectories)
        self._scheduler.add(group, live.run.trajectories)


def _result(live: _Live, now: float) -> EngineResult:
    timings = Timings(
        queue_ms=1e3 * (live.encode_started - live.admitted),
        encode_ms=1e3 * (live.encoded - live.encode_started),
        denoise_ms=1e3 * (live.denoised - live.encoded),
        decode_ms=1e3 * (now - live.denoised),
    )
    return EngineResult(collect_fields(live.run), live.run.request.evaluations, timings)
