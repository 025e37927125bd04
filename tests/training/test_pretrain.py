"""Class-conditional pre-training on a small cache of latents."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from training import class_sampler, latents, pretrain
from training.checkpoint import CheckpointError
from training.class_sampler import ClassSampler, grid
from training.config import ConfigError
from training.data.latent_set import LatentSet, open_latents
from training.loop import LoopConfig
from training.models.dit import DiT, DiTConfig
from training.models.moe import ExpertsConfig
from training.models.presets import PRESETS
from training.pretrain import (
    check_latents,
    drop_labels,
    held_out_loss,
    load_pretrained,
    objective,
    read_pretrained,
)
from training.runs.pretrain import DIT_SCHEDULE, PRETRAIN_RUNS, PretrainRun

CPU = torch.device("cpu")
MODEL = DiTConfig(4, 8, 13, 32, 2, 2, num_routes=1, first_axis="columns")
RUN = PretrainRun(MODEL, LoopConfig(steps=4, bf16=False), rows=4, flip=False)


@pytest.fixture(scope="module")
def cache(autoencoder_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents")
    where = ["--vae", str(autoencoder_run), "--out", str(out)]
    latents.main(["--procedural", "16", "--size", "32", "--device", "cpu", *where])
    return out


@pytest.fixture(scope="module")
def opened(cache: Path) -> LatentSet:
    return open_latents(cache)


def randomised(model: DiT) -> DiT:
    """Zero-initialised layers hide what a test looks for."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.05 * noise
    return model


def test_the_presets_have_the_published_recipe() -> None:
    assert {*PRESETS, "tiny", "small", "a4-60k", "a4-120k"} <= set(PRETRAIN_RUNS)
    for name, make in PRETRAIN_RUNS.items():
        if name in ("tiny", "small"):
            continue
        run = make()
        assert run.rows * run.loop.micro_batches == 256
        assert (run.loop.learning_rate, run.loop.decay) == (1e-4, "constant")
        assert (run.loop.ema_decay, run.loop.weight_decay) == (0.9999, 0)
        assert run.model == PRESETS[name.split("-")[0] if name.startswith("a4") else name]
        assert run.learn_sigma
    assert PRETRAIN_RUNS["a4"]().loop.steps == 400_000
    assert PRETRAIN_RUNS["a4-80k"]().loop.steps == 80_000


def test_one_label_in_ten_becomes_none_of_them() -> None:
    label = torch.arange(12).repeat(1000)
    dropped = drop_labels(label, RUN, torch.Generator().manual_seed(0))
    changed = dropped != label
    assert (dropped[changed] == 12).all()
    assert 0.085 < changed.float().mean() < 0.115
    kept = drop_labels(label, replace(RUN, label_dropout=0.0), torch.Generator().manual_seed(0))
    assert torch.equal(kept, label)


def test_the_loss_of_a_step_is_a_function_of_its_number(opened: LatentSet) -> None:
    model = randomised(DiT(MODEL))
    first, again = objective(RUN, model, opened, CPU), objective(RUN, model, opened, CPU)
    expected = [first(index).parts for index in range(4)]
    assert set(expected[0]) == {"diffusion", "variance"}
    for index in (3, 1):
        found = again(index).parts
        assert all(torch.equal(found[name], expected[index][name]) for name in found)
    assert not torch.equal(expected[0]["diffusion"], expected[1]["diffusion"])


def test_a_model_without_learned_variance_has_the_error_alone(opened: LatentSet) -> None:
    plain = replace(RUN, model=replace(MODEL, out_channels=4))
    assert set(objective(plain, DiT(plain.model), opened, CPU)(0).parts) == {"diffusion"}


@pytest.mark.parametrize(
    "experts",
    [ExpertsConfig(num=4), ExpertsConfig(num=4, kind="swiglu", shared=2)],
    ids=["gelu", "swiglu with a shared expert"],
)
def test_experts_add_a_balance_loss_and_learn(experts: ExpertsConfig, opened: LatentSet) -> None:
    run = replace(RUN, model=replace(MODEL, experts=experts))
    model = randomised(DiT(run.model))
    parts = objective(run, model, opened, CPU)(0).parts
    assert float(parts["balance"].detach()) >= 2 * experts.balance_weight * 0.99  # of two blocks
    torch.autograd.backward(torch.stack(list(parts.values())).sum())
    gates = [p for name, p in model.named_parameters() if "gate" in name]
    assert len(gates) == 2
    assert all(gate.grad is not None and gate.grad.abs().max() > 0 for gate in gates)


def test_one_batch_is_learned_by_heart(opened: LatentSet) -> None:
    torch.manual_seed(0)
    run = replace(RUN, model=replace(MODEL, width=64), rows=16)
    model = DiT(run.model)
    compute = objective(run, model, opened, CPU)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(250):
        parts = compute(0).parts
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(parts.values())).sum())
        optimizer.step()
        losses.append(float(parts["diffusion"].detach()))
    assert losses[0] > 0.9  # the first prediction is zero
    assert losses[-1] < 0.1


def test_a_run_leaves_what_other_commands_start_from(cache: Path, tmp_path: Path) -> None:
    arguments = ["--run", "tiny", "--latents", str(cache), "--out", str(tmp_path)]
    fewer = ["--set", "loop.steps=4", "--set", "loop.save_every=2", "--device", "cpu"]
    pretrain.main([*arguments, *fewer, "--held-out", str(cache), "--verify"])
    found = read_pretrained(tmp_path)
    assert found.run.model == PRETRAIN_RUNS["tiny"]().model
    assert found.latent_shape == (4, 4, 4)
    assert len(found.classes) == 12
    model = load_pretrained(tmp_path, CPU)
    assert model.y_embedder.weight.shape[0] == 1001
    assert json.loads((tmp_path / "model.json").read_text())["model"]["width"] == 64


def test_a_run_that_stopped_ends_with_the_same_weights(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--run", "tiny", "--latents", str(cache), "--out", str(out), "--device", "cpu"]
    fewer = ["--set", "loop.steps=4", "--set", "loop.save_every=2"]
    pretrain.main([*arguments, *fewer])
    weights = (out / "model.safetensors").read_bytes()
    shutil.rmtree(out / "checkpoints" / "00000004")
    (out / "model.safetensors").unlink()
    pretrain.main([*arguments, *fewer])
    assert (out / "checkpoints" / "00000004").is_dir()
    assert (out / "model.safetensors").read_bytes() == weights


def test_the_held_out_loss_is_the_same_for_the_same_weights(opened: LatentSet) -> None:
    model = randomised(DiT(MODEL))
    losses = [held_out_loss(RUN, model, opened, CPU, batches=2) for _ in range(2)]
    other_seed = replace(RUN, loop=replace(RUN.loop, seed=9), rows=2)
    losses.append(held_out_loss(other_seed, model, opened, CPU, batches=2))
    assert losses[0] == losses[1] == losses[2] > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_labels": 12}, "model.num_labels is 12; 12 classes .* need 13"),
        ({"in_channels": 16, "out_channels": 32}, "model.in_channels is 16, the latents have 4"),
        ({"patch": 8}, "model.patch 8 does not divide latents 4 x 4"),
    ],
)
def test_latents_that_do_not_fit_are_refused(
    changes: dict[str, int], message: str, opened: LatentSet
) -> None:
    run = replace(RUN, model=replace(MODEL, **changes))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        check_latents(run, opened)


def test_held_out_latents_of_another_form_are_refused_before_training(
    cache: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / "other", tmp_path / "run"
    where = ["--vae", str(autoencoder_run), "--out", str(other), "--device", "cpu"]
    latents.main(["--procedural", "4", "--size", "64", *where])
    given = ["--latents", str(cache), "--held-out", str(other), "--out", str(out)]
    with pytest.raises(SystemExit):
        pretrain.main([*given, "--device", "cpu"])
    assert "differs from" in capsys.readouterr().err
    assert not out.exists()


def test_a_run_that_diverges_ends_with_one_sentence(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ["--set", "loop.learning_rate=1e30", "--set", "loop.warmup_steps=0"]
    where = ["--latents", str(cache), "--out", str(tmp_path), "--device", "cpu"]
    with pytest.raises(SystemExit) as left:
        pretrain.main([*where, *fast])
    assert left.value.code == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("training.pretrain: stopped: ")
    assert said.endswith("lower loop.learning_rate, then begin again")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--latents", "nowhere"], "nowhere is not a finished cache"),
        (["--device", "abacus"], "'abacus' is no device"),
        (["--device", "cuda:99"], "GPUs on this machine"),
        (["--out", __file__], "is a file, it must be a folder"),
        (["--set", "model.heads=7"], "model.width: must be a multiple of 4, for positions, and"),
        (["--set", "flip=true"], "encode with --flip, or set flip=false"),
        (["--set", "model.num_labels=5"], "12 classes and the row for none of them need 13"),
        (["--set", "model.out_channels=5"], "model.out_channels: must be 4, or 8"),
        (["--set", "label_dropout=1.0"], "label_dropout: must be in [0, 1)"),
        (["--set", "rows=0"], "rows: must be at least 1"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    arguments: list[str],
    message: str,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        pretrain.main(["--latents", str(cache), "--out", str(tmp_path), *arguments])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


class Ideal(torch.nn.Module):
    """Knows that every picture of class k is the constant k, and of none the constant 5."""

    config = MODEL

    def forward(self, noisy: Tensor, condition: None, timestep: Tensor, task: Tensor) -> Tensor:
        alpha_bar = torch.from_numpy(DIT_SCHEDULE.build().alpha_bar)[timestep].float()
        x_0 = torch.where(task == 12, 5.0, task.float())[:, None, None, None]
        signal, noise = (a[:, None, None, None] for a in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))
        eps = (noisy - signal * x_0) / noise
        return torch.cat([eps, torch.zeros_like(eps)], dim=1)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_the_sampler_reaches_what_an_ideal_model_knows(guidance: float) -> None:
    sampler = ClassSampler(Ideal(), DIT_SCHEDULE, CPU)  # type: ignore[arg-type]
    found = sampler.latents(torch.tensor([0, 7]), (4, 2, 2), 10, guidance)
    expected = 5 + guidance * (torch.tensor([0.0, 7.0]) - 5)
    torch.testing.assert_close(
        found, expected[:, None, None, None].expand(2, 4, 2, 2), rtol=1e-3, atol=1e-2
    )


def test_samples_become_a_picture_file(
    cache: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fewer = ["--set", "loop.steps=1", "--device", "cpu"]
    pretrain.main(["--run", "tiny", "--latents", str(cache), "--out", str(run), *fewer])
    drawn = [str(run), "--vae", str(autoencoder_run), "--device", "cpu", "--steps", "2"]
    out = tmp_path / "grid.png"
    class_sampler.main([*drawn, "--classes", "3", "0", "--each", "3", "--out", str(out)])
    with Image.open(out) as image:
        assert image.size == (3 * 34 - 2, 2 * 34 - 2)
    for arguments, message in [
        (["--classes", "12"], "--classes 12 is not in 0..11"),
        (["--steps", "201"], "--steps must be in 1..200"),
    ]:
        with pytest.raises(SystemExit):
            class_sampler.main([*drawn, *arguments, "--out", str(out)])
        assert message in capsys.readouterr().err


def test_the_grid_goes_row_by_row() -> None:
    pictures = torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None].expand(3, 3, 4, 4)
    sheet = grid(pictures, 2)
    assert sheet.shape == (10, 10, 3)
    assert [int(sheet[1, 1, 0]), int(sheet[1, 7, 0]), int(sheet[7, 1, 0])] == [0, 128, 255]
    assert np.all(sheet[:, 4:6] == 255)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.json does not describe a pre-trained"):
        load_pretrained(tmp_path, CPU)
