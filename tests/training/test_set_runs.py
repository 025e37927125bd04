"""Public sets from the command line: files and tables agree, and wrong requests end clearly."""

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.support.set_files import SHARED
from tests.training.conftest import Build
from tests.training.public_sets import write_chairs, write_nyu, write_objects
from training import evaluate
from training.benchmark_sets import Choices, EvaluationError
from training.models.perception import MODELS, PerceptionModel
from training.sampler import Sampler
from training.set_runs import TABLES, Budget, measure_sets, open_sets
from training.tables import UNITS

REAL = SHARED / "datasets"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def test_a_run_is_measured_into_files_and_the_papers_tables(
    finetuned: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_nyu(tmp_path / "nyu")
    write_chairs(tmp_path / "chairs")
    write_objects(tmp_path / "objects", count=101)
    run, out = finetuned("tiny"), tmp_path / "out"
    sets = {"nyu_v2": "nyu", "flying_chairs": "chairs", "pix2gestalt": "objects"}
    named = [f"--set={name}={tmp_path / folder}" for name, folder in sets.items()]
    arguments = [str(run), *named, "--steps", "2", "--members", "2", "--out", str(out)]
    evaluate.main([*arguments, "--device", "cpu"])
    files = {f"{name}{suffix}.csv" for name in sets for suffix in ("", "-1")}
    assert {path.name for path in out.iterdir()} == {TABLES, *files}
    rows = {name: read_csv(out / f"{name}.csv") for name in sets}
    assert {name: len(found) for name, found in rows.items()} == dict.fromkeys(sets, 2)
    shown = tables(out / TABLES)
    row = f"{run.name}, T=2 N=2"
    flow, depth, objects = rows["flying_chairs"], rows["nyu_v2"], rows["pix2gestalt"]
    summed = column(objects, "intersection").sum() / column(objects, "union").sum()
    expected = {
        "NYUv2 AbsRel %": (column(depth, "abs_rel").mean(), "abs_rel"),
        "NYUv2 δ1 %": (column(depth, "delta1").mean(), "delta1"),
        "FlyingChairs EPE px": (
            np.average(column(flow, "epe"), weights=column(flow, "pixels")),
            "epe",
        ),
        "P2G mIoU %": (column(objects, "iou").mean(), "miou"),
        "P2G ΣI/ΣU %": (summed, "miou_summed"),
    }
    for heading, (mean, measure) in expected.items():
        unit = UNITS[measure]
        assert shown[row][heading] == f"{mean * unit.factor:.{unit.digits}f}"
    single = read_csv(out / "flying_chairs-1.csv")
    mean = np.average(column(single, "epe"), weights=column(single, "pixels"))
    assert shown[f"{run.name}, T=2 N=1"]["FlyingChairs EPE px"] == f"{mean:.2f}"
    assert shown["Scaling diffusion"]["NYUv2 AbsRel %"] == "6.8"
    assert shown["Scaling diffusion"]["ETH3D AbsRel %"] == "4.8"
    assert shown["Scaling diffusion"]["NYUv2 δ1 %"] == ""
    assert shown["pix2gestalt"]["COCO-A mIoU %"] == "82.9"
    assert shown["PCNet"]["COCO-A mIoU %"] == "81.35"
    text = (out / TABLES).read_text()
    assert "NYUv2: 2 of 654 samples in 'test', a part of the set" in text
    assert "P2G: 2 of 2 samples that were found in 'val', input" in text
    assert "input 64 x 64 px (published: their own resolution)" in text
    printed = capsys.readouterr().out
    assert "Table 3" in printed
    assert "ETH3D" not in printed
    evaluate.main([*arguments, "--device", "cpu", "--limit", "1"])
    assert read_csv(out / "nyu_v2.csv") == depth[:1]  # a part gets what it has in the whole


def tables(path: Path) -> Mapping[str, Mapping[str, str]]:
    """All rows of a Markdown page's tables, joined by their first cell."""
    found: dict[str, dict[str, str]] = {}
    heading: list[str] = []
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            heading = []
        elif not heading:
            heading = cells
        elif cells[0] != "---":
            assert len(cells) == len(heading)
            found.setdefault(cells[0], {}).update(zip(heading, cells, strict=True))
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "nyu"], "--set nyu: expected NAME=PATH"),
        (["--set", "nyu=x"], "--set nyu: there is no such set, only hypersim"),
        (["--set", "nyu_v2=/nowhere"], "/nowhere"),
        (["--set", "nyu_v2={root}", "--set", "nyu_v2={root}"], "given more than once"),
        (["--set", "nyu_v2={root}", "--split", "val"], "nyu_v2 has no split 'val'"),
        (["--set", "nyu_v2={root}", "--limit", "0"], "--limit must be at least 1, not 0"),
        (["--set", "nyu_v2={root}", "--steps", "0"], "--steps must be at least 1, not 0"),
        (["--set", "nyu_v2={root}", "--steps", "1", "2"], "--steps: sets are measured with one"),
        (["--set", "flying_chairs={root}", "--reduction", "aligned"], "flow has no reduction"),
        (["--set", "nyu_v2={root}", "--region", "garg"], "--region garg: nyu_v2 has only eigen"),
        (["--set", "nyu_v2={root}"], "holds no model that can be read"),
    ],
)
def test_wrong_requests_end_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    write_nyu(tmp_path, count=1)
    told = [argument.format(root=tmp_path) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        evaluate.main([str(tmp_path / "run"), *told])
    assert ended.value.code == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("training.evaluate: error: ")
    assert message in last


def test_a_model_is_not_measured_on_a_task_that_it_does_not_do(tmp_path: Path):
    write_chairs(tmp_path)
    config = replace(MODELS["tiny"], tasks=("depth",))
    sampler = Sampler(PerceptionModel(config).eval(), torch.device("cpu"))
    sets = open_sets([f"flying_chairs={tmp_path}"], None, None, Choices())
    with pytest.raises(EvaluationError, match="flying_chairs is a set of flow, but the model does"):
        measure_sets(sampler, "m", sets, Budget(1, 1), Choices(), tmp_path / "out", Console())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="real samples are not on this machine")
@pytest.mark.parametrize(
    ("name", "split"),
    [("hypersim", "val"), ("flying_chairs", "val"), ("pix2gestalt", "val")],
)
def test_real_samples_are_measured(finetuned: Build, tmp_path: Path, name: str, split: str):
    arguments = [f"--set={name}={REAL / name}", "--split", split, "--limit", "1"]
    budget = ["--steps", "1", "--members", "1", "--device", "cpu"]
    evaluate.main([str(finetuned("tiny")), *arguments, *budget, "--out", str(tmp_path)])
    (row,) = read_csv(tmp_path / f"{name}.csv")
    values = [float(value) for key, value in row.items() if key != "name"]
    assert np.isfinite(values).all()
