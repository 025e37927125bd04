"""Training that starts from published checkpoints instead of runs of ours."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.core.tasks import TaskName
from tests.support.foreign_dit import (
    DIT,
    DIT_MOE,
    GENERALIST,
    Published,
    forward,
    in_diffusers,
    random_weights,
)
from training.checkpoint import CheckpointError
from training.config import ConfigError
from training.models.foreign import read_dit
from training.models.moe import ExpertsConfig
from training.models.perception import ModelConfig
from training.models.transplant import TransplantError, perception_state
from training.runs.finetune import FINETUNE_RUNS, FinetuneRun
from training.runs.upcycle import UPCYCLE_RUNS
from training.starts import begin
from training.upcycle import start

CPU = torch.device("cpu")
SMALL = replace(DIT, width=64, depth=1, heads=4)  # as the tiny runs' denoisers are


def around(model: ModelConfig, **settings: object) -> ModelConfig:
    """A model whose denoiser has seen ImageNet's classes."""
    return replace(model, pretrained_labels=1000, first_axis="columns", **settings)  # type: ignore[arg-type]


def finetuning(**settings: object) -> FinetuneRun:
    run = FINETUNE_RUNS["tiny-concatenated"]()
    return replace(run, model=around(run.model, **settings))


def as_file(of: Published, folder: Path) -> Path:
    torch.save({"ema": random_weights(of)}, folder / "published.pt")
    return folder / "published.pt"


def as_folder(of: Published, folder: Path) -> Path:
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=of.heads,
        attention_head_dim=of.width // of.heads,
        out_channels=of.out_channels,
        num_layers=of.depth,
        sample_size=of.latent,
        attention_bias=True,
    )
    model.load_state_dict(in_diffusers(random_weights(of), of))
    model.save_pretrained(folder / "published")
    return folder / "published"


@pytest.mark.parametrize("save", [as_file, as_folder])
def test_a_published_dit_is_where_fine_tuning_starts(
    save: Callable[[Published, Path], Path], autoencoder_run: Path, tmp_path: Path
):
    run = finetuning()
    _, model = begin(run, autoencoder_run, save(SMALL, tmp_path), CPU, SMALL.heads)
    source = read_dit(as_file(SMALL, tmp_path), SMALL.heads)
    target = model.config.denoiser()
    expected = perception_state(source.state, source.config, target, seed=1)
    for name, value in model.denoiser.state_dict().items():
        assert torch.equal(value, expected[name]), name


@torch.no_grad()
def test_the_papers_generalist_is_trained_on_as_it_is(autoencoder_run: Path, tmp_path: Path):
    of = replace(GENERALIST, width=64, depth=1, heads=4)
    run = finetuning(targets="paper", experts=ExpertsConfig())
    _, model = begin(run, autoencoder_run, as_file(of, tmp_path), CPU, of.heads)
    x = torch.randn(4, 12, 16, 16)
    t = torch.tensor([999, 500, 20, 0])
    tasks: tuple[TaskName, ...] = ("depth", "amodal", "flow")
    labels = torch.tensor([c.label for task in tasks for c in model.components(task)])
    assert labels.tolist() == [1000, 1001, 1002, 1003]
    expected = forward(random_weights(of), of, x, t, labels)[:, :4]
    got = model.denoiser.eval()(x[:, 8:], x[:, :8], t, labels)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_published_dit_can_be_upcycled(autoencoder_run: Path, tmp_path: Path):
    tiny = UPCYCLE_RUNS["tiny"]()
    run = replace(tiny, model=around(tiny.model))
    _, mixture, found = start(run, autoencoder_run, as_file(SMALL, tmp_path), CPU, SMALL.heads)
    assert found.renormalised < 1e-5 < found.as_trained
    experts = mixture.denoiser.blocks[0].get_parameter("mlp.experts.weight_in")
    dense = random_weights(SMALL)["blocks.0.mlp.fc1.weight"]
    assert all(torch.equal(expert, dense.T) for expert in experts)


@pytest.mark.parametrize(
    ("of", "error", "message"),
    [
        (replace(SMALL, width=48), TransplantError, "does not fit into"),
        (replace(SMALL, labels=11), TransplantError, "10 classes were pre-trained"),
        (replace(SMALL, depth=12, width=384, heads=6), CheckpointError, "have 6 heads, not 4"),
        (replace(DIT_MOE, width=64, depth=1, heads=4), TransplantError, "does not fit into"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(
    of: Published, error: type[Exception], message: str, autoencoder_run: Path, tmp_path: Path
):
    with pytest.raises(error, match=message):
        begin(finetuning(), autoencoder_run, as_file(of, tmp_path), CPU, 4)


def test_an_autoencoder_is_needed(tmp_path: Path):
    with pytest.raises(ConfigError, match="--vae FOLDER is needed"):
        begin(finetuning(), None, as_file(SMALL, tmp_path), CPU)


@pytest.mark.parametrize(
    ("heads", "error", "message"),
    [
        (None, CheckpointError, "no published size, .* pass --heads"),
        (5, CheckpointError, "cannot have 5 heads, which must divide the width"),
        (8, TransplantError, "heads"),
    ],
)
def test_heads_are_told_and_not_guessed(
    heads: int | None, error: type[Exception], message: str, autoencoder_run: Path, tmp_path: Path
):
    with pytest.raises(error, match=message):
        begin(finetuning(), autoencoder_run, as_file(SMALL, tmp_path), CPU, heads)


def test_heads_that_a_folder_states_are_not_overruled(autoencoder_run: Path, tmp_path: Path):
    folder = as_folder(SMALL, tmp_path)
    with pytest.raises(CheckpointError, match="states 4 heads, not 2"):
        begin(finetuning(), autoencoder_run, folder, CPU, 2)
    with pytest.raises(ConfigError, match="--heads is for a published checkpoint"):
        begin(finetuning(), autoencoder_run, None, CPU, 2)
