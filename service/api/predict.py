"""The one data plane: a validated form in, a rendered answer out, whatever the task.

Pictures are decoded and answers made in threads; the event loop only waits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from service.api.answers import Scene
from service.api.budgets import Moment, choose_plan
from service.api.catalog import Catalog
from service.api.failures import engine_failures
from service.api.fingerprint import fingerprint
from service.api.finish import Choice, Served, finish, preview, render_size
from service.api.images import ImageLimits, Upload
from service.api.inputs import MakeUpload, ModelInputs, prepare_inputs, take_uploads
from service.api.keys import is_key
from service.api.knobs import Knobs
from service.api.quotas import Quotas
from service.api.render_costs import RenderCosts
from service.api.schemas import RunData
from service.api.terms import Call
from service.api.tracing import Attributes, trace_stages
from service.cache import AnswerCache
from service.core.artifact import MAX_MEMBERS
from service.core.sizes import Size
from service.core.tasks import Task
from service.engine.engine import Engine
from service.engine.planner import Pace
from service.engine.request import Follow, PredictionRequest, Progress, networks_of
from service.errors import InvalidField, TooLarge
from service.metrics import Metrics

T = TypeVar("T")
Report = Callable[[int, int, bytes], None]
"""Told how many of how many evaluations are done, with a PNG of the answer so far, or no bytes."""

_BYTES_PER_VALUE = 4


@dataclass(frozen=True)
class Course:
    """How a job is computed: with a seed drawn before, and watched."""

    seed: int
    report: Report


@dataclass(frozen=True)
class Checked:
    """What a request that can be answered will be: its model, seed, and most evaluations."""

    model: str
    seed: int
    evaluations: int


@dataclass(frozen=True)
class PredictionLimits:
    """What one request may bring and ask for."""

    images: ImageLimits
    max_answer_bytes: int


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
        self,
        task: Task,
        knobs: Knobs,
        files: Mapping[str, bytes],
        call: Call,
        course: Course | None = None,
    ) -> Served:
        """Answer one request; raises the errors of the table."""
        seed = None if course is None else course.seed
        choice, scene, request = await self._prepare(task, knobs, files, call, seed)
        make = partial(self._make, choice, scene, request, call, course)
        if not choice.is_seed_given:
            return await make()
        return await self._recall(make, scene, request, choice.output, call)

    async def check(
        self, task: Task, knobs: Knobs, files: Mapping[str, bytes], call: Call
    ) -> Checked:
        """Find out whether a request can be answered, without answering it; raises as `predict`."""
        choice, _, request = await self._prepare(task, knobs, files, call, None)
        return Checked(choice.model, choice.seed, request.evaluations)

    async def _prepare(
        self,
        task: Task,
        knobs: Knobs,
        files: Mapping[str, bytes],
        call: Call,
        seed: int | None,
    ) -> tuple[Choice, Scene, PredictionRequest]:
        """Decode the pictures and fill in what was left open."""
        choice = self._choose(task, knobs, seed)
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
        return choice, scene, request

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
        self,
        choice: Choice,
        scene: Scene,
        request: PredictionRequest,
        call: Call,
        course: Course | None,
    ) -> Served:
        steps = request.plan.steps
        follow = None if course is None else self._follow(choice, scene, steps, course.report)
        # A job was charged when it was taken in: what would refuse it now would only delay it.
        evaluations = request.evaluations if course is None else 0
        with engine_failures(choice.model, choice.served.task):
            async with self._quotas.charged(call.caller, evaluations) as charge:
                result = await self._engine.predict(request, follow)
                charge.used = result.evaluations
        start = self.clock()
        served = await self._in_thread(partial(finish, choice, scene, steps, result))
        # Measured from here: the wait for a thread is part of what a caller waits for.
        self._render_costs.learn(
            choice.kind, render_size(scene, result.members), 1000 * (self.clock() - start)
        )
        self._count(served)
        return served

    def _follow(self, choice: Choice, scene: Scene, steps: int, report: Report) -> Follow:
        """Pass an engine's progress on, with a picture of the members that there are."""

        def follow(progress: Progress) -> None:
            if progress.fields is None:
                report(progress.done, progress.total, b"")
                return
            work = partial(preview, choice, scene, steps, progress.fields)
            drawing = asyncio.get_running_loop().run_in_executor(self._threads, work)
            drawing.add_done_callback(partial(self._show, report, progress))

        return follow

    def _show(self, report: Report, progress: Progress, drawing: "asyncio.Future[bytes]") -> None:
        if not drawing.cancelled() and drawing.exception() is None:
            report(progress.done, progress.total, drawing.result())

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _choose(self, task: Task, knobs: Knobs, drawn_seed: int | None) -> Choice:
        artifact, served = self._catalog.resolve(knobs.model, task)
        output = knobs.output or task.default_output
        components = served.components_for(output)
        if not components:
            able = ", ".join(form for form in task.outputs if served.components_for(form))
            raise InvalidField(
                f"The model {artifact.key} cannot make {output}", field="output", limit=able
            )
        seed = knobs.seed
        if seed is None:
            seed = self._draw_seed() if drawn_seed is None else drawn_seed
        reduction = knobs.reduction or served.reduction
        is_given = knobs.seed is not None
        return Choice(artifact, served, output, components, reduction, seed, is_given)

    def _plan(
        self, choice: Choice, knobs: Knobs, inputs: ModelInputs, scene: Scene, call: Call
    ) -> PredictionRequest:
        """Choose the plan now that the pictures are there: what that took is part of a budget."""
        pace = partial(self._pace, choice, inputs.size, scene, call)
        moment = Moment(call, self.clock(), pace)
        num_components = len(choice.components)
        planned = choose_plan(knobs, choice.served, num_components, choice.seed, moment)
        plan, task = planned.plan, choice.served.task
        self._metrics.planned(task, knobs.chosen_by, plan.steps, plan.members)
        size = render_size(scene, planned.plan.members)
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

    def _pace(self, choice: Choice, size: Size, scene: Scene, call: Call) -> Pace:
        """What the engine would take now, and the answer after it."""
        networks = networks_of(choice.artifact, choice.served, size)
        pace = self._engine.pace(networks, len(choice.components), call.terms())
        sizes = [render_size(scene, members) for members in range(1, MAX_MEMBERS + 1)]
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
        trace_stages(served.timings, _attributes(run))
        self._metrics.evaluations.labels(run.task, run.model).inc(run.evaluations)
        for stage, duration_ms in served.timings.items():
            self._metrics.stage_seconds.labels(run.task, stage).observe(duration_ms / 1000)


def _attributes(run: RunData) -> Attributes:
    return {
        "percept.model": run.model,
        "percept.task": run.task,
        "percept.steps": run.steps,
        "percept.members": run.ensemble,
        "percept.evaluations": run.evaluations,
    }
