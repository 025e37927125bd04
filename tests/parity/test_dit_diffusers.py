"""Our denoiser against diffusers' DiT with the same weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from training.checkpoint import CheckpointError
from training.models.dit import DiT, DiTConfig
from training.models.foreign.diffusers_dit import from_diffusers

diffusers = pytest.importorskip("diffusers")

CONFIG = DiTConfig(
    in_channels=4,
    out_channels=8,
    num_labels=11,
    width=48,
    depth=3,
    heads=3,
    num_routes=1,
    first_axis="columns",
)


@pytest.fixture
def theirs() -> Any:
    """A small DiT of diffusers with no layer at zero, its blocks embedding alike."""
    torch.manual_seed(5)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=CONFIG.heads,
        attention_head_dim=CONFIG.width // CONFIG.heads,
        in_channels=4,
        out_channels=8,
        num_layers=CONFIG.depth,
        sample_size=8,
        num_embeds_ada_norm=10,
        norm_eps=1e-6,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    first = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
        # The original DiT's frequencies; see training.models.foreign.diffusers_dit.
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return model


def converted(theirs: Any) -> DiT:
    ours = DiT(CONFIG).eval()
    ours.load_state_dict(from_diffusers(dict(theirs.state_dict()), CONFIG, "theirs"))
    return ours


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def test_the_whole_network_agrees(theirs: Any):
    x = torch.randn(3, 4, 8, 8)
    t, label = torch.tensor([999, 0, 437]), torch.tensor([3, 10, 0])
    expected = theirs(x, timestep=t, class_labels=label).sample
    got = converted(theirs)(x, None, t, label)
    assert expected.std() > 0.1
    assert relative(got, expected) < 1e-5


@torch.no_grad()
def test_a_block_agrees(theirs: Any):
    ours = converted(theirs)
    block = theirs.transformer_blocks[1]
    x = torch.randn(2, 16, CONFIG.width)
    t, label = torch.tensor([12, 800]), torch.tensor([7, 1])
    expected = block(x, timestep=t, class_labels=label)
    got = ours.blocks[1](x, ours.t_embedder(t) + ours.y_embedder(label))
    assert relative(expected, x) > 0.1
    assert relative(got, expected) < 1e-5


@torch.no_grad()
def test_what_a_state_dict_does_not_say_would_be_seen(theirs: Any):
    ours = converted(theirs)
    rows_first = DiT(replace(CONFIG, first_axis="rows")).eval()
    rows_first.load_state_dict(ours.state_dict())
    x, t, label = torch.randn(1, 4, 8, 8), torch.tensor([437]), torch.tensor([3])
    right = ours(x, None, t, label)
    assert relative(rows_first(x, None, t, label), right) > 1e-3
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 1
    assert relative(theirs(x, timestep=t, class_labels=label).sample, right) > 1e-3


def test_blocks_that_embed_differently_are_refused(theirs: Any):
    weights = dict(theirs.state_dict())
    key = "transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias"
    weights[key] = weights[key] + 1
    with pytest.raises(CheckpointError, match=r"transformer_blocks\.2.*is not equal to the copies"):
        from_diffusers(weights, CONFIG, "theirs")


def test_a_name_of_another_network_is_refused(theirs: Any):
    weights = {**theirs.state_dict(), "transformer_blocks.0.ff.gate.weight": torch.zeros(1)}
    with pytest.raises(
        CheckpointError, match=r"unexpected transformer_blocks\.0\.ff\.gate\.weight"
    ):
        from_diffusers(weights, CONFIG, "theirs")
