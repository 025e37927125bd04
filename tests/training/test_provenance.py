"""What a run's folder tells: where it comes from, what it cost, how it went."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from training.checkpoint import TrainState, load_state
from training.curves import CURVES, Curves, Passed, Taken
from training.loop import LoopConfig, StepResult, train
from training.models.moe import ExpertsConfig, MoE
from training.progress import Pace, shown
from training.provenance import RECORD, MacCounter, commit_of, describe_start

CONFIG = LoopConfig(steps=6, warmup_steps=1, save_every=4, log_every=2, bf16=False)
LARGE, SMALL = 5, 3


class Attending(nn.Module):
    """One product with weights, and attention of every token to every other."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, 8)
        y = self.linear(x)[:, None]
        return functional.scaled_dot_product_attention(y, y, y)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / CURVES).open(newline="") as file:
        return list(csv.DictReader(file))


def test_macs_are_counted_forward_and_backward():
    model, x = Attending(), torch.randn(2, 16, 8)
    product, scores = 2 * 16 * 8 * 8, 2 * 16 * 16 * 8
    with MacCounter(model) as forward:
        y = model(x)
    assert forward.macs == product + 2 * scores
    with MacCounter(model) as both:
        torch.autograd.backward(model(x).square().mean())
    # The gradient of the weights; the scores once more and four products of attention.
    assert both.macs == 2 * product + 7 * scores
    assert torch.equal(y, model(x))


def test_only_the_active_experts_are_counted():
    torch.manual_seed(1)
    model = MoE(16, 32, ExpertsConfig(num=8, active=2, kind="swiglu"))
    with MacCounter(model) as counter, torch.no_grad():
        model(torch.randn(2, 10, 16))
    assert counter.macs == 20 * (16 * 8 + 2 * 3 * 16 * 32)


def test_what_is_done_before_the_model_is_entered_is_not_counted():
    model, weight = Attending(), torch.randn(8, 8)
    with MacCounter(model) as counter:
        assert weight @ weight is not None
    assert counter.macs == 0
    with MacCounter(model) as counter:
        model.linear(torch.randn(4, 8) @ weight)
    assert counter.macs == 4 * 8 * 8


def steps_of(model: nn.Linear, seen: list[int]) -> object:
    def compute(step: int) -> StepResult:
        seen.append(step)
        rows, group = ((LARGE, "large"), (SMALL, "small"))[step % 2]
        y = model(torch.ones(rows, 4))
        return StepResult({"square": y.square().mean(), "size": 0 * y.sum() + step}, rows, group)

    return compute


def run(folder: Path, config: LoopConfig, seen: list[int] | None = None) -> None:
    model = nn.Linear(4, 2)
    train(model, steps_of(model, [] if seen is None else seen), config, folder, {"name": "x"})  # type: ignore[arg-type]


def test_a_run_tells_where_it_comes_from(tmp_path: Path):
    run(tmp_path, replace(CONFIG, steps=4))
    run(tmp_path, CONFIG)
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["config"]["name"] == "x"
    assert record["config"]["loop"]["steps"] == 6
    assert [start["step"] for start in record["starts"]] == [0, 4]
    start = record["starts"][1]
    assert start["torch"] == torch.__version__
    assert start["packages"]["safetensors"]
    assert start["command"] == sys.orig_argv
    assert start["world_size"] == len(start["devices"]) == 1
    run(tmp_path / "fresh", CONFIG)
    assert len(json.loads((tmp_path / "fresh" / RECORD).read_text())["starts"]) == 1


def test_the_commit_is_told_and_whether_the_tree_differs(tmp_path: Path):
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        subprocess.run(command, check=True, capture_output=True)

    git("init")
    assert commit_of(tmp_path) is None  # nothing is committed
    (tmp_path / "file").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    (tmp_path / "other").write_text("not tracked")
    clean = commit_of(tmp_path)
    assert clean is not None
    assert len(clean.hash) == 40
    assert not clean.dirty
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path) == replace(clean, dirty=True)


def test_outside_of_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_start(0, ("cpu",)).git is None


def test_curves_tell_means_and_what_was_spent(tmp_path: Path):
    run(tmp_path, CONFIG)
    rows = rows_of(tmp_path)
    assert list(rows[0]) == ["step", "group", "part", "value", "samples", "macs", "lr"]
    sizes = [(r["step"], r["group"], float(r["value"])) for r in rows if r["part"] == "size"]
    assert sizes == [(str(2 * (s // 2) + 2), ("large", "small")[s % 2], s) for s in range(6)]
    by_step = {row["step"]: row for row in rows}
    assert [int(row["samples"]) for row in by_step.values()] == [8, 16, 24]
    # Forward, and the gradient of the weights: the inputs need none.
    per_round = 2 * (LARGE + SMALL) * 4 * 2
    assert [int(row["macs"]) for row in by_step.values()] == [
        per_round,
        2 * per_round,
        3 * per_round,
    ]
    state = load_state(tmp_path / "checkpoints" / "00000006")
    assert state.macs == 3 * per_round
    assert state.passes == {"large": 3, "small": 3}


def test_a_resumed_run_goes_on_with_its_curves(tmp_path: Path):
    run(tmp_path / "whole", CONFIG)
    run(tmp_path / "broken", replace(CONFIG, steps=4, decay="constant"))
    path = tmp_path / "broken" / CURVES
    with path.open("a") as file:  # what a killed run had written after its checkpoint
        file.write("6,large,square,0.5,24,0,0.1\n6,large,si")
    seen: list[int] = []
    run(tmp_path / "broken", CONFIG, seen)
    assert seen == [4, 5]
    assert [r["step"] for r in rows_of(path.parent)] == [
        r["step"] for r in rows_of(tmp_path / "whole")
    ]


def test_a_group_that_comes_late_is_counted_too(tmp_path: Path):
    model = nn.Linear(4, 2)

    def compute(step: int) -> StepResult:
        late = step in (30, 31)
        y = model(torch.ones(LARGE if late else SMALL, 4))
        return StepResult({"square": y.square().mean()}, 1, "late" if late else "early")

    train(model, compute, replace(CONFIG, steps=40), tmp_path, {})
    state = load_state(tmp_path / "checkpoints" / "00000040")
    assert state.pass_macs == {"early": 2 * SMALL * 8, "late": 2 * LARGE * 8}
    assert state.macs == 2 * 8 * (38 * SMALL + 2 * LARGE)


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    told: list[Pace] = []
    with Curves(None, 0, 2, told.append) as curves:
        for step in (1, 2, 3):
            passes = [Passed("a", {"x": step, "y": 0.5}, 3)]
            curves.add(Taken(passes, 0.1, 1.0, TrainState(step, 3 * step, {})))
    assert list(tmp_path.iterdir()) == []
    assert [pace.fresh for pace in told] == [False, True, False]
    assert told[1].losses == told[2].losses == {"a/x": 1.5, "a/y": 0.5}


def show_two_steps(console: Console | None) -> None:
    with shown(4, 10, console) as show:
        show(Pace(5))
        show(Pace(6, {"a/x": 0.25}, 31.0, 0.001, fresh=True))


def test_what_is_no_terminal_gets_a_plain_line_now_and_then():
    console = Console(file=io.StringIO(), width=40)
    show_two_steps(console)
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.startswith("step 6/10, 0:00:00 left: ")
    assert line.endswith("31 samples/s lr=0.001 a/x=0.25")


def test_a_terminal_gets_a_live_display():
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    show_two_steps(console)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "6/10" in written
    assert "a/x=0.25" in written


def test_other_processes_show_nothing(capfd: pytest.CaptureFixture[str]):
    show_two_steps(None)
    assert capfd.readouterr() == ("", "")
