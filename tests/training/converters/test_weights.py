"""Weights out of public files: tensors and nothing else, every key accounted for."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.public_checkpoints import (
    WEIGHTS,
)
from tests.training.converters.conftest import Copy, described, load_denoiser
from training.converters.record import ConvertError
from training.converters.weights import read_tensors


def test_keys_that_are_missing_or_unexpected_are_listed(copy: Copy):
    path = copy("marigold") / "unet" / WEIGHTS
    weights = load_file(path)
    del weights["conv_in.bias"]
    weights["conv_middle.bias"] = torch.zeros(3)
    save_file(weights, path)
    with pytest.raises(
        ConvertError,
        match=r"1 missing \(conv_in\.bias\) and 1 unexpected \(conv_middle\.bias\)",
    ):
        load_denoiser(path.parents[1])


def test_a_tensor_of_another_shape_is_named(copy: Copy):
    path = copy("marigold") / "unet" / WEIGHTS
    weights = load_file(path)
    save_file({**weights, "conv_in.bias": torch.zeros(7)}, path)
    with pytest.raises(ConvertError, match=r"conv_in\.bias is \(7,\) and must be \(32,\)"):
        load_denoiser(path.parents[1])


def test_halves_shards_and_plain_pickles_of_tensors_are_read(copy: Copy):
    path = copy("marigold") / "unet" / WEIGHTS
    expected = load_denoiser(path.parents[1]).state_dict()
    weights = load_file(path)
    path.unlink()
    torch.save(weights, path.with_suffix(".bin"))
    assert same(load_denoiser(path.parents[1]).state_dict(), expected)
    path.with_suffix(".bin").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, keys in shards.items():
        save_file({key: weights[key] for key in keys}, path.with_name(file))
    places = {key: file for file, keys in shards.items() for key in keys}
    index = path.with_name(f"{path.name}.index.json")
    index.write_text(json.dumps({"weight_map": places}))
    assert same(load_denoiser(path.parents[1]).state_dict(), expected)
    assert "sha256 unet/b.safetensors" in described(path.parents[1]).provenance
    index.unlink()
    half = {key: value.half() for key, value in weights.items()}
    save_file(half, path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    found = load_denoiser(path.parents[1]).state_dict()
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert not same(found, expected)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


class Malice:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return print, ("run while it was read",)


@pytest.mark.parametrize("content", [{"w": Malice()}, Malice()])
def test_a_pickle_that_could_run_code_is_refused(
    content: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "diffusion_pytorch_model.bin"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ConvertError, match=r"model\.bin"):
        read_tensors(path)
    torch.save(content, path)
    with pytest.raises(ConvertError, match="holds more than tensors"):
        read_tensors(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(ConvertError, match="not a plain dictionary"):
        read_tensors(path)
    assert capsys.readouterr().out == ""
