"""Real cases through a model: a table of its errors beside those of simple answers."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from service.core.tasks import TaskName
from training.data.cases import AmodalCase, Cases, DepthCase, FlowCase
from training.judges import JUDGES
from training.metrics import Array, convex_hull, gradient_baseline, iou, score_depth, score_flow
from training.sampler import Sampler

Budget = tuple[int, int]  # steps, members
Row = tuple[str, str, str]  # what is measured, ours, baselines

SMALLEST_DEPTH = np.float32(1e-6)


def show_cases(sampler: Sampler, cases: Cases, budget: Budget, console: Console) -> None:
    """Prints every real case beside its baselines."""
    table = Table(title=f"real cases, {budget[0]} steps x {budget[1]} members")
    for column in ("case", "measure", "ours", "baselines"):
        table.add_column(column)
    for depth in cases.depth():
        table.add_row(depth.name, *_depth_row(sampler, depth, budget))
    for flow in cases.flow():
        table.add_row(flow.name, *_flow_row(sampler, flow, budget))
    for amodal in cases.amodal():
        table.add_row(amodal.name, *_amodal_row(sampler, amodal, budget))
    console.print(table)


def _input(image: Image.Image, size: int, device: torch.device) -> Tensor:
    resized = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    return torch.from_numpy(resized / 127.5 - 1).permute(2, 0, 1)[None].to(device)


def _predict(
    sampler: Sampler, task: TaskName, image: Image.Image, prompt: Image.Image | None, budget: Budget
) -> Array:
    judge, size = JUDGES[task], sampler.model.config.input_size(task)
    second = None if prompt is None else _input(prompt, size, sampler.device)
    first = _input(image, size, sampler.device)
    pictures = sampler.pictures(task, first, second, *budget)[judge.component].cpu().numpy()
    return judge.answer(pictures[:, 0], image.height, image.width)


def _depth_row(sampler: Sampler, case: DepthCase, budget: Budget) -> Row:
    answer = _predict(sampler, "depth", case.image, None, budget)[0]
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


def _flow_row(sampler: Sampler, case: FlowCase, budget: Budget) -> Row:
    answer = _predict(sampler, "flow", case.frame1, case.frame2, budget)
    ours = score_flow(answer, case.truth, case.valid)
    zero = score_flow(np.zeros_like(answer), case.truth, case.valid)
    return (
        "EPE px / Fl",
        f"{ours.epe:.2f} / {ours.fl_all:.3f}",
        f"zero flow {zero.epe:.2f} / {zero.fl_all:.3f}",
    )


def _amodal_row(sampler: Sampler, case: AmodalCase, budget: Budget) -> Row:
    prompt = Image.fromarray(case.visible.astype(np.uint8) * 255).convert("RGB")
    answer = _predict(sampler, "amodal", case.image, prompt, budget)
    whole = (answer[0] > 0.5) | case.visible
    hidden = case.amodal & ~case.visible
    hull = convex_hull(case.visible) | case.visible
    return (
        "IoU (hidden)",
        f"{iou(whole, case.amodal):.3f} ({iou(whole & ~case.visible, hidden):.3f})",
        f"visible {iou(case.visible, case.amodal):.3f}, hull {iou(hull, case.amodal):.3f}"
        f" ({iou(hull & ~case.visible, hidden):.3f})",
    )
