"""How each task's pictures become answers and how these are scored: a row per task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from service.core.ensemble import Reduction
from service.core.tasks import TaskName
from training.answers import READINGS, FieldMaps, Reading
from training.data.sample import AmodalBatch, Array, Batch, DepthBatch, FlowBatch
from training.metrics import convex_hull, gradient_baseline, iou, score_depth, score_flow
from training.targets import PERCEPT, TargetTable


@dataclass(frozen=True)
class Judge:
    """Everything that differs between tasks when a model is measured.

    `measure` scores an answer (F, H, W) against one row of a batch by `metric` and `score`;
    `baselines` gives `metric` for simple answers to a batch, some of them made from another one.
    """

    metric: str
    score: str
    reading: Reading
    reduction: Reduction
    measure: Callable[[Array, Batch, int], tuple[float, float]]
    baselines: Callable[[Batch, Batch], dict[str, float]]

    def answer(
        self, fields: FieldMaps, height: int, width: int, table: TargetTable = PERCEPT
    ) -> Array:
        """Members' fields (N, P, P) to an answer (F, height, width) (see `Reading`)."""
        return self.reading.answer(fields, height, width, self.reduction, table)


def _measure_depth(answer: Array, batch: Batch, row: int) -> tuple[float, float]:
    assert isinstance(batch, DepthBatch)
    truth = batch.depth[row, 0].cpu().numpy()
    result = score_depth(answer[0], truth, np.ones_like(truth, dtype=bool))
    return result.abs_rel, result.delta1


def _measure_flow(answer: Array, batch: Batch, row: int) -> tuple[float, float]:
    assert isinstance(batch, FlowBatch)
    truth = batch.flow[row].cpu().numpy()
    result = score_flow(answer, truth, np.ones(truth.shape[1:], dtype=bool))
    return result.epe, result.fl_all


def _measure_amodal(answer: Array, batch: Batch, row: int) -> tuple[float, float]:
    assert isinstance(batch, AmodalBatch)
    visible = batch.visible[row, 0].cpu().numpy() > 0.5
    truth = batch.amodal[row, 0].cpu().numpy() > 0.5
    whole = (answer[0] > 0.5) | visible
    hidden = truth & ~visible
    return 1 - iou(whole, truth), iou(whole & ~visible, hidden) if hidden.any() else 1.0


def _depth_baselines(batch: Batch, other: Batch) -> dict[str, float]:
    assert isinstance(batch, DepthBatch)
    assert isinstance(other, DepthBatch)
    mean_map = other.depth.log().mean(dim=0)[0].exp().cpu().numpy()
    height, width = mean_map.shape
    flat = np.ones((height, width), dtype=np.float32)
    maps = {"constant": flat, "mean map": mean_map, "gradient": gradient_baseline((height, width))}
    rows = range(len(batch.depth))
    return {
        name: float(np.mean([_measure_depth(m[None], batch, row)[0] for row in rows]))
        for name, m in maps.items()
    }


def _flow_baselines(batch: Batch, other: Batch) -> dict[str, float]:
    del other
    assert isinstance(batch, FlowBatch)
    return {"zero flow": float(batch.flow.norm(dim=1).mean())}


def _amodal_baselines(batch: Batch, other: Batch) -> dict[str, float]:
    del other
    assert isinstance(batch, AmodalBatch)
    visible = batch.visible[:, 0].cpu().numpy() > 0.5
    truth = batch.amodal[:, 0].cpu().numpy() > 0.5
    pairs = list(zip(visible, truth, strict=True))
    return {
        "visible mask": float(np.mean([1 - iou(v, t) for v, t in pairs])),
        "convex hull": float(np.mean([1 - iou(convex_hull(v), t) for v, t in pairs])),
    }


JUDGES: Mapping[TaskName, Judge] = MappingProxyType(
    {
        "depth": Judge(
            metric="AbsRel",
            score="delta1",
            reading=READINGS["depth"]["depth"],
            reduction="median",
            measure=_measure_depth,
            baselines=_depth_baselines,
        ),
        "flow": Judge(
            metric="EPE px",
            score="Fl-all",
            reading=READINGS["flow"]["flow"],
            reduction="mean",
            measure=_measure_flow,
            baselines=_flow_baselines,
        ),
        "amodal": Judge(
            metric="1 - mIoU",
            score="hidden IoU",
            reading=READINGS["amodal"]["mask"],
            reduction="mean",
            measure=_measure_amodal,
            baselines=_amodal_baselines,
        ),
    }
)
