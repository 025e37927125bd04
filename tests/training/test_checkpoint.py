"""A checkpoint is whole or absent, and brings everything back."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from training import checkpoint
from training.checkpoint import (
    CheckpointError,
    TrainState,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
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


@pytest.mark.parametrize("last_written", ["save_model", "save_file", "_flush"])
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
    }
