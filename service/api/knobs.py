"""A form's text fields: what a caller may choose, and which choices exclude each other."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.core.artifact import MAX_MEMBERS, MAX_STEPS
from service.core.budget import Quality
from service.core.ensemble import Reduction
from service.core.tasks import Task
from service.engine.request import MAX_SEED
from service.errors import InvalidField

MAX_BUDGET_EVALS = 2 * MAX_STEPS * MAX_MEMBERS  # two components are the most that a task has
MAX_BUDGET_MS = 600_000
LEAST_TOLERANCE, DEFAULT_TOLERANCE = 0.001, 0.01  # of an encoded range of 2
AUTO: Literal["auto"] = "auto"
BUDGETS = ("budget_evals", "budget_ms", "quality")


class Knobs(BaseModel):
    """What a caller may choose about a prediction; None is the model's or the task's choice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Annotated[
        int | None, Field(ge=1, le=MAX_STEPS, description="Denoising steps; default: the model's")
    ] = None
    ensemble: Annotated[
        Annotated[int, Field(ge=1, le=MAX_MEMBERS)] | Literal["auto"] | None,
        Field(
            description="Members; `auto` adds them until the answer hardly changes, within "
            "budget_evals or budget_ms if given; default: the model's"
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        Field(
            ge=LEAST_TOLERANCE,
            le=1,
            allow_inf_nan=False,
            description="With ensemble=auto: the change of the mean, over an encoded range of 2, "
            f"below which no more members are added. Default: {DEFAULT_TOLERANCE}",
        ),
    ] = None
    budget_evals: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_BUDGET_EVALS,
            description="Most denoiser evaluations: the best measured steps and ensemble within",
        ),
    ] = None
    budget_ms: Annotated[
        float | None,
        Field(
            gt=0,
            le=MAX_BUDGET_MS,
            allow_inf_nan=False,
            description="Milliseconds for the whole call from its headers on, the queue included: "
            "the best measured steps and ensemble that fit",
        ),
    ] = None
    quality: Annotated[
        Quality | None,
        Field(
            description="The cheapest steps and ensemble whose measured error exceeds the least by "
            "at most 15 % (draft), 2 % (standard) or nothing (best)"
        ),
    ] = None
    seed: Annotated[
        int | None,
        Field(
            ge=0,
            le=MAX_SEED,
            description="Up to 64 bits. Same seed, model and knobs: same answer. "
            "Default: random, and returned",
        ),
    ] = None
    reduction: Annotated[
        Reduction | None, Field(description="How members become one; default: the model's")
    ] = None
    uncertainty: Annotated[
        bool,
        Field(
            description="Add the members' spread: a map in npz and json, its mean in "
            "X-Percept-Uncertainty with every output"
        ),
    ] = False
    all_members: Annotated[
        bool, Field(description="Add every member's own prediction; npz only")
    ] = False
    output: Annotated[str | None, Field(description="Form of the answer")] = None
    model: Annotated[
        str | None, Field(description="Served model, `name` or `name:version`; see /models")
    ] = None

    @property
    def chosen_by(self) -> str:
        """Who chooses steps and members: auto, a budget, the caller, or the model."""
        if self.ensemble == AUTO:
            return AUTO
        if self.budgets:
            return self.budgets[0]
        return "model" if self.steps is None and self.ensemble is None else "caller"

    @property
    def budgets(self) -> tuple[str, ...]:
        """The budgets that are given."""
        return tuple(name for name in BUDGETS if getattr(self, name) is not None)


def parse_knobs(texts: Mapping[str, str], task: Task) -> Knobs:
    """Validate a form's text fields for a task; raises InvalidField for the first that is wrong."""
    try:
        knobs = Knobs.model_validate(texts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][0])
        raise InvalidField(
            f"{field}: {first['msg']}", field=field, limit=allowed(field, task)
        ) from error
    for field, value in (("output", knobs.output), ("reduction", knobs.reduction)):
        if value is not None and value not in choices(task)[field]:
            raise InvalidField(
                f"{task.name} has no {field} {value!r}", field=field, limit=allowed(field, task)
            )
    if knobs.all_members and (knobs.output or task.default_output) != "npz":
        raise InvalidField(
            "Only npz can hold every member", field="all_members", limit="output=npz"
        )
    _refuse_contradictions(knobs)
    return knobs


def _refuse_contradictions(knobs: Knobs) -> None:
    """Raise InvalidField for choices of steps and ensemble that exclude each other."""
    if knobs.tolerance is not None and knobs.ensemble != AUTO:
        raise InvalidField(
            "tolerance is for ensembles that grow", field="tolerance", limit="ensemble=auto"
        )
    if not knobs.budgets:
        return
    budget, *others = knobs.budgets
    if others:
        one_of = f"one of {', '.join(BUDGETS)}"
        raise InvalidField(f"{others[0]} stands beside {budget}", field=others[0], limit=one_of)
    if knobs.ensemble == AUTO and budget != "quality":
        return
    for field in ("steps", "ensemble"):
        if getattr(knobs, field) is not None:
            auto = "" if budget == "quality" else ", or ensemble=auto"
            raise InvalidField(
                f"{budget} chooses steps and ensemble itself",
                field=field,
                limit=f"not with {budget}{auto}",
            )


def choices(task: Task) -> Mapping[str, Sequence[str]]:
    """Return the values of the fields that a task's row enumerates."""
    return {"output": tuple(task.outputs), "reduction": task.reductions}


def allowed(field: str, task: Task) -> str:
    """Describe what a text field may hold."""
    limits = {
        "steps": f"1..{MAX_STEPS}",
        "ensemble": f"1..{MAX_MEMBERS} or auto",
        "tolerance": f"{LEAST_TOLERANCE}..1",
        "budget_evals": f"1..{MAX_BUDGET_EVALS}",
        "budget_ms": f"above 0, at most {MAX_BUDGET_MS}",
        "quality": "draft, standard, best",
        "seed": f"0..{MAX_SEED}",
        "uncertainty": "true or false",
        "all_members": "true or false",
        **{name: ", ".join(values) for name, values in choices(task).items()},
    }
    return limits.get(field, ", ".join(Knobs.model_fields))
