"""Measuring: answers of the right kind get the right score, and reports can be read."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from service.core.artifact import ArtifactError
from service.core.tasks import TaskName
from tests.training.conftest import Build
from tests.training.test_cases import write_kitti, write_manifest
from training import evaluate
from training.answers import fields_of
from training.data.sample import AmodalBatch, Batch, DepthBatch, FlowBatch
from training.evaluate import HELD_OUT_SEED, held_out, measure
from training.finetune import load_model
from training.judges import JUDGES
from training.models.perception import MODELS
from training.real_cases import show_cases
from training.report import CALIBRATION, Point, TaskReport, read_reports, show, write_reports
from training.sampler import Sampler
from training.targets import COMPONENTS, prepare

CPU = torch.device("cpu")
SIDE = 32


def discs(radius: float) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(SIDE) - 15.5, torch.arange(SIDE) - 15.5, indexing="ij")
    return (x.square() + y.square() < radius**2).float().expand(2, 1, -1, -1)


def make_batches() -> dict[TaskName, Batch]:
    g = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, SIDE, SIDE, generator=g)
    ramp = torch.linspace(1, 4, SIDE)[:, None].expand(2, 1, SIDE, SIDE)
    flow = 8 * torch.rand(2, 2, SIDE, SIDE, generator=g) - 4
    occluded = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool)
    half = discs(12) * (torch.arange(SIDE) < 16)
    return {
        "depth": DepthBatch(image, ramp),
        "flow": FlowBatch(image, image, flow, occluded),
        "amodal": AmodalBatch(image, half, discs(12), image),
    }


BATCHES = make_batches()


def fields(task: TaskName, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Fields of pictures (N, components, 3, P, P) in the order of the task's components."""
    named = {c.name: pictures[:, place] for place, c in enumerate(COMPONENTS[task])}
    return fields_of(COMPONENTS[task], named)


@pytest.mark.parametrize("task", JUDGES)
def test_the_truth_is_answered_without_error(task: TaskName):
    judge, batch = JUDGES[task], BATCHES[task]
    targets = prepare(batch, SIDE).targets.numpy()
    for row in range(2):
        members = fields(task, np.repeat(targets[row][None], 3, axis=0))
        error, score = judge.measure(judge.answer(members, SIDE, SIDE), batch, row)
        # quantiles clip a few percent of the depths
        assert error == pytest.approx(0, abs={"depth": 0.02, "flow": 1e-4, "amodal": 1e-6}[task])
        assert score == pytest.approx(0 if task == "flow" else 1)


@pytest.mark.parametrize("task", JUDGES)
def test_a_wrong_answer_is_as_wrong_as_it_is(task: TaskName):
    judge, batch = JUDGES[task], BATCHES[task]
    value = -1.0 if task == "amodal" else 0.0
    wrong = fields(task, np.full((1, 2, 3, SIDE, SIDE), value, dtype=np.float32))
    error, _ = judge.measure(judge.answer(wrong, SIDE, SIDE), batch, 0)
    baseline = {"depth": "constant", "flow": "zero flow", "amodal": "visible mask"}[task]
    both_rows = [judge.measure(judge.answer(wrong, SIDE, SIDE), batch, row)[0] for row in (0, 1)]
    baselines = judge.baselines(batch, batch)
    assert error > 0.2
    assert baselines[baseline] == pytest.approx(np.mean(both_rows), rel=1e-5)


def test_baselines_know_what_they_may():
    depth = JUDGES["depth"].baselines(BATCHES["depth"], BATCHES["depth"])
    assert depth["mean map"] == pytest.approx(0, abs=1e-5)  # both scenes are the mean
    assert depth["constant"] > 0
    depths = BATCHES["depth"]
    assert isinstance(depths, DepthBatch)
    upside_down = DepthBatch(depths.image.flip(2), depths.depth.flip(2))
    assert JUDGES["depth"].baselines(upside_down, upside_down)["gradient"] == pytest.approx(
        0, abs=1e-5
    )
    amodal = JUDGES["amodal"].baselines(BATCHES["amodal"], BATCHES["amodal"])
    assert amodal["convex hull"] == pytest.approx(0.5, abs=0.05)  # half a disc is convex


def test_answers_have_the_size_that_was_asked_for():
    members = np.zeros((2, 2, 3, 16, 16), dtype=np.float32)
    members[:, :, 0] = 0.3
    for task, judge in JUDGES.items():
        assert judge.answer(fields(task, members), 20, 50).shape[1:] == (20, 50)
    moved = fields("flow", members)
    small, wide = (JUDGES["flow"].answer(moved, 20, width) for width in (50, 100))
    np.testing.assert_allclose(wide[0, 0, 0], 2 * small[0, 0, 0], rtol=1e-5)


def test_held_out_scenes_come_from_every_source_and_are_not_trained_on(
    monkeypatch: pytest.MonkeyPatch,
):
    from training.data import mixture

    used = []

    def render(name: str):
        def draw(generator: torch.Generator, count: int, size: int) -> FlowBatch:
            used.append(name)
            values = torch.rand(count, 8, size, size, generator=generator)
            return FlowBatch(values[:, :3], values[:, 3:6], values[:, 6:], values[:, :1] > 0.5)

        return draw

    sources = (mixture.Source(render("a"), 0.6), mixture.Source(render("b"), 0.4))
    monkeypatch.setattr(mixture, "SOURCES", {"flow": sources})
    batch = held_out("flow", MODELS["tiny"], 20, CPU, HELD_OUT_SEED, compiled=False)
    assert isinstance(batch, FlowBatch)
    assert batch.flow.shape == (20, 2, 64, 64)
    assert set(used) == {"a", "b"}


def test_a_run_is_measured_into_a_file_that_can_be_read(measured: Build):
    reports = read_reports(measured("tiny") / CALIBRATION)
    assert [report.task for report in reports] == list(JUDGES)
    for report in reports:
        budgets = [(point.steps, point.members) for point in report.points]
        assert budgets == [(1, 1), (1, 2), (2, 1), (2, 2)]
        assert all(np.isfinite([point.error, point.score]).all() for point in report.points)
        assert report.metric == JUDGES[report.task].metric
        assert report.scenes == 2
        assert report.baselines


def test_a_measurement_can_be_repeated(measured: Build):
    folder = measured("tiny")
    (before,) = (r for r in read_reports(folder / CALIBRATION) if r.task == "amodal")
    again = measure(Sampler(load_model(folder, CPU), CPU), "amodal", 2, (1,), (1, 2))
    for point, expected in zip(again.points, before.points[:2], strict=True):
        assert point.error == pytest.approx(expected.error, abs=1e-6)
    assert again.baselines == pytest.approx(before.baselines)


REPORT = TaskReport("flow", "EPE px", "Fl-all", 8, (Point(1, 1, 2.5, 0.25),), {"zero flow": 4.0})


def test_reports_round_trip(tmp_path: Path):
    write_reports([REPORT, REPORT], tmp_path / "a.json")
    assert read_reports(tmp_path / "a.json") == (REPORT, REPORT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"error": 2.5', '"error": NaN', "NaN"),
        ('"error": 2.5', '"error": "low"', r"points\[0\].error"),
        ('"task": "flow"', '"task": "stereo"', "task"),
        ('"steps": 1,', "", r"points\[0\].steps: is missing"),
    ],
)
def test_a_damaged_report_is_named(tmp_path: Path, old: str, new: str, message: str):
    write_reports([REPORT], tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text()
    assert old in text
    (tmp_path / "a.json").write_text(text.replace(old, new))
    with pytest.raises(ArtifactError, match=message):
        read_reports(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps({"task": "flow"}))
    with pytest.raises(ArtifactError, match="must be a list"):
        read_reports(tmp_path / "a.json")


def test_a_report_is_shown_as_a_table():
    text = io.StringIO()
    points = tuple(Point(s, m, s / m, 0.5) for s in (1, 20) for m in (3, 1))
    show(
        TaskReport("flow", "EPE px", "Fl-all", 8, points, {"zero flow": 4.0}),
        Console(file=text, width=100),
    )
    lines = text.getvalue().splitlines()
    (row,) = (line for line in lines if line.startswith("│ 20"))
    assert row.index("20.0000") < row.index("6.6667")
    assert "zero flow 4.0000" in lines[-2]


def test_real_cases_are_shown_beside_their_baselines(finetuned: Build, tmp_path: Path):
    random = np.random.default_rng(0)
    colours = random.integers(0, 255, (3, 40, 56, 3), dtype=np.uint8)
    for i, pixels in enumerate(colours):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    depth = random.integers(1000, 9000, (40, 56)).astype(np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    flow = np.zeros((2, 40, 56), dtype=np.float32)
    flow[0] = 3
    write_kitti(tmp_path / "flow.png", flow, np.ones((40, 56)))
    amodal = np.zeros((40, 56), dtype=np.uint8)
    amodal[10:30, 10:30] = 255
    Image.fromarray(amodal).save(tmp_path / "amodal.png")
    Image.fromarray(np.where(np.arange(56) < 20, amodal, 0).astype(np.uint8)).save(
        tmp_path / "visible.png"
    )
    known = {"gt": "depth.png", "gt_png_scale": 1000, "invalid_value": 0, "image": "0.png"}
    cases = write_manifest(
        tmp_path,
        depth=[
            {"id": "room", "kind": "depth_m", **known},
            {"id": "stereo", "kind": "inv_depth_affine", **known},
        ],
        flow=[{"id": "pair", "image0": "0.png", "image1": "1.png", "gt": "flow.png"}],
        amodal=[{"id": "box", "image": "2.png", "visible": "visible.png", "amodal": "amodal.png"}],
    )
    text = io.StringIO()
    sampler = Sampler(load_model(finetuned("tiny"), CPU), CPU)
    show_cases(sampler, cases, (1, 2), Console(file=text, width=200))
    rows = {
        line.split("│")[1].strip(): line for line in text.getvalue().splitlines() if "│" in line
    }
    assert rows.keys() == {"room", "stereo", "pair", "box"}
    assert rows["room"].count(" I ") == 4  # ours, constant and gradient by both fits; one heading
    assert rows["stereo"].count("/") == 4
    assert "zero flow 3.00 / 0.000" in rows["pair"]
    assert "visible 0.500" in rows["box"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenes", "0"], "--scenes must be at least 1, not 0"),
        (["--members", "2", "0"], "--members must be at least 1, not 0"),
        (["--steps", "0"], "--steps must be in 1..1000, not 0"),
        (["--steps", "5000"], "--steps must be in 1..1000, not 5000"),
        (["--case-budget", "1", "0"], "--case-budget must be at least 1, not 0"),
    ],
)
def test_numbers_that_cannot_be_are_named(
    arguments: list[str], message: str, finetuned: Build, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as left:
        evaluate.main([str(finetuned("tiny")), "--device", "cpu", *arguments])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
