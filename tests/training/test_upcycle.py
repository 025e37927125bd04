"""The upcycling command: from a dense run's folder to a trained mixture."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import nn

from tests.training.conftest import FINETUNE, Build
from training import upcycle
from training.config import described
from training.finetuned import DESCRIPTION, WEIGHTS, load_model, read_description
from training.models.autoencoders import weights_sha256
from training.models.dit import DiT
from training.models.moe import ExpertsConfig
from training.models.perception import MODELS, PerceptionModel
from training.models.transplant import TransplantError
from training.runs.pretrain import PRETRAIN_RUNS
from training.runs.upcycle import UPCYCLE_RUNS

SHORT = [*FINETUNE[:2], "--set", "loop.steps=4", "--set", "loop.save_every=2"]


def run(arguments: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard's own
        upcycle.main(["--run", "tiny", *SHORT, *arguments])


def dense_model(depth: int = 3) -> PerceptionModel:
    torch.manual_seed(8)
    config = replace(MODELS["tiny-concatenated"], denoiser_depth=depth)
    model = PerceptionModel(config).eval()
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("num", [2, 4, 8])
def test_it_starts_at_the_dense_model_once_gates_are_renormalised(num: int):
    dense = dense_model()
    mixture = upcycle.upcycled(dense, ExpertsConfig(num=num, active=2), seed=1).eval()
    found = upcycle.measure_start(dense, mixture, seed=1)
    assert found.renormalised < 1e-5
    assert found.share == pytest.approx(2 / num, rel=0.2)
    if num > 2:
        assert 1e-3 < found.as_trained < 1
    # With two experts of two, the shares add up to one as they are.
    assert (found.as_trained < 1e-5) == (num == 2)


@pytest.mark.parametrize("task", ["depth", "flow", "amodal"])
@torch.no_grad()
def test_what_is_not_the_denoiser_is_copied(task: str):
    dense = dense_model()
    mixture = upcycle.upcycled(dense, ExpertsConfig(), seed=1).eval()
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    latent = dense.encode(task, picture, picture).condition
    assert latent.std() > 0
    assert torch.equal(mixture.encode(task, picture, picture).condition, latent)
    assert torch.equal(mixture.vae.decode(latent[:, :4]), dense.vae.decode(latent[:, :4]))


def test_a_mixture_is_not_upcycled_again():
    mixture = upcycle.upcycled(dense_model(1), ExpertsConfig(), seed=1)
    with pytest.raises(TransplantError, match="has experts already"):
        upcycle.upcycled(mixture, ExpertsConfig(), seed=1)


def test_a_dense_run_becomes_a_trained_mixture(
    finetuned: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run(["--dense", str(finetuned("tiny-concatenated")), "--out", str(tmp_path)])
    assert "with renormalised gates" in capsys.readouterr().out
    told = json.loads((tmp_path / upcycle.START).read_text())
    assert told["renormalised"] < 1e-5
    assert read_description(tmp_path).model.experts == MODELS["tiny-moe"].experts
    mixture = load_model(tmp_path, torch.device("cpu"))
    experts = mixture.denoiser.blocks[0].get_parameter("mlp.experts.weight_in")
    apart = (experts[0] - experts[1]).abs().max()
    assert apart > 0  # they started alike
    curves = list((tmp_path / "curves").iterdir())
    assert any(b"balance" in path.read_bytes() for path in curves)


def test_a_pretrained_run_can_be_upcycled_as_well(autoencoder_run: Path, tmp_path: Path):
    images = PRETRAIN_RUNS["tiny"]()
    images = replace(images, model=replace(images.model, width=64, depth=1, heads=4))
    torch.manual_seed(6)
    denoiser = DiT(images.model)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    save_model(denoiser, str(tmp_path / WEIGHTS))
    vae = weights_sha256(autoencoder_run)
    told = {"latent_shape": [4, 8, 8], "classes": ["a", "b"], "vae": vae}
    (tmp_path / DESCRIPTION).write_text(json.dumps({**described(images), **told}))
    upcycled = UPCYCLE_RUNS["tiny"]()
    labels = images.model.num_labels - 1
    model = replace(upcycled.model, pretrained_labels=labels, first_axis=images.model.first_axis)
    run, mixture, found = upcycle.start(
        replace(upcycled, model=model), autoencoder_run, tmp_path, torch.device("cpu")
    )
    assert run.model == mixture.config == model
    assert found.renormalised < 1e-5 < found.as_trained
    experts = mixture.denoiser.blocks[0].get_parameter("mlp.experts.weight_in")
    dense = denoiser.blocks[0].get_parameter("mlp.fc1.weight")
    assert all(torch.equal(expert, dense.T) for expert in experts)


def test_it_resumes_to_the_same_weights(finetuned: Build, tmp_path: Path):
    dense = ["--dense", str(finetuned("tiny-concatenated"))]
    run([*dense, "--out", str(tmp_path / "whole")])
    halted = tmp_path / "halted"
    run([*dense, "--out", str(halted)])
    last = max((halted / "checkpoints").iterdir())
    assert last.name == "00000004"
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    (halted / WEIGHTS).unlink()
    run([*dense, "--out", str(halted)])
    whole, resumed = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "halted"))
    assert whole.keys() == resumed.keys()
    assert [name for name, value in whole.items() if not torch.equal(resumed[name], value)] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "model.experts=null"], "model.experts: must not be null"),
        (["--set", "model.denoiser_depth=2"], "does not fit"),
        (
            [
                "--set",
                'model.experts={"num":4,"active":2,"kind":"swiglu","shared":0,'
                '"renormalise":false,"balance_weight":0.01}',
            ],
            "gelu experts",
        ),
        (["--set", "model.experts.active=9"], "model.experts.active: must be within 1 and 4"),
    ],
)
def test_what_cannot_be_upcycled_is_one_sentence(
    finetuned: Build,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    with pytest.raises(SystemExit, match="2"):
        run(["--dense", str(finetuned("tiny-concatenated")), "--out", str(tmp_path), *arguments])
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        run(["--dense", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", UPCYCLE_RUNS)
def test_every_run_has_experts_that_an_mlp_fits_into(name: str):
    experts = UPCYCLE_RUNS[name]().model.experts
    assert experts is not None
    assert (experts.kind, experts.shared) == ("gelu", 0)
