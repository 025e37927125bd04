"""What no reader takes: code, other networks, parts of networks; the message says why."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.foreign_dit import (
    DIT,
    DIT_MOE,
    DIT_MOE_FLASH,
    GENERALIST,
    Published,
    Weights,
    random_weights,
)
from training.checkpoint import CheckpointError
from training.models.foreign import (
    read_dit,
    read_dit_moe,
    read_foreign,
    read_generalist,
)

BLOCK = "blocks.1."


class Hostile:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("where", ["beside", "instead", "bare"])
def test_code_in_a_file_is_not_run(where: str, tmp_path: Path):
    path, mark = tmp_path / "hostile.pt", tmp_path / "mark"
    weights: dict[str, object] = {**random_weights(DIT)}
    if where == "bare":
        path.write_bytes(pickle.dumps({**weights, "x": Hostile(mark)}, protocol=2))
    else:
        name = "extra" if where == "beside" else "pos_embed"
        torch.save({**weights, name: Hostile(mark)}, path)
    with pytest.raises(
        CheckpointError, match=r"hostile.pt (holds more than tensors|cannot be)"
    ) as e:
        read_foreign(path, DIT.heads)
    assert "weights_only" not in str(e.value)
    assert not mark.exists()
    torch.load(path, weights_only=False) if where != "bare" else pickle.loads(path.read_bytes())
    assert mark.exists()  # it would have


@pytest.mark.parametrize("content", [b"", b"text" * 90, b"PK\x03\x04" + b"\0" * 40])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_checkpoint_cannot_be_read(content: bytes, suffix: str, tmp_path: Path):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.\w+ cannot be read"):
        read_foreign(path)


def test_a_file_that_ends_early_cannot_be_read(tmp_path: Path):
    path = tmp_path / "short.pt"
    torch.save(random_weights(DIT), path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match=r"short\.pt cannot be read"):
        read_foreign(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"gone\.pt is not a file"):
        read_dit(tmp_path / "gone.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "no tensors by name, but a list"),
        ({}, "no tensors by name, but a dict"),
        ({"ema": torch.ones(2)}, "no tensors by name, but a Tensor"),
        ({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, "bare or as ema: it has state_dict, ep"),
        ({"a": torch.ones(2, dtype=torch.int64)}, r"a is of torch\.int64"),
        ({"a": torch.ones(2)}, "no network of the DiT family"),
    ],
)
def test_what_is_no_state_dict_is_said(content: object, message: str, tmp_path: Path):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=message):
        read_foreign(tmp_path / "odd.pt")


def refused(
    tmp_path: Path, of: Published, change: Callable[[Weights], object], message: str
) -> None:
    weights = random_weights(of)
    change(weights)
    torch.save(weights, tmp_path / "changed.pt")
    with pytest.raises(CheckpointError, match=message) as error:
        read_foreign(tmp_path / "changed.pt", of.heads)
    assert "changed.pt" in str(error.value)


def without(*names: str) -> Callable[[Weights], object]:
    return lambda weights: [weights.pop(name) for name in names]


def put(name: str, value: Tensor) -> Callable[[Weights], object]:
    return lambda weights: weights.__setitem__(name, value)


ATTN, EXPERT = f"{BLOCK}attn.", f"{BLOCK}moe.experts.1."


@pytest.mark.parametrize(
    ("of", "change", "message"),
    [
        (
            DIT,
            without(f"{ATTN}proj.bias", f"{BLOCK}mlp.fc1.weight"),
            "missing .*proj.bias, .*fc1.w",
        ),
        (DIT, put("extra.weight", torch.ones(1)), "unexpected extra.weight"),
        (DIT, put(f"{ATTN}qkv.bias", torch.ones(7)), r"attn.qkv.bias is \[7\], not \[144\]"),
        (DIT, without("x_embedder.proj.weight"), "has no x_embedder.proj.weight"),
        (DIT, put("x_embedder.proj.weight", torch.ones(3)), r"x_embedder.proj.weight is \[3\]"),
        (DIT, without("pos_embed"), "has no pos_embed"),
        (DIT, put("pos_embed", torch.ones(1, 60, 48)), "not of a square grid"),
        (DIT, put("pos_embed", torch.ones(1, 64, 48)), "off the fixed sines and cosines"),
        (
            DIT,
            put("final_layer.linear.bias", torch.ones(24)),
            "has 24 rows, which is not 4 channels",
        ),
        (DIT, put("blocks.7.mlp.fc1.bias", torch.ones(192)), "3 blocks, numbered up to 7"),
        (DIT_MOE, without(f"{EXPERT}up_proj.weight"), "missing .*experts.1.up_proj.weight"),
        (DIT_MOE, put(f"{EXPERT}fc1.bias", torch.ones(3)), "unexpected .*experts.1.fc1.bias"),
        (
            DIT_MOE,
            put("blocks.0.moe.shared_experts.gate_proj.weight", torch.ones(50, 48)),
            "50 wide, no multiple of 48",
        ),
        (
            DIT_MOE,
            lambda w: [w.pop(n) for n in list(w) if n.startswith("blocks.0.moe.experts.0")],
            "has no blocks.0.moe.experts.0.fc1 and no",
        ),
        (DIT_MOE_FLASH, without(f"{ATTN}k_norm.bias"), "missing .*k_norm.bias"),
        (DIT_MOE_FLASH, without("blocks.0.attn.q_norm.weight"), "has no .*q_norm.weight"),
        (GENERALIST, without("x_embedder.proj.conv_in_3.bias"), "missing .*conv_in_3.bias"),
        (
            GENERALIST,
            put("y_embedder.embedding_table.weight", torch.ones(1001, 48)),
            "has 1001 rows, not 1005",
        ),
        (
            GENERALIST,
            put(f"{EXPERT}fc1.weight", torch.ones(9, 48)),
            r"is \[9, 48\], not \[192, 48\]",
        ),
    ],
)
def test_what_does_not_have_the_layout_is_listed(
    of: Published, change: Callable[[Weights], object], message: str, tmp_path: Path
):
    refused(tmp_path, of, change, message)


def test_the_generalists_ends_are_its_own(tmp_path: Path):
    torch.save(random_weights(replace(GENERALIST, channels=8)), tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="8 channels in and 8 out, not 3 latents"):
        read_generalist(tmp_path / "g.pt", GENERALIST.heads)


def test_very_many_missing_names_are_counted(tmp_path: Path):
    weights = random_weights(DIT_MOE)
    kept = {n: v for n, v in weights.items() if "blocks.1.moe.experts" not in n}
    kept |= {f"more.{number}": torch.ones(1) for number in range(30)}
    torch.save(kept, tmp_path / "many.pt")
    with pytest.raises(CheckpointError, match=r"missing blocks.1.*; unexpected .* and 10 more$"):
        read_dit_moe(tmp_path / "many.pt", DIT_MOE.heads)


def test_another_kind_is_named(tmp_path: Path):
    torch.save(random_weights(GENERALIST), tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=r"is a scaling-perception checkpoint, not a dit one"):
        read_dit(tmp_path / "g.pt", GENERALIST.heads)


@pytest.mark.parametrize(
    ("of", "heads", "message"),
    [
        (DIT, None, "2 blocks of width 48 are no published size"),
        (DIT, 5, "2 blocks of width 48 cannot have 5 heads"),
        (DIT_MOE_FLASH, 4, "2 blocks of width 48 have 3 heads, not 4"),
        (replace(DIT, depth=12, width=384), 12, "12 blocks of width 384 have 6 heads, not 12"),
    ],
)
def test_heads_are_known_or_told(of: Published, heads: int | None, message: str, tmp_path: Path):
    torch.save(random_weights(of), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message):
        read_foreign(tmp_path / "w.pt", heads)


@pytest.mark.parametrize("active", [0, 5])
def test_no_more_experts_are_active_than_there_are(active: int, tmp_path: Path):
    torch.save(random_weights(DIT_MOE), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"4 experts, of which {active} cannot be active"):
        read_dit_moe(tmp_path / "w.pt", DIT_MOE.heads, active)
