"""From the engine's result to the file that is sent, and to small pictures on the way there."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from service.api import formats
from service.api.answers import Scene, make_answer
from service.api.budgets import expected_error
from service.api.render import render
from service.api.render_costs import RenderKind, RenderSize
from service.api.rendered import Ran, Rendered
from service.api.schemas import RunData
from service.api.validators import entity_tag
from service.core.artifact import Artifact, Component, ServedTask
from service.core.ensemble import Reduction
from service.core.tasks import TASKS
from service.engine.request import EngineResult, Timings

_PREVIEW_SIDE = 256


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
class Choice:
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
        """ "name:version"."""
        return self.artifact.key

    @property
    def kind(self) -> RenderKind:
        """What the cost of writing its answer depends on."""
        return RenderKind(self.served.task, self.output, self.reduction)


def render_size(scene: Scene, members: int) -> RenderSize:
    """How much there is to write."""
    num_maps = 1 + scene.uncertainty + members * scene.all_members
    return RenderSize(members, num_maps * scene.width * scene.height / 1e6)


def finish(choice: Choice, scene: Scene, steps: int, result: EngineResult) -> Served:
    """Turn the engine's fields into a file."""
    run = _run_data(choice, scene, steps, result.members, result.evaluations)
    start = time.perf_counter()
    answer = make_answer(choice.served.encoding, result.fields, scene)
    reduced = time.perf_counter()
    timings = {**_engine_timings(result.timings), "reduce": 1000 * (reduced - start)}
    rendered = render(answer, choice.output, Ran(run, timings))
    timings["render"] = 1000 * (time.perf_counter() - reduced)
    spread = None if answer.uncertainty is None else float(answer.uncertainty.mean())
    etag = entity_tag(rendered.content) if choice.is_seed_given else None
    return Served(rendered, run, spread, timings, etag)


def preview(choice: Choice, scene: Scene, steps: int, fields: Mapping[str, np.ndarray]) -> bytes:
    """A small PNG of the answer that these members give; `fields` as in EngineResult."""
    members = len(next(iter(fields.values())))
    run = _run_data(choice, scene, steps, members, 0)
    plain = replace(scene, uncertainty=False, all_members=False)
    answer = make_answer(choice.served.encoding, fields, plain)
    shown = render(answer, TASKS[choice.served.task].default_output, Ran(run, {}))
    return formats.thumbnail(shown.content, _PREVIEW_SIDE)


def _run_data(choice: Choice, scene: Scene, steps: int, members: int, evaluations: int) -> RunData:
    expected = expected_error(choice.served, steps, members)
    return RunData(
        task=choice.served.task,
        model=choice.model,
        steps=steps,
        ensemble=members,
        evaluations=evaluations,
        unit=choice.served.encoding.unit,
        expected_error=expected,
        error_metric=None if expected is None else choice.served.error_metric,
        seed=choice.seed,
        reduction=choice.reduction,
        width=scene.width,
        height=scene.height,
    )


def _engine_timings(timings: Timings) -> Mapping[str, float]:
    return {
        "queue": timings.queue_ms,
        "encode": timings.encode_ms,
        "denoise": timings.denoise_ms,
        "decode": timings.decode_ms,
    }
