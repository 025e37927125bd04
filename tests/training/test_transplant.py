"""Weights moved into networks of other shapes still say what they said."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from training.models.dit import DiT, DiTConfig
from training.models.moe import ExpertsConfig, MoE
from training.models.transplant import (
    TransplantError,
    extend_labels,
    perception_state,
    tile_input,
    upcycle,
)

IMAGES = DiTConfig(
    in_channels=4,
    out_channels=8,
    num_labels=9,
    width=32,
    depth=2,
    heads=4,
    num_routes=1,
    first_axis="columns",
)
PERCEPTION = replace(
    IMAGES, in_channels=12, out_channels=4, num_labels=13, num_routes=4, first_task_label=8
)
EXPERTS = ExpertsConfig(num=8, active=2)


def randomised(config: DiTConfig) -> DiT:
    torch.manual_seed(2)
    model = DiT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    return model


def loaded(config: DiTConfig, state: dict[str, Tensor]) -> DiT:
    model = DiT(config).eval()
    model.load_state_dict(state)
    return model


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@torch.no_grad()
@pytest.mark.parametrize("active", [1, 2, 8])
def test_upcycled_with_renormalised_gates_is_the_dense_network(active: int):
    dense = randomised(IMAGES)
    experts = replace(EXPERTS, active=active, renormalise=True)
    model = loaded(replace(IMAGES, experts=experts), upcycle(dense.state_dict(), experts, seed=1))
    x, t, label = torch.randn(2, 4, 8, 8), torch.tensor([900, 30]), torch.tensor([8, 2])
    expected = dense(x, None, t, label)
    got = model(x, None, t, label)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_upcycled_without_renormalising_starts_with_a_weaker_mlp():
    """Two of eight nearly even shares make about a quarter of the MLP's answer."""
    dense = randomised(IMAGES)
    state = upcycle(dense.state_dict(), EXPERTS, seed=1)
    model = loaded(replace(IMAGES, experts=EXPERTS), state)
    x = torch.randn(1, 16, IMAGES.width)
    mlp, experts = dense.blocks[0].get_submodule("mlp"), model.blocks[0].get_submodule("mlp")
    assert isinstance(experts, MoE)
    share = experts.route(x.flatten(0, 1))[1].sum(dim=1)
    torch.testing.assert_close(experts(x)[0], share[:, None] * mlp(x)[0], rtol=1e-4, atol=1e-5)
    assert 0.2 < share.mean() < 0.4
    inputs = torch.randn(2, 4, 8, 8), None, torch.tensor([900, 30]), torch.tensor([8, 2])
    assert 1e-3 < relative(model(*inputs), dense(*inputs)) < 1


def test_gates_are_drawn_by_seed_and_differ_between_blocks():
    dense = randomised(IMAGES).state_dict()
    first, again, other = (upcycle(dense, EXPERTS, seed) for seed in (1, 1, 2))
    gates = [f"blocks.{block}.mlp.gate.weight" for block in range(2)]
    assert all(torch.equal(first[gate], again[gate]) for gate in gates)
    assert not torch.equal(first[gates[0]], other[gates[0]])
    assert not torch.equal(first[gates[0]], first[gates[1]])
    assert float(first[gates[0]].std()) == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("experts", [ExpertsConfig(kind="swiglu"), ExpertsConfig(shared=2)])
def test_an_mlp_does_not_fit_into_other_experts(experts: ExpertsConfig):
    with pytest.raises(TransplantError, match="gelu experts without a shared one"):
        upcycle(randomised(IMAGES).state_dict(), experts, seed=1)


@torch.no_grad()
@pytest.mark.parametrize("latents", [1, 2, 3])
def test_equal_latents_enter_as_one_did_on_every_route(latents: int):
    source = randomised(IMAGES)
    config = replace(IMAGES, in_channels=4 * latents, num_routes=4, first_task_label=5)
    model = loaded(config, tile_input(source.state_dict(), latents, 4))
    x = torch.randn(4, 4, 8, 8)
    label = torch.arange(5, 9)
    expected = source.embed(x, label)
    got = model.embed(x.repeat(1, latents, 1, 1), label)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_every_latent_has_its_part_of_the_tiled_embedding():
    tiled = tile_input(randomised(IMAGES).state_dict(), 3, 2)["embed.weight"]
    parts = tiled.unflatten(1, (3, -1))
    for part in range(3):
        torch.testing.assert_close(parts[:, part], parts[:, 0])
    with pytest.raises(TransplantError, match="2 routes"):
        tile_input({"embed.weight": tiled, "embed.bias": torch.zeros(2, 32)}, 3, 2)


def test_the_label_table_keeps_its_rows_and_tasks_start_as_means_of_quarters():
    table = torch.randn(1001, 8)
    extended = extend_labels(table, 4)
    assert extended.shape == (1005, 8)
    assert torch.equal(extended[:1000], table[:1000])
    assert torch.equal(extended[1004], table[1000])
    for task in range(4):
        expected = table[250 * task : 250 * (task + 1)].mean(dim=0)
        torch.testing.assert_close(extended[1000 + task], expected)


@torch.no_grad()
@pytest.mark.parametrize("experts", [None, replace(EXPERTS, renormalise=True)])
def test_a_perception_denoiser_starts_as_the_image_network(experts: ExpertsConfig | None):
    """With equal latents and the label of no class, it predicts what the image network does."""
    source = randomised(IMAGES)
    target = replace(PERCEPTION, experts=experts)
    model = loaded(target, perception_state(source.state_dict(), IMAGES, target, seed=3))
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([999, 500, 1])
    label = torch.tensor([8, 0, 5])  # of the image network; 8 is no class
    moved = torch.tensor([12, 0, 5])
    expected = source(x, None, t, label)[:, :4]
    got = model(x, x.repeat(1, 2, 1, 1), t, moved)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    task = model(x, x.repeat(1, 2, 1, 1), t, torch.tensor([8, 9, 11]))
    assert relative(task, got) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 64}, "does not fit"),
        ({"depth": 3}, "does not fit"),
        ({"first_axis": "rows"}, "does not fit"),
        ({"in_channels": 10}, "no multiple of 4"),
        ({"out_channels": 3}, "8 output channels"),
        ({"first_task_label": 6}, "start at 6"),
        ({"num_labels": 9}, "0 tasks"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(change: dict[str, object], message: str):
    target = replace(PERCEPTION, **change)  # type: ignore[arg-type]
    with pytest.raises(TransplantError, match=message):
        perception_state(randomised(IMAGES).state_dict(), IMAGES, target, seed=1)


def test_experts_survive_the_move_to_perception():
    source = replace(IMAGES, experts=replace(EXPERTS, kind="swiglu", shared=1))
    target = replace(PERCEPTION, experts=source.experts)
    model = randomised(source)
    state = perception_state(model.state_dict(), source, target, seed=1)
    moved = loaded(target, state)
    for name, value in model.blocks.state_dict().items():
        assert torch.equal(moved.blocks.state_dict()[name], value)
