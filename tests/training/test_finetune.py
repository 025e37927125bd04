"""Fine-tuning on data sets in their real formats, around any autoencoder, from any finished run."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_model
from torch import nn

from service.backends.repository import load_repository
from tests.training.conftest import Build
from tests.training.public_sets import write_chairs, write_objects
from tests.training.test_distributed import assert_equal, launch, launch_alone
from tests.training.test_latent_diffusion_vae import write_small
from training import export, finetune
from training.checkpoint import CheckpointError
from training.config import ConfigError, described
from training.finetuned import DESCRIPTION, WEIGHTS, load_model, read_description
from training.models.autoencoders import weights_sha256
from training.models.dit import DiT, DiTConfig
from training.models.latent_diffusion_vae import LatentDiffusionVaeConfig
from training.models.transplant import perception_state
from training.runs.finetune import FINETUNE_RUNS
from training.runs.pretrain import PRETRAIN_RUNS
from training.starts import begin
from training.targets import PAPER

CPU = torch.device("cpu")
SOURCES = [
    f'sources.{task}=[{{"name": "{name}", "share": 1}}]'
    for task, name in (
        ("depth", "hypersim"),
        ("flow", "flying_chairs"),
        ("amodal", "pix2gestalt"),
    )
]
REAL = [word for setting in SOURCES for word in ("--set", setting)]
SHORT = ["--device", "cpu", "--set", "loop.steps=6", "--set", "loop.save_every=2"]


def run(*arguments: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard's own
        finetune.main([str(argument) for argument in arguments])


def write_rooms(root: Path) -> None:
    folder = root / "train" / "ai_001_001"
    folder.mkdir(parents=True)
    for number in range(3):
        rows, columns = np.indices((48, 64))
        depth = (1000 * (2 + number) + 20 * rows + 10 * columns).astype(np.uint16)
        depth[:10, :20] = 0  # not known
        Image.fromarray(depth).save(folder / f"depth_plane_cam_00_fr{number:04d}.png")
        colour = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(colour).save(folder / f"rgb_cam_00_fr{number:04d}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The `--data` of small copies of the paper's three sets."""
    root = tmp_path_factory.mktemp("sets")
    write_rooms(root / "hypersim")
    write_chairs(root / "flying_chairs")
    write_objects(root / "pix2gestalt")
    return [
        word
        for name in ("hypersim", "flying_chairs", "pix2gestalt")
        for word in ("--data", f"{name}={root / name}")
    ]


@pytest.fixture(scope="module")
def trained(
    autoencoder_run: Path, data: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run on the three sets."""
    folder = tmp_path_factory.mktemp("real")
    words = ["--run", "tiny-concatenated", *SHORT, *REAL, *data]
    run(*words, "--vae", autoencoder_run, "--out", folder)
    return folder


def differ(first: Path, second: Path) -> list[str]:
    one, other = load_file(first), load_file(second)
    return [name for name in one.keys() & other.keys() if not torch.equal(one[name], other[name])]


def test_real_sets_are_learned_and_remembered(
    trained: Path, autoencoder_run: Path, finetuned: Build
):
    assert read_description(trained).data == ("hypersim", "flying_chairs", "pix2gestalt")
    assert read_description(finetuned("tiny-concatenated")).data == ("procedural",)
    assert differ(trained / WEIGHTS, finetuned("tiny-concatenated") / WEIGHTS)
    model = load_model(trained, CPU)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_resumed_run_on_real_sets_repeats_an_uninterrupted_one(
    trained: Path, autoencoder_run: Path, data: list[str], tmp_path: Path
):
    words = ["--run", "tiny-concatenated", *SHORT, *REAL, *data, "--vae", autoencoder_run]
    # Interrupted after four steps of six, and gone on with other workers.
    run(*words, "--out", tmp_path)
    newest = tmp_path / "checkpoints" / "00000006"
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    (tmp_path / WEIGHTS).unlink()
    run(*words, "--out", tmp_path, "--set", "loader.workers=1", "--set", "loader.ahead=0")
    assert not differ(tmp_path / WEIGHTS, trained / WEIGHTS)


def test_two_processes_learn_from_real_sets_what_one_does(
    autoencoder_run: Path, data: list[str], tmp_path: Path
):
    words = ["--run", "tiny-concatenated", *SHORT, *REAL, *data, "--vae", str(autoencoder_run)]
    words += ["--set", "loop.micro_batches=2", "--set", "loop.steps=4", "--set", "loop.bf16=false"]
    launch_alone("training.finetune", *words, "--out", str(tmp_path / "alone"))
    launch("training.finetune", *words, "--out", str(tmp_path / "together"))
    assert_equal(tmp_path / "together" / WEIGHTS, tmp_path / "alone" / WEIGHTS)


def test_a_depth_model_around_diffusers_autoencoder_is_served(data: list[str], tmp_path: Path):
    """The paper's form of a single task: the condition is the picture's latent alone."""
    write_small(tmp_path / "vae")
    shape = ['model.targets="paper"', 'model.tasks=["depth"]', "model.condition_channels=4"]
    shape += ['shares={"depth": 1}', "loop.steps=2", SOURCES[0]]
    words = ["--run", "tiny-concatenated", *SHORT, *data[:2]]
    words += [word for setting in shape for word in ("--set", setting)]
    run(*words, "--vae", tmp_path / "vae", "--out", tmp_path / "run")
    description = read_description(tmp_path / "run")
    assert isinstance(description.model.vae, LatentDiffusionVaeConfig)
    assert description.model.vae.block_out_channels == (8, 8, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        export.main([str(tmp_path / "run"), "--repository", str(tmp_path / "served")])
    artifact = load_repository(tmp_path / "served")["percept:1"].artifact
    assert artifact.description == "Model for depth, trained on hypersim"
    assert artifact.provenance["data"] == "hypersim"
    assert artifact.condition_channels == 4
    assert artifact.served("depth").encoding == PAPER.depth
    run(*words, "--init", tmp_path / "run", "--out", tmp_path / "again")
    assert load_model(tmp_path / "again", CPU).config == description.model


def pretrained(folder: Path, vae: Path) -> DiT:
    """The folder of a pre-training run that has random weights."""
    shape = DiTConfig(4, 8, 6, 64, 1, 4, num_routes=1, first_axis="columns")
    torch.manual_seed(4)
    denoiser = DiT(shape)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    folder.mkdir()
    save_model(denoiser, str(folder / WEIGHTS))
    told = {
        **described(replace(PRETRAIN_RUNS["tiny"](), model=shape)),
        "latent_shape": [4, 8, 8],
        "classes": ["a", "b", "c", "d", "e"],
        "vae": weights_sha256(vae),
    }
    (folder / DESCRIPTION).write_text(json.dumps(told))
    return denoiser


def test_a_pretrained_denoiser_is_where_training_starts(
    autoencoder_run: Path, data: list[str], tmp_path: Path
):
    source = pretrained(tmp_path / "pretrained", autoencoder_run)
    words = ["--run", "tiny-concatenated", *SHORT, "--set", "loop.steps=1"]
    words += ["--set", "model.pretrained_labels=5", "--set", 'model.first_axis="columns"']
    words += ["--set", "loop.learning_rate=0", "--init", str(tmp_path / "pretrained")]
    run(*words, "--vae", autoencoder_run, "--out", tmp_path / "run")
    model = load_model(tmp_path / "run", CPU)
    expected = perception_state(source.state_dict(), source.config, model.config.denoiser(), 1)
    for name, value in model.denoiser.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert [c.label for c in model.components("depth")] == [5]


def test_autoencoders_that_are_missing_or_one_too_many_are_named(
    autoencoder_run: Path, finetuned: Build, tmp_path: Path
):
    tiny = FINETUNE_RUNS["tiny"]()
    with pytest.raises(ConfigError, match="--vae FOLDER is needed"):
        begin(tiny, None, None, CPU)
    with pytest.raises(ConfigError, match="has an autoencoder"):
        begin(tiny, autoencoder_run, finetuned("tiny"), CPU)
    pretrained(tmp_path / "pretrained", autoencoder_run)
    with pytest.raises(ConfigError, match="--vae FOLDER is needed"):
        begin(tiny, None, tmp_path / "pretrained", CPU)
    write_small(tmp_path / "other")
    with pytest.raises(CheckpointError, match="another autoencoder"):
        begin(tiny, tmp_path / "other", tmp_path / "pretrained", CPU)
    with pytest.raises(CheckpointError, match="does not describe a finished run"):
        begin(tiny, None, tmp_path, CPU)


def test_a_finished_run_of_an_earlier_version_is_where_training_starts(
    finetuned: Build, tmp_path: Path
):
    before = finetuned("tiny")
    told = json.loads((before / DESCRIPTION).read_text())
    for name in ("sources", "augment", "loader"):
        del told[name]
    for name in ("tasks", "targets", "schedule", "experts", "first_axis", "pretrained_labels"):
        del told["model"][name]
    del told["model"]["vae"]["kind"]
    (tmp_path / DESCRIPTION).write_text(json.dumps(told))
    (tmp_path / WEIGHTS).symlink_to(before / WEIGHTS)
    _, model = begin(FINETUNE_RUNS["tiny"](), None, tmp_path, CPU)
    expected = load_model(before, CPU).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert read_description(tmp_path).data == ("procedural",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "hypersim"], "expected NAME=FOLDER"),
        (["--data", "hypersim=/nowhere"], "this run is trained on procedural"),
        (REAL, "say where it is by --data hypersim=FOLDER"),
        ([*REAL[:2], "--data", "hypersim=/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_the_command_line_says_which_data_is_wrong(
    words: list[str],
    message: str,
    autoencoder_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(SystemExit, match="2"):
        run("--run", "tiny", *SHORT, *words, "--vae", autoencoder_run, "--out", tmp_path)
    assert message in capsys.readouterr().err
