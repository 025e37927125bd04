"""The studies: which points each consists of, what its axes are, and what the paper says of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from service.core.schedule import Betas
from training.scaling.networks import Network
from training.scaling.records import Budget, Point, Row
from training.scaling.scale import Scale

BETAS: tuple[Betas, ...] = ("cosine", "linear", "scaled_linear")
Metric = Literal["loss", "abs_rel", "delta1_error"]

METRICS: Mapping[Metric, str] = MappingProxyType(
    {"loss": "held-out loss", "abs_rel": "AbsRel", "delta1_error": "1 - delta1"}
)


@dataclass(frozen=True)
class Axis:
    """What a study's errors are drawn against."""

    label: str
    read: Callable[[Row], float]


TRAINING = Axis("fine-tuning MACs", lambda row: float(row.training_macs))
PRETRAINING = Axis("pre-training MACs", lambda row: float(row.pretraining_macs))
INFERENCE = Axis("inference MACs per picture", lambda row: float(row.inference_macs))
PARAMETERS = Axis("parameters, all experts", lambda row: float(row.parameters))


@dataclass(frozen=True)
class Study:
    """One claim of the paper, and the points that test it.

    A row whose x is 0 is a baseline: drawn as a level, not fitted. `metrics` names what compares
    between the study's rows: a loss does not between ways of noising.
    """

    title: str
    claim: str
    axis: Axis
    points: Callable[[Scale], tuple[Point, ...]]
    metrics: tuple[Metric, ...] = ("abs_rel", "delta1_error")


def _model_size(scale: Scale) -> tuple[Point, ...]:
    return tuple(
        Point(f"T = {steps}", scale.finetuned(name, seed), Budget(steps))
        for steps in scale.standard_steps
        for name in scale.ladder
        for seed in scale.seeds[name]
    )


def _pretraining_steps(scale: Scale) -> tuple[Point, ...]:
    def finetuned(schedule: str, before: int) -> Network:
        return scale.finetuned(scale.base, schedule=schedule, pretraining=before)

    return tuple(
        Point(f"{schedule}, T = {steps}", finetuned(schedule, before), Budget(steps))
        for schedule in scale.pretraining_schedules
        for steps in scale.standard_steps
        for before in (0, *scale.pretraining_steps)
    )


def _resolution(scale: Scale) -> tuple[Point, ...]:
    return tuple(
        Point(f"T = {steps}", scale.finetuned(scale.base, size=size), Budget(steps))
        for steps in scale.standard_steps
        for size in scale.sizes
    )


def _upcycling(scale: Scale) -> tuple[Point, ...]:
    """A line per size, steps, active experts and kind of gate, which the dense network begins."""
    lines: dict[str, list[Point]] = {}
    for steps, name in itertools.product(scale.standard_steps, scale.upcycling.names):
        dense = scale.trained_further(name, None)
        for experts in scale.upcycling.experts:
            gates = "" if experts.renormalise else ", gates as released"
            line = f"{name}, {experts.active} active{gates}, T = {steps}"
            points = lines.setdefault(line, [Point(line, dense, Budget(steps))])
            points.append(Point(line, scale.trained_further(name, experts), Budget(steps)))
    return tuple(point for points in lines.values() for point in points)


def _denoising_steps(scale: Scale) -> tuple[Point, ...]:
    return tuple(
        Point(f"{name}, {spacing}", scale.finetuned(name), Budget(steps, spacing=spacing))
        for spacing in ("trailing", "leading")
        for name in scale.ladder
        for steps in scale.steps
    )


def _ensemble_size(scale: Scale) -> tuple[Point, ...]:
    return tuple(
        Point(
            f"{name}, T = {steps}, {reduction}",
            scale.finetuned(name),
            Budget(steps, members=scale.members, reduction=reduction),
        )
        for name in scale.ensemble_names
        for steps in scale.member_steps
        for reduction in ("median", "aligned")
    )


def _noise_schedule(scale: Scale) -> tuple[Point, ...]:
    trained = [
        Point(name, scale.finetuned(scale.schedule_base, schedule=name), Budget(steps))
        for name in scale.schedule_names
        for steps in scale.schedule_steps
    ]
    own = scale.default_schedule
    others = [betas for betas in BETAS if betas != own.split()[1]]
    swapped = [
        Point(
            f"{own}, sampled on {betas}",
            scale.finetuned(scale.schedule_base, schedule=own),
            Budget(steps, betas=betas),
        )
        for betas in others
        for steps in scale.schedule_steps
    ]
    return (*trained, *swapped)


STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        "model-size": Study(
            title="Larger networks, equal samples",
            claim="Fine-tuning loss and depth errors fall as power laws of training compute from "
            "a1 to a6: loss 37.14 C^-0.1382, AbsRel 85.81 C^-0.1511, "
            "delta1 error 118.53 C^-0.1572.",
            axis=TRAINING,
            points=_model_size,
            metrics=("loss", "abs_rel", "delta1_error"),
        ),
        "pretraining-steps": Study(
            title="Longer class-conditional pre-training, then the same fine-tuning",
            claim="More pre-training compute gives lower depth errors after fine-tuning.",
            axis=PRETRAINING,
            points=_pretraining_steps,
            metrics=("loss", "abs_rel", "delta1_error"),
        ),
        "resolution": Study(
            title="Higher resolution, equal samples",
            claim="Training on larger pictures, hence more tokens, lowers depth errors.",
            axis=TRAINING,
            points=_resolution,
        ),
        "upcycling": Study(
            title="Experts from a trained dense network, equal further steps",
            claim="Upcycled mixtures of experts beat the dense network that they started from, and "
            "more experts help.",
            axis=PARAMETERS,
            points=_upcycling,
            metrics=("loss", "abs_rel", "delta1_error"),
        ),
        "denoising-steps": Study(
            title="More denoising steps",
            claim="Errors fall as power laws of inference compute with more steps (AbsRel 28.93 "
            "C^-0.1604, delta1 error 34.24 C^-0.1651), from a collapse at one step.",
            axis=INFERENCE,
            points=_denoising_steps,
        ),
        "ensemble-size": Study(
            title="More ensemble members",
            claim="Errors fall as power laws of inference compute with more members (AbsRel 14.38 "
            "C^-0.1308, delta1 error 17.08 C^-0.1345); two members gain nothing.",
            axis=INFERENCE,
            points=_ensemble_size,
        ),
        "noise-schedule": Study(
            title="Noise schedules and predictions",
            claim="A cosine schedule makes better use of the steps at inference than a linear one; "
            "epsilon is predicted.",
            axis=INFERENCE,
            points=_noise_schedule,
        ),
    }
)
