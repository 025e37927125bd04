"""The denoiser and its parts."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from training.models.dit import DiT, DiTConfig, PatchEmbedRouter, TimestepEmbedder
from training.models.transformer import Attention, sincos_positions

CONFIG = DiTConfig(in_channels=10, out_channels=4, num_labels=3, width=32, depth=2, heads=4)


def make_inputs(rows: int, height: int = 8, width: int = 8) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(rows, 4, height, width, generator=generator),
        torch.randn(rows, 6, height, width, generator=generator),
        torch.tensor([999, 500, 3][:rows]),
        torch.tensor([0, 1, 2][:rows]),
    )


@pytest.fixture
def model() -> DiT:
    """A denoiser whose zero-initialised layers say something."""
    torch.manual_seed(1)
    model = DiT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    return model.eval()


def test_an_untrained_denoiser_predicts_zero_whatever_the_input():
    prediction = DiT(CONFIG)(*make_inputs(3))
    assert prediction.shape == (3, 4, 8, 8)
    assert not prediction.any()


def test_an_untrained_block_is_the_identity():
    block = DiT(CONFIG).blocks[0]
    x, c = torch.randn(2, 16, 32), torch.randn(2, 32)
    assert torch.equal(block(x, c), x)


@torch.no_grad()
def test_rows_do_not_see_each_other(model: DiT):
    inputs = make_inputs(3)
    together = model(*inputs)
    for row in range(3):
        alone = model(*(value[row : row + 1] for value in inputs))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_every_input_matters_to_its_own_row_alone(model: DiT, changed: int):
    inputs = [value.clone() for value in make_inputs(3)]
    before = model(*inputs)
    inputs[changed][1] = {0: 0.5, 1: 0.5, 2: 20, 3: 2}[changed]
    after = model(*inputs)
    assert (after[1] - before[1]).abs().max() > 1e-3
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(4, 4), (12, 6), (16, 16)])
def test_one_set_of_weights_serves_any_grid(model: DiT, height: int, width: int):
    prediction = model(*make_inputs(2, height, width))
    assert prediction.shape == (2, 4, height, width)
    assert prediction.isfinite().all()
    assert prediction.std() > 0


def test_the_router_is_the_convolution_of_each_rows_label():
    router = PatchEmbedRouter(CONFIG)
    nn.init.normal_(router.bias)
    x = torch.randn(3, 10, 6, 8)
    label = torch.tensor([2, 0, 2])
    tokens = router(x, label)
    assert tokens.shape == (3, 12, 32)
    for row in range(3):
        weight = router.weight[label[row]].T.reshape(32, 10, 2, 2)
        convolved = nn.functional.conv2d(x[row : row + 1], weight, router.bias[label[row]], 2)
        expected = convolved.flatten(2).transpose(1, 2)[0]
        torch.testing.assert_close(tokens[row], expected, rtol=1e-4, atol=1e-5)


def test_labels_beyond_the_routes_enter_by_the_nearest():
    router = PatchEmbedRouter(replace(CONFIG, num_labels=13, num_routes=2, first_task_label=10))
    assert router.weight.shape == (2, 40, 32)
    x = torch.randn(1, 10, 4, 4).expand(5, -1, -1, -1)
    tokens = router(x, torch.tensor([0, 10, 11, 12, 9]))
    assert torch.equal(tokens[[0, 4]], tokens[[1, 1]])
    assert torch.equal(tokens[3], tokens[2])
    assert (tokens[1] - tokens[2]).abs().max() > 0.1


@torch.no_grad()
def test_an_image_network_has_one_route_and_no_condition():
    config = DiTConfig(
        in_channels=4, out_channels=8, num_labels=5, width=32, depth=1, heads=4, num_routes=1
    )
    model = DiT(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    noisy, _, t, _ = make_inputs(3)
    prediction = model(noisy, None, t, torch.tensor([0, 4, 2]))
    assert prediction.shape == (3, 8, 8, 8)
    assert model.embed.weight.shape[0] == 1
    with_nothing = model(noisy, noisy[:, :0], t, torch.tensor([0, 4, 2]))
    assert torch.equal(prediction, with_nothing)


def test_the_names_of_weights_stay(model: DiT):
    """Checkpoints and resumed runs depend on them."""
    names = set(model.state_dict())
    assert {"embed.weight", "embed.bias", "y_embedder.weight", "head.bias"} <= names
    block = {name.removeprefix("blocks.1.") for name in names if name.startswith("blocks.1.")}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "modulation")
    assert block == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert model.embed.weight.shape == (3, 40, 32)


def test_positions_are_sines_and_cosines_of_row_and_column():
    height, width, channels = 3, 5, 16
    positions = sincos_positions(height, width, channels, torch.zeros(1))
    assert positions.shape == (15, 16)
    for row in range(height):
        for column in range(width):
            got = positions[row * width + column].tolist()
            for i in range(4):
                omega = 10_000 ** (-i / 4)
                assert got[i] == pytest.approx(math.sin(row * omega), abs=1e-5)
                assert got[4 + i] == pytest.approx(math.cos(row * omega), abs=1e-5)
                assert got[8 + i] == pytest.approx(math.sin(column * omega), abs=1e-5)
                assert got[12 + i] == pytest.approx(math.cos(column * omega), abs=1e-5)
    assert len({tuple(row.tolist()) for row in positions}) == height * width


def test_either_axis_can_fill_the_first_half():
    rows = sincos_positions(3, 5, 16, torch.zeros(1))
    columns = sincos_positions(3, 5, 16, torch.zeros(1), "columns")
    assert torch.equal(columns, rows.roll(8, dims=1))
    assert not torch.equal(columns, rows)


def test_a_larger_grid_starts_with_the_positions_of_a_smaller_one():
    small = sincos_positions(2, 3, 16, torch.zeros(1)).reshape(2, 3, 16)
    large = sincos_positions(7, 9, 16, torch.zeros(1)).reshape(7, 9, 16)
    assert torch.equal(large[:2, :3], small)


def test_attention_is_the_softmax_of_scaled_products():
    attention = Attention(8, heads=2)
    x = torch.randn(2, 5, 8)
    query, key, value = attention.qkv(x).split(8, dim=2)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = (query[..., head] @ key[..., head].transpose(1, 2) / 2).softmax(dim=2)
        heads.append(weights @ value[..., head])
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, dim=2)))


def test_timesteps_are_told_apart_also_as_integers():
    embed = TimestepEmbedder(16)
    t = torch.tensor([0, 1, 500, 998, 999])
    vectors = embed(t)
    assert torch.equal(vectors, embed(t.float()))
    assert torch.cdist(vectors, vectors)[~torch.eye(5, dtype=torch.bool)].min() > 1e-3
