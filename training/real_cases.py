"""Real cases through a model: a table of its errors beside those of simple answers."""

from __future__ import annotations

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from service.core.tasks import TaskName
from training.data.cases import AmodalCase, Cases, DepthCase, FlowCase
from training.data.sample import Array, Picture
from training.judges import JUDGES
from training.metrics import convex_hull, gradient_baseline, iou, score_depth, score_flow
from training.predict import ModelDraw, mask_picture
from training.sampler import Sampler

Budget = tuple[int, int]  # steps, members
Row = tuple[str, str, str]  # what is measured, ours, baselines

SMALLEST_DEPTH = np.float32(1e-6)


def show_cases(sampler: Sampler, cases: Cases, budget: Budget, console: Console) -> None:
    """Prints every real case beside its baselines."""
    table = Table(title=f"real cases, {budget[0]} steps x {budget[1]} members")
    for column in ("case", "measure", "ours", "baselines"):
        table.add_column(column)
    draw = ModelDraw(sampler, *budget)
    for depth in cases.depth():
        table.add_row(depth.name, *_depth_row(draw, depth))
    for flow in cases.flow():
        table.add_row(flow.name, *_flow_row(draw, flow))
    for amodal in cases.amodal():
        table.add_row(amodal.name, *_amodal_row(draw, amodal))
    console.print(table)


def _predict(draw: ModelDraw, task: TaskName, *images: Image.Image | Picture) -> Array:
    judge, pictures = JUDGES[task], [np.asarray(image) for image in images]
    fields = draw(task, judge.reading, pictures, draw.sampler.seed)
    height, width = pictures[0].shape[:2]
    return judge.answer(fields, height, width, draw.table)


def _depth_row(draw: ModelDraw, case: DepthCase) -> Row:
    answer = _predict(draw, "depth", case.image)[0]
    measure = "I AbsRel/delta1" if case.inverse else "D then I AbsRel/delta1"
    constant = _depth_cell(np.ones_like(answer), case)
    gradient = _depth_cell(gradient_baseline(case.truth.shape), case)
    return measure, _depth_cell(answer, case), f"constant {constant}, gradient {gradient}"


def _depth_cell(prediction: Array, case: DepthCase) -> str:
    """Scores by a fit in depth where its unit is known, and by one in inverse depth."""
    scores = [score_depth(prediction, case.truth, case.valid)]
    if not case.inverse:
        inverse = np.reciprocal(np.maximum(case.truth, SMALLEST_DEPTH))
        scores.append(score_depth(prediction, inverse, case.valid))
    return " I ".join(f"{score.abs_rel:.3f}/{score.delta1:.3f}" for score in scores)


def _flow_row(draw: ModelDraw, case: FlowCase) -> Row:
    answer = _predict(draw, "flow", case.frame1, case.frame2)
    ours = score_flow(answer, case.truth, case.valid)
    zero = score_flow(np.zeros_like(answer), case.truth, case.valid)
    return (
        "EPE px / Fl",
        f"{ours.epe:.2f} / {ours.fl_all:.3f}",
        f"zero flow {zero.epe:.2f} / {zero.fl_all:.3f}",
    )


def _amodal_row(draw: ModelDraw, case: AmodalCase) -> Row:
    answer = _predict(draw, "amodal", case.image, mask_picture(case.visible))
    whole = (answer[0] > 0.5) | case.visible
    hidden = case.amodal & ~case.visible
    hull = convex_hull(case.visible) | case.visible
    return (
        "IoU (hidden)",
        f"{iou(whole, case.amodal):.3f} ({iou(whole & ~case.visible, hidden):.3f})",
        f"visible {iou(case.visible, case.amodal):.3f}, hull {iou(hull, case.amodal):.3f}"
        f" ({iou(hull & ~case.visible, hidden):.3f})",
    )
