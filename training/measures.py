"""What is scored of a sample and how scores are averaged: a row per task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from service.core.tasks import TaskName
from training.data.sample import AmodalTruth, Array, DepthTruth, FlowTruth, Mask, Picture, Sample
from training.metrics.amodal import AmodalScore, mean_amodal, score_amodal
from training.metrics.depth import DepthScore, mean_depth, score_depth
from training.metrics.flow import FlowScore, mean_flow, score_flow
from training.predict import mask_picture
from training.protocols import Protocol

Score = DepthScore | FlowScore | AmodalScore


@dataclass(frozen=True)
class Measure:
    """What differs between tasks: a model's pictures, the pixels that count, the score, the mean.

    `counted` may be empty, which leaves the sample out; `score` takes the answer (F, H, W).
    """

    images: Callable[[Sample], Sequence[Picture]]
    counted: Callable[[Sample, Protocol, str | None], Mask]
    score: Callable[[Array, Sample, Mask, Protocol], Score]
    mean: Callable[[Sequence[Score], Protocol], dict[str, float]]


def _shown(sample: Sample) -> Sequence[Picture]:
    return sample.images


def _shown_with_mask(sample: Sample) -> Sequence[Picture]:
    assert isinstance(sample.truth, AmodalTruth)
    return (sample.images[0], mask_picture(sample.truth.visible))


def _depth_counted(sample: Sample, protocol: Protocol, region: str | None) -> Mask:
    assert isinstance(sample.truth, DepthTruth)
    return protocol.scored(sample.truth, region)


def _flow_counted(sample: Sample, protocol: Protocol, region: str | None) -> Mask:
    del protocol, region
    assert isinstance(sample.truth, FlowTruth)
    return sample.truth.valid


def _amodal_counted(sample: Sample, protocol: Protocol, region: str | None) -> Mask:
    """What is visible: an object of which nothing is cannot be pointed at."""
    del protocol, region
    assert isinstance(sample.truth, AmodalTruth)
    return sample.truth.visible


def _depth_score(answer: Array, sample: Sample, counted: Mask, protocol: Protocol) -> Score:
    assert isinstance(sample.truth, DepthTruth)
    assert protocol.depth_range is not None
    limits, side = protocol.depth_range, protocol.fit_side
    return score_depth(answer[0], sample.truth.depth, counted, limits, side)


def _flow_score(answer: Array, sample: Sample, counted: Mask, protocol: Protocol) -> Score:
    del protocol
    assert isinstance(sample.truth, FlowTruth)
    return score_flow(answer, sample.truth.flow, counted)


def _amodal_score(answer: Array, sample: Sample, counted: Mask, protocol: Protocol) -> Score:
    """As the service answers: the whole object contains what is seen of it."""
    del protocol
    assert isinstance(sample.truth, AmodalTruth)
    return score_amodal((answer[0] > 0.5) | counted, counted, sample.truth.amodal)


def _depth_mean(scores: Sequence[Score], protocol: Protocol) -> dict[str, float]:
    del protocol
    return mean_depth(cast(Sequence[DepthScore], scores))


def _flow_mean(scores: Sequence[Score], protocol: Protocol) -> dict[str, float]:
    flows = cast(Sequence[FlowScore], scores)
    return mean_flow(flows, protocol.averaging)


def _amodal_mean(scores: Sequence[Score], protocol: Protocol) -> dict[str, float]:
    del protocol
    return mean_amodal(cast(Sequence[AmodalScore], scores))


MEASURES: Mapping[TaskName, Measure] = MappingProxyType(
    {
        "depth": Measure(_shown, _depth_counted, _depth_score, _depth_mean),
        "flow": Measure(_shown, _flow_counted, _flow_score, _flow_mean),
        "amodal": Measure(_shown_with_mask, _amodal_counted, _amodal_score, _amodal_mean),
    }
)
