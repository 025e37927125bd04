"""Published checkpoints of the DiT family through our denoiser, against their own forward pass."""

import argparse
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.foreign_dit import (
    DIT,
    DIT_MOE,
    DIT_MOE_FLASH,
    GENERALIST,
    Published,
    Weights,
    forward,
    random_weights,
)
from training.models.foreign import (
    Foreign,
    read_dit,
    read_dit_moe,
    read_foreign,
    read_generalist,
)

Read = Callable[[Path, int | None], Foreign]
TIMESTEPS = torch.tensor([999, 437, 12, 0])
CLASSES = torch.tensor([0, 207, 1000, 999])
TASKS = torch.tensor([1000, 1001, 1002, 1003])


def saved(path: Path, weights: Weights) -> Path:
    torch.save(OrderedDict(weights), path)
    return path


def latents(channels: int, side: int) -> Tensor:
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(9))


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("side", [16, 32])
@pytest.mark.parametrize(
    ("of", "read"),
    [
        (DIT, read_dit),
        (replace(DIT, patch=4, depth=3), read_dit),
        (replace(DIT, out_channels=4), read_dit),
        (DIT_MOE, read_dit_moe),
        (replace(DIT_MOE, shared=0), read_dit_moe),
        (replace(DIT_MOE, expert="gelu", shared=0), read_dit_moe),
        (DIT_MOE_FLASH, read_dit_moe),
    ],
)
def test_a_published_network_answers_as_its_own_code_does(
    of: Published, read: Read, side: int, tmp_path: Path
):
    of = replace(of, latent=side)
    weights = random_weights(of)
    x = latents(of.channels, side)
    expected = forward(weights, of, x, TIMESTEPS, CLASSES)
    found = read(saved(tmp_path / "weights.pt", weights), of.heads)
    got = found.build()(x, None, TIMESTEPS, CLASSES)
    assert found.latent_size == side
    assert expected.std() > 0.1
    assert relative(got, expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("side", [16, 32])
@pytest.mark.parametrize("patch", [2, 4])
def test_the_generalist_answers_as_its_own_code_does(patch: int, side: int, tmp_path: Path):
    """Its input is [image, prompt, noisy], its output the prediction and then the variance."""
    of = replace(GENERALIST, latent=side, patch=patch)
    weights = random_weights(of)
    image, prompt, noisy = latents(12, side).chunk(3, dim=1)
    entered = torch.cat([image, prompt, noisy], dim=1)
    expected = forward(weights, of, entered, TIMESTEPS, TASKS)[:, :4]
    found = read_generalist(saved(tmp_path / "dit_moe_generalist.pt", weights), of.heads)
    model = found.build()
    condition = torch.cat([image, prompt], dim=1)
    assert expected.std() > 0.1
    assert relative(model(noisy, condition, TIMESTEPS, TASKS), expected) < 1e-5
    # Every part of that is felt: who is who in the input, and the convolution of each task.
    swapped = torch.cat([prompt, image], dim=1)
    assert relative(model(noisy, swapped, TIMESTEPS, TASKS), expected) > 1e-2
    assert relative(model(noisy, condition, TIMESTEPS, TASKS.flip(0)), expected) > 1e-2
    assert found.config.out_channels == 4
    assert any("reordered" in note for note in found.notes)


@torch.no_grad()
def test_a_row_is_answered_alike_in_any_company(tmp_path: Path):
    weights = random_weights(GENERALIST)
    model = read_generalist(saved(tmp_path / "g.pt", weights), GENERALIST.heads).build()
    x = latents(12, 16)
    together = model(x[:, 8:], x[:, :8], TIMESTEPS, TASKS)
    for row in range(4):
        one = slice(row, row + 1)
        alone = model(x[one, 8:], x[one, :8], TIMESTEPS[one], TASKS[one])
        assert relative(together[one], alone) < 1e-5


def wrapped(weights: Weights) -> dict[str, object]:
    """What DiT's training saves."""
    other = {name: value + 1 for name, value in weights.items()}
    optimiser = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
    options = argparse.Namespace(model="DiT-XL/2", epochs=1400, ckpt=None)
    return {"model": other, "ema": weights, "opt": optimiser, "args": options}


def of_several_gpus(weights: Weights) -> dict[str, object]:
    return {f"module.{name}": value for name, value in weights.items()}


def same(found: Foreign, expected: Foreign) -> bool:
    return found.config == expected.config and all(
        torch.equal(found.state[name], value) for name, value in expected.state.items()
    )


@pytest.mark.parametrize("wrap", [wrapped, of_several_gpus])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_way_of_saving_gives_the_same_network(
    wrap: Callable[[Weights], dict[str, object]], zipped: bool, tmp_path: Path
):
    weights = random_weights(DIT)
    plain = read_dit(saved(tmp_path / "plain.pt", weights), DIT.heads)
    path = tmp_path / "wrapped.pt"
    torch.save(wrap(weights), path, _use_new_zipfile_serialization=zipped)
    assert same(read_foreign(path, DIT.heads), plain)
    save_file(weights, tmp_path / "weights.safetensors")
    assert same(read_foreign(tmp_path / "weights.safetensors", DIT.heads), plain)


@pytest.mark.parametrize("of", [DIT, DIT_MOE, DIT_MOE_FLASH, GENERALIST])
def test_a_file_is_recognised_by_its_tensors(of: Published, tmp_path: Path):
    kinds = {DIT: "dit", DIT_MOE: "dit-moe", DIT_MOE_FLASH: "dit-moe"}
    found = read_foreign(saved(tmp_path / "weights.pt", random_weights(of)), of.heads)
    assert found.kind == kinds.get(of, "scaling-perception")
    assert found.config.qk_norm == of.flash


def test_half_precision_stays_until_the_network_is_built(tmp_path: Path):
    weights = {name: value.half() for name, value in random_weights(DIT_MOE).items()}
    found = read_dit_moe(saved(tmp_path / "half.pt", weights), DIT_MOE.heads)
    assert {value.dtype for value in found.state.values()} == {torch.float16}
    assert "stored in float16" in found.notes
    whole = {name: value.float() for name, value in weights.items()}
    expected = read_dit_moe(saved(tmp_path / "whole.pt", whole), DIT_MOE.heads).build()
    for name, value in found.build().state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_a_network_is_built_around_the_tensors_themselves(tmp_path: Path):
    found = read_dit(saved(tmp_path / "weights.pt", random_weights(DIT)), DIT.heads)
    built = dict(found.build().named_parameters())
    assert built.keys() == found.state.keys()
    assert all(built[name].data_ptr() == value.data_ptr() for name, value in found.state.items())
