"""Folders of diffusers' DiT through our denoiser, against diffusers and against the original."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.foreign_dit import (
    DIT,
    Published,
    Weights,
    forward,
    in_diffusers,
    positions,
    random_weights,
)
from training.checkpoint import CheckpointError
from training.models.foreign import is_foreign, read_diffusers, read_dit, read_foreign

diffusers = pytest.importorskip("diffusers")

SAFE, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
TIMESTEPS = torch.tensor([999, 437, 12, 0])
CLASSES = torch.tensor([0, 207, 1000, 999])


def theirs(of: Published, weights: Weights, **settings: object) -> Any:
    """Their own network with the weights of an original one."""
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=of.heads,
        attention_head_dim=of.width // of.heads,
        in_channels=of.channels,
        out_channels=of.out_channels,
        num_layers=of.depth,
        sample_size=of.latent,
        patch_size=of.patch,
        attention_bias=True,
        num_embeds_ada_norm=of.labels - 1,
        **settings,
    ).eval()
    model.load_state_dict(in_diffusers(weights, of), strict=True)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As diffusers saves it."""
    theirs(DIT, random_weights(DIT)).save_pretrained(tmp_path)
    return tmp_path


def latents(side: int) -> Tensor:
    return torch.randn(4, 4, side, side, generator=torch.Generator().manual_seed(9))


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"norm_eps": 1e-6}, {"norm_eps": 1e-2}])
@pytest.mark.parametrize(("side", "patch"), [(16, 2), (32, 2), (32, 4)])
def test_a_folder_answers_as_diffusers_does(
    side: int, patch: int, settings: dict[str, float], tmp_path: Path
):
    of = replace(DIT, latent=side, patch=patch)
    model = theirs(of, random_weights(of), **settings)
    model.save_pretrained(tmp_path)
    expected = model(latents(side), timestep=TIMESTEPS, class_labels=CLASSES).sample
    found = read_diffusers(tmp_path)
    got = found.build()(latents(side), None, TIMESTEPS, CLASSES)
    assert found.latent_size == side
    assert expected.std() > 0.1
    assert relative(got, expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("side", [16, 32])
def test_both_formats_of_the_same_weights_are_one_network(side: int, tmp_path: Path):
    of = replace(DIT, latent=side)
    weights = random_weights(of)
    torch.save(weights, tmp_path / "dit.pt")
    theirs(of, weights).save_pretrained(tmp_path)
    first, second = read_dit(tmp_path / "dit.pt", of.heads), read_diffusers(tmp_path, original=True)
    assert first.config == second.config
    assert first.state.keys() == second.state.keys()
    assert all(torch.equal(value, second.state[name]) for name, value in first.state.items())
    expected = forward(weights, of, latents(side), TIMESTEPS, CLASSES)
    got = second.build()(latents(side), None, TIMESTEPS, CLASSES)
    assert relative(got, expected) < 1e-5
    # What diffusers computes with them is something else.
    as_theirs = read_diffusers(tmp_path)
    assert relative(as_theirs.build()(latents(side), None, TIMESTEPS, CLASSES), expected) > 1e-3
    assert any("timestep frequencies over 127" in note for note in as_theirs.notes)


def pickled(folder: Path) -> Path:
    """As earlier versions saved it, positions included."""
    weights = load_file(folder / SAFE)
    weights["pos_embed.pos_embed"] = positions(DIT.width, DIT.latent // DIT.patch)
    torch.save(weights, folder / PICKLED)
    (folder / SAFE).unlink()
    change(folder, _class_name="Transformer2DModel", norm_eps=None)
    return folder


def sharded(folder: Path) -> Path:
    weights = load_file(folder / SAFE)
    (folder / SAFE).unlink()
    where = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(weights)}
    for shard in set(where.values()):
        save_file({n: v for n, v in weights.items() if where[n] == shard}, folder / shard)
    (folder / f"{SAFE}.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def pipeline(folder: Path) -> Path:
    inside = folder / "whole" / "transformer"
    inside.mkdir(parents=True)
    for name in (SAFE, "config.json"):
        (folder / name).rename(inside / name)
    return folder / "whole"


@pytest.mark.parametrize("save", [pickled, sharded, pipeline])
def test_every_way_of_saving_gives_the_same_network(save: Callable[[Path], Path], folder: Path):
    expected = read_diffusers(folder)
    found = read_foreign(save(folder))
    assert (found.config, found.latent_size) == (expected.config, expected.latent_size)
    assert found.state.keys() == expected.state.keys()
    assert all(torch.equal(value, expected.state[name]) for name, value in found.state.items())


def change(folder: Path, **values: object) -> None:
    """Sets values of the configuration, or takes those away that are None."""
    path = folder / "config.json"
    plain = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: v for name, v in plain.items() if v is not None}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "does not describe a DiTTransformer2DModel"),
        ({"norm_type": "layer_norm"}, "norm_type is 'layer_norm', and DiT's is 'ada_norm_zero'"),
        ({"activation_fn": "geglu"}, "activation_fn is 'geglu'"),
        ({"attention_bias": False}, "attention_bias is False"),
        ({"norm_eps": "small"}, "norm_eps is 'small'"),
        ({"sample_size": None}, "sample_size is None, not a positive whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_layers": 3}, "missing .*transformer_blocks.2"),
        ({"num_embeds_ada_norm": 10}, r"embedding_table.weight is \[1001, 48\], not \[11, 48\]"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    values: dict[str, object], message: str, folder: Path
):
    change(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        read_diffusers(folder)


def test_positions_of_another_grid_are_refused(folder: Path):
    weights = {**load_file(folder / SAFE), "pos_embed.pos_embed": positions(DIT.width, 4)}
    save_file(weights, folder / SAFE)
    with pytest.raises(CheckpointError, match=r"pos_embed\.pos_embed is not of sample_size 16"):
        read_diffusers(folder)


def test_a_folder_without_weights_is_refused(folder: Path):
    (folder / SAFE).unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_diffusers(folder)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "part.bin", 3])
def test_an_index_names_only_its_neighbours(name: object, folder: Path):
    (folder / f"{SAFE}.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=r"which is no safetensors file|is not an index"):
        read_diffusers(folder)


def test_a_broken_index_is_named(folder: Path):
    (folder / f"{SAFE}.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"index\.json is not an index of weights"):
        read_diffusers(folder)


def test_folders_of_ours_are_not_foreign(folder: Path):
    elsewhere = folder / "run"
    elsewhere.mkdir()
    (elsewhere / "model.json").write_text("{}")
    assert is_foreign(folder)
    assert is_foreign(folder / SAFE)
    assert not is_foreign(elsewhere)
    assert not is_foreign(elsewhere / "gone")
    with pytest.raises(CheckpointError, match=r"config\.json is not a model's configuration"):
        read_foreign(elsewhere)
