"""The one data plane: a validated form in, a rendered answer out, whatever the task.

Pictures are decoded and answers made in threads; the event loop only waits.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

from service.api.answers import Scene, make_answer
from service.api.budgets import Moment, choose_plan, expected_error
from service.api.catalog import Catalog
from service.api.failures import engine_failures
from service.api.fingerprint import fingerprint
from service.api.images import ImageLimits, Upload
from service.api.inputs import MakeUpload, ModelInputs, prepare_inputs, take_uploads
from service.api.keys import is_key
from service.api.knobs import Knobs
from service.api.quotas import Quotas
from service.api.render import render
from service.api.render_costs import RenderCosts, RenderKind, RenderSize
from service.api.rendered import Ran, Rendered
from service.api.schemas import RunData
from service.api.terms import Call
from service.api.validators import entity_tag
from service.cache import AnswerCache
from service.core.artifact import MAX_MEMBERS, Artifact, Component, ServedTask
from service.core.ensemble import Reduction
from service.core.sizes import Size
from service.core.tasks import Task
from service.engine.engine import Engine
from service.engine.planner import Pace
from service.engine.request import EngineResult, PredictionRequest, Timings, networks_of
from service.errors import InvalidField, TooLarge
from service.metrics import Metrics

T = TypeVar("T")

_BYTES_PER_VALUE = 4


@dataclass(frozen=True)
class PredictionLimits:
    """What one request may bring and ask for."""

    images: ImageLimits
    max_answer_bytes: int


@dataclass(frozen=True)
class Served:
    """A rendered answer with the numbers of its run; `timings` in ms, by stage, in order.

    An answer to a seed that the caller gave has an `etag`; one of the cache has no timings, but an
    age.
    """

    rendered: Rendered
    run: RunData
    uncertainty: float | None
    timings: Mapping[str, float]
    etag: str | None = None
    cache: Literal["hit", "miss", "off"] = "off"
    age_s: float | None = None


@dataclass(frozen=True)
class _Choice:
    """A caller's knobs with every default filled in, but for the plan."""

    artifact: Artifact
    served: ServedTask
    output: str
    components: tuple[Component, ...]
    reduction: Reduction
    seed: int
    is_seed_given: bool

    @property
    def model(self) -> str:
        return self.artifact.key

    @property
    def kind(self) -> RenderKind:
        return RenderKind(self.served.task, self.output, self.reduction)


class Predictor:
    """Answers requests with an engine; `draw_seed` chooses where the caller does not.

    `upload` makes what decodes a file; by itself the thread that asks for its pixels does.

    `clock` is the engine's, in seconds: deadlines and budgets of time are moments on it.
    """

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        metrics: Metrics,
        limits: PredictionLimits,
        threads: Executor,
        draw_seed: Callable[[], int],
        clock: Callable[[], float],
        quotas: Quotas | None = None,
        cache: AnswerCache[Served] | None = None,
        upload: MakeUpload = Upload,
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._metrics = metrics
        self._limits = limits
        self._threads = threads
        self._cache = cache
        self._quotas = quotas or Quotas({}, None, clock)
        self._draw_seed = draw_seed
        self._render_costs = RenderCosts()
        self._upload = upload
        self.clock = clock

    async def predict(
        self, task: Task, knobs: Knobs, files: Mapping[str, bytes], call: Call
    ) -> Served:
        """Answer one request; raises the errors of the table."""
        choice = self._choose(task, knobs)
        uploads = take_uploads(files, task, self._limits.images, self._upload)
        encoder = choice.artifact.encoder(choice.served.encoder)
        inputs = await self._in_thread(partial(prepare_inputs, uploads, encoder))
        scene = Scene(
            uploads,
            inputs.width,
            inputs.height,
            choice.reduction,
            knobs.uncertainty,
            knobs.all_members,
            inputs.fit,
        )
        request = self._plan(choice, knobs, inputs, scene, call)
        self._check_answer(task, scene, request.plan.members)
        make = partial(self._make, choice, scene, request, call)
        if not choice.is_seed_given:
            return await make()
        return await self._recall(make, scene, request, choice.output, call)

    async def _recall(
        self,
        make: Callable[[], Awaitable[Served]],
        scene: Scene,
        request: PredictionRequest,
        output: str,
        call: Call,
    ) -> Served:
        """Return an answer that was made before, or make it now and keep it."""
        if self._cache is None or request.terms.grow_until is not None:
            return await make()  # what the clock ends may end elsewhere the next time
        owner = call.caller if is_key(call.caller) else ""
        key = await self._in_thread(partial(fingerprint, request, scene, output, owner))
        found = await self._cache.get_or_make(f"{call.priority} {key}", make)
        self._metrics.cache.labels("miss" if found.age_s is None else "hit").inc()
        if found.age_s is None:
            return replace(found.value, cache="miss")
        return replace(found.value, cache="hit", age_s=found.age_s, timings={})

    async def _make(
        self, choice: _Choice, scene: Scene, request: PredictionRequest, call: Call
    ) -> Served:
        with engine_failures(choice.model, choice.served.task):
            async with self._quotas.charged(call.caller, request.evaluations) as charge:
                result = await self._engine.predict(request)
                charge.used = result.evaluations
        start = self.clock()
        served = await self._in_thread(partial(_finish, choice, scene, request, result))
        # Measured from here: the wait for a thread is part of what a caller waits for.
        self._render_costs.learn(
            choice.kind, _render_size(scene, result.members), 1000 * (self.clock() - start)
        )
        self._count(served)
        return served

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _choose(self, task: Task, knobs: Knobs) -> _Choice:
        artifact, served = self._catalog.resolve(knobs.model, task)
        output = knobs.output or task.default_output
        components = served.components_for(output)
        if not components:
            able = ", ".join(form for form in task.outputs if served.components_for(form))
            raise InvalidField(
                f"The model {artifact.key} cannot make {output}", field="output", limit=able
            )
        seed = self._draw_seed() if knobs.seed is None else knobs.seed
        reduction = knobs.reduction or served.reduction
        is_given = knobs.seed is not None
        return _Choice(artifact, served, output, components, reduction, seed, is_given)

    def _plan(
        self, choice: _Choice, knobs: Knobs, inputs: ModelInputs, scene: Scene, call: Call
    ) -> PredictionRequest:
        """Choose the plan now that the pictures are there: what that took is part of a budget."""
        pace = partial(self._pace, choice, inputs.size, scene, call)
        moment = Moment(call, self.clock(), pace)
        num_components = len(choice.components)
        planned = choose_plan(knobs, choice.served, num_components, choice.seed, moment)
        size = _render_size(scene, planned.plan.members)
        render_s = 0.0
        if call.deadline is not None:
            render_s = self._render_costs.typical_ms(choice.kind, size) / 1000
        prompted = choice.served.prompt == "second"
        return PredictionRequest(
            model=choice.model,
            artifact=choice.artifact,
            task=choice.served,
            image=inputs.images[0].values,
            prompt=inputs.images[1].values if prompted else None,
            plan=planned.plan,
            components=choice.components,
            terms=call.terms(planned.grow_until, render_s),
        )

    def _pace(self, choice: _Choice, size: Size, scene: Scene, call: Call) -> Pace:
        """What the engine would take now, and the answer after it."""
        networks = networks_of(choice.artifact, choice.served, size)
        pace = self._engine.pace(networks, len(choice.components), call.terms())
        sizes = [_render_size(scene, members) for members in range(1, MAX_MEMBERS + 1)]
        render_ms = self._render_costs.predict_ms(choice.kind, sizes)
        finish_ms = tuple(a + b for a, b in zip(pace.finish_ms, render_ms, strict=True))
        return replace(pace, finish_ms=finish_ms)

    def _check_answer(self, task: Task, scene: Scene, members: int) -> None:
        """Refuse an answer with more members' maps than may be held at once."""
        num_planes = len(task.outputs[task.default_output][0]) * members
        num_bytes = num_planes * scene.width * scene.height * _BYTES_PER_VALUE
        if scene.all_members and num_bytes > self._limits.max_answer_bytes:
            raise TooLarge(
                f"The maps of all members would take {num_bytes} bytes",
                field="all_members",
                limit=f"{self._limits.max_answer_bytes} bytes",
            )

    def _count(self, served: Served) -> None:
        run = served.run
        self._metrics.evaluations.labels(run.task, run.model).inc(run.evaluations)
        for stage, duration_ms in served.timings.items():
            self._metrics.stage_seconds.labels(run.task, stage).observe(duration_ms / 1000)


def _render_size(scene: Scene, members: int) -> RenderSize:
    num_maps = 1 + scene.uncertainty + members * scene.all_members
    return RenderSize(members, num_maps * scene.width * scene.height / 1e6)


def _finish(
    choice: _Choice, scene: Scene, request: PredictionRequest, result: EngineResult
) -> Served:
    """Turn the engine's fields into a file."""
    steps = request.plan.steps
    expected = expected_error(choice.served, steps, result.members)
    run = RunData(
        task=choice.served.task,
        model=choice.model,
        steps=steps,
        ensemble=result.members,
        evaluations=result.evaluations,
        unit=choice.served.encoding.unit,
        expected_error=expected,
        error_metric=None if expected is None else choice.served.error_metric,
        seed=choice.seed,
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
    etag = entity_tag(rendered.content) if choice.is_seed_given else None
    return Served(rendered, run, spread, timings, etag)


def _engine_timings(timings: Timings) -> Mapping[str, float]:
    return {
        "queue": timings.queue_ms,
        "encode": timings.encode_ms,
        "denoise": timings.denoise_ms,
        "decode": timings.decode_ms,
    }
