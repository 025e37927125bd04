"""A checkpoint is whole or absent, and brings everything back."""

import copy
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.checkpoints import load_checkpoint, save_checkpoint
from training import checkpoint
from training.checkpoint import (
    CheckpointError,
    CheckpointWriter,
    TrainState,
    latest_checkpoint,
    load_optimizer,
    load_state,
    load_weights,
)

Parts = tuple[nn.Module, nn.Module, torch.optim.Optimizer]


def make(seed: int) -> Parts:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
    return model, copy.deepcopy(model).requires_grad_(False), optimizer


def save(folder: Path, parts: Parts, step: int) -> Path:
    return save_checkpoint(folder, *parts, TrainState(step, 10 * step, {"seed": step}))


def test_everything_comes_back(tmp_path: Path):
    saved, loaded = make(1), make(2)
    path = save(tmp_path, saved, 12)
    state = load_checkpoint(path, *loaded)
    assert state == TrainState(12, 120, {"seed": 12})
    for before, after in zip(saved[:2], loaded[:2], strict=True):
        for name, value in before.state_dict().items():
            assert torch.equal(after.state_dict()[name], value)
    first, second = (parts[2].state_dict()["state"] for parts in (saved, loaded))
    assert first.keys() == second.keys()
    for index, entries in first.items():
        for name, value in entries.items():
            assert torch.equal(second[index][name], value)


def test_only_the_newest_two_are_kept(tmp_path: Path):
    parts = make(1)
    for step in (1, 2, 9, 10):
        save(tmp_path, parts, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000009", "00000010"]
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "00000010"


def test_there_may_be_none(tmp_path: Path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("last_written", ["save_file", "_flush"])
def test_an_interrupted_write_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_written: str
):
    parts = make(1)
    save(tmp_path, parts, 1)
    real = getattr(checkpoint, last_written)

    def interrupted(*arguments: object) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, last_written, interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, parts, 2)
    monkeypatch.undo()
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "00000001"
    load_checkpoint(latest, *make(2))
    assert save(tmp_path, parts, 2).is_dir()  # what was left over is no obstacle
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001", "00000002"]


def test_saving_a_step_again_replaces_it(tmp_path: Path):
    save(tmp_path, make(1), 5)
    path = save(tmp_path, make(3), 5)
    loaded = make(2)
    load_checkpoint(path, *loaded)
    assert torch.equal(loaded[0].state_dict()["0.weight"], make(3)[0].state_dict()["0.weight"])


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path):
    path = save(tmp_path, make(1), 1) / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_weights(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1)), path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_weights(nn.Linear(3, 4), path)
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        load_weights(nn.Linear(3, 4), tmp_path / "absent.safetensors")


def test_the_state_is_readable(tmp_path: Path):
    path = save(tmp_path, make(1), 4)
    assert json.loads((path / "state.json").read_text()) == {
        "step": 4,
        "samples": 40,
        "config": {"seed": 4},
        "passes": {},
        "pass_macs": {},
        "smooth_loss": {},
    }


def test_a_checkpoint_without_the_counts_can_be_read(tmp_path: Path):
    path = save(tmp_path, make(1), 4) / "state.json"
    path.write_text('{"step": 4, "samples": 40, "config": {}}')
    state = load_state(path.parent)
    assert (state.step, state.samples, state.macs) == (4, 40, 0)


def test_macs_are_those_of_all_passes_that_were_measured():
    counts = {"passes": {"a": 3, "b": 2, "c": 5}, "pass_macs": {"a": 10, "b": 7}}
    assert TrainState(1, 1, {}, **counts).macs == 44


def test_what_is_trained_may_change_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    parts, begun, may_write = make(1), threading.Event(), threading.Event()
    expected = parts[0].state_dict()["0.weight"].clone()

    def slow(*arguments: Any) -> None:
        begun.set()
        assert may_write.wait(60)
        save_file(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", slow)
    with CheckpointWriter(tmp_path) as writer:
        writer.save(*parts, TrainState(1, 1, {}))
        assert begun.wait(60)
        assert latest_checkpoint(tmp_path) is None  # `save` did not wait for it
        with torch.no_grad():
            parts[0].get_parameter("0.weight").add_(1)
        may_write.set()
        writer.save(*parts, TrainState(2, 2, {}))
    for step, value in ((1, expected), (2, expected + 1)):
        loaded = make(2)
        load_checkpoint(tmp_path / f"{step:08d}", *loaded)
        assert torch.equal(loaded[0].state_dict()["0.weight"], value)


def test_what_the_writer_cannot_do_rises_where_training_goes_on(tmp_path: Path):
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    parts, state = make(1), TrainState(1, 1, {})
    with CheckpointWriter(tmp_path / "checkpoints") as writer:
        writer.save(*parts, state)
        with pytest.raises(OSError, match="checkpoints"):
            writer.save(*parts, state)
    with (
        pytest.raises(OSError, match="checkpoints"),
        CheckpointWriter(tmp_path / "checkpoints") as writer,
    ):
        writer.save(*parts, state)


def test_damaged_files_are_named(tmp_path: Path):
    path = save(tmp_path, make(1), 1)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        whole = (path / name).read_bytes()
        (path / name).write_bytes(whole[:20])
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            load_checkpoint(path, *make(2))
        (path / name).write_bytes(whole)
    load_checkpoint(path, *make(2))


def test_parts_that_share_weights_are_written_once(tmp_path: Path):
    def shared() -> Parts:
        layer = nn.Linear(3, 3)
        model = nn.ModuleDict({"one": layer, "two": nn.Sequential(layer)})
        return model, copy.deepcopy(model), torch.optim.AdamW(model.parameters())

    saved, loaded = shared(), shared()
    path = save(tmp_path, saved, 1)
    assert load_file(path / "model.safetensors").keys() == {"one.weight", "one.bias"}
    load_checkpoint(path, *loaded)
    for name, value in saved[0].state_dict().items():
        assert torch.equal(loaded[0].state_dict()[name], value)


def test_another_optimisers_moments_are_refused_by_name(tmp_path: Path):
    path = save(tmp_path, make(1), 1)
    for layers in ([nn.Linear(3, 4)], [nn.Linear(3, 5), nn.Linear(5, 1)]):
        optimizer = torch.optim.AdamW(nn.Sequential(*layers).parameters())
        with pytest.raises(CheckpointError, match=r"optimizer\.safetensors"):
            load_optimizer(path, optimizer)
