"""The one data plane: a validated form in, a rendered answer out, whatever the task.

Pictures are decoded and answers made in threads; the event loop only waits.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from service.api.answers import Scene, make_answer
from service.api.catalog import Catalog, model_key
from service.api.images import ImageLimits
from service.api.inputs import prepare_inputs, take_uploads
from service.api.limits import Admission
from service.api.render import Ran, Rendered, render
from service.api.schemas import Knobs, RunData
from service.core.artifact import Artifact, ServedTask
from service.core.ensemble import Reduction
from service.core.tasks import Task
from service.engine.engine import Engine, EngineBusy, EngineStopped
from service.engine.request import EngineError, EngineResult, Plan, PredictionRequest, Timings
from service.errors import InvalidField, ModelFailed, NotReady, TooBusy, TooLarge
from service.metrics import Metrics

_BYTES_PER_VALUE = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionLimits:
    """What one request may bring and ask for."""

    images: ImageLimits
    max_answer_bytes: int


@dataclass(frozen=True)
class Served:
    """A rendered answer with the numbers of its run; `timings` in ms, by stage, in order."""

    rendered: Rendered
    run: RunData
    uncertainty: float | None
    timings: Mapping[str, float]


@dataclass(frozen=True)
class _Choice:
    """A caller's knobs with every default filled in."""

    artifact: Artifact
    served: ServedTask
    output: str
    plan: Plan
    reduction: Reduction


class Predictor:
    """Answers requests with an engine; `draw_seed` chooses where the caller does not."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        admission: Admission,
        metrics: Metrics,
        limits: PredictionLimits,
        threads: Executor,
        draw_seed: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._admission = admission
        self._metrics = metrics
        self._limits = limits
        self._threads = threads
        self._draw_seed = draw_seed

    async def predict(self, task: Task, knobs: Knobs, files: Mapping[str, bytes]) -> Served:
        """Answer one request; raises the errors of the table."""
        choice = self._choose(task, knobs)
        uploads = take_uploads(files, task, self._limits.images)
        loop = asyncio.get_running_loop()
        encoder = choice.artifact.encoder(choice.served.encoder)
        inputs = await loop.run_in_executor(self._threads, prepare_inputs, uploads, encoder)
        scene = Scene(
            uploads,
            inputs.width,
            inputs.height,
            choice.reduction,
            knobs.uncertainty,
            knobs.all_members,
        )
        self._check_answer(task, scene, choice.plan)
        prompted = choice.served.prompt == "second"
        result = await self._run(
            PredictionRequest(
                model=model_key(choice.artifact),
                artifact=choice.artifact,
                task=choice.served,
                image=inputs.images[0].values,
                prompt=inputs.images[1].values if prompted else None,
                plan=choice.plan,
                components=choice.served.components_for(choice.output),
            )
        )
        served = await loop.run_in_executor(self._threads, _finish, choice, scene, result)
        self._count(served)
        return served

    def _choose(self, task: Task, knobs: Knobs) -> _Choice:
        artifact, served = self._catalog.resolve(knobs.model, task)
        output = knobs.output or task.default_output
        if not served.components_for(output):
            able = ", ".join(form for form in task.outputs if served.components_for(form))
            raise InvalidField(
                f"The model {model_key(artifact)} cannot make {output}", field="output", limit=able
            )
        plan = Plan(
            steps=knobs.steps or served.steps,
            members=knobs.ensemble or served.members,
            seed=self._draw_seed() if knobs.seed is None else knobs.seed,
        )
        return _Choice(artifact, served, output, plan, knobs.reduction or served.reduction)

    def _check_answer(self, task: Task, scene: Scene, plan: Plan) -> None:
        """Refuse an answer with more members' maps than may be held at once."""
        num_planes = len(task.outputs[task.default_output][0]) * plan.members
        num_bytes = num_planes * scene.width * scene.height * _BYTES_PER_VALUE
        if scene.all_members and num_bytes > self._limits.max_answer_bytes:
            raise TooLarge(
                f"The maps of all members would take {num_bytes} bytes",
                field="all_members",
                limit=f"{self._limits.max_answer_bytes} bytes",
            )

    async def _run(self, request: PredictionRequest) -> EngineResult:
        try:
            with self._admission.timed(request.evaluations):
                return await self._engine.predict(request)
        except EngineBusy as error:
            wait = self._admission.retry_after_s()
            raise TooBusy("The queue is full", retry_after_s=wait) from error
        except EngineStopped as error:
            raise NotReady("The server is stopping", retry_after_s=1) from error
        except EngineError as error:
            _log.error("%s failed on a %s request: %s", request.model, request.task.task, error)
            raise ModelFailed(f"The model {request.model} gave no usable answer") from error

    def _count(self, served: Served) -> None:
        run = served.run
        self._metrics.evaluations.labels(run.task, run.model).inc(run.evaluations)
        for stage, duration_ms in served.timings.items():
            self._metrics.stage_seconds.labels(run.task, stage).observe(duration_ms / 1000)


def _finish(choice: _Choice, scene: Scene, result: EngineResult) -> Served:
    """Turn the engine's fields into a file."""
    run = RunData(
        task=choice.served.task,
        model=model_key(choice.artifact),
        steps=choice.plan.steps,
        ensemble=choice.plan.members,
        evaluations=result.evaluations,
        seed=choice.plan.seed,
        reduction=choice.reduction,
        width=scene.width,
        height=scene.height,
    )
    start = time.perf_counter()
    answer = make_answer(choice.served.encoding, result.fields, scene)
    reduced = time.perf_counter()
    timings = {**_engine_timings(result.timings), "reduce": 1000 * (reduced - start)}
    rendered = render(answer, choice.output, Ran(run, timings))
    timings["render"] = 1000 * (time.perf_counter() - reduced)
    spread = None if answer.uncertainty is None else float(answer.uncertainty.mean())
    return Served(rendered, run, spread, timings)


def _engine_timings(timings: Timings) -> Mapping[str, float]:
    return {
        "queue": timings.queue_ms,
        "encode": timings.encode_ms,
        "denoise": timings.denoise_ms,
        "decode": timings.decode_ms,
    }
