"""Experts: the sparse path against the definition, no waiting for the device, balance, export."""

import copy
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from service.core.record import ArtifactError
from training.models.dit import DiT, DiTConfig
from training.models.moe import ExpertsConfig, MoE, expert_balance
from training.onnx_network import Network, check_onnx, write_onnx

WIDTH, HIDDEN = 32, 64
UPCYCLED = ExpertsConfig(num=4, active=2)
FROM_SCRATCH = ExpertsConfig(num=8, active=2, kind="swiglu", shared=2, renormalise=True)
FORMS = [UPCYCLED, FROM_SCRATCH, ExpertsConfig(num=3, active=1), ExpertsConfig(num=2, active=2)]


def make(config: ExpertsConfig) -> MoE:
    torch.manual_seed(3)
    moe = MoE(WIDTH, HIDDEN, config)
    nn.init.normal_(moe.gate.weight)
    return moe


@pytest.mark.parametrize("config", FORMS)
def test_every_path_is_the_mixture_of_the_picked_experts(config: ExpertsConfig):
    moe = make(config)
    x = torch.randn(50, WIDTH)
    probability, share, chosen = moe.route(x)
    for row in range(5):
        ranked = probability[row].argsort(descending=True)[: config.active]
        assert set(chosen[row].tolist()) == set(ranked.tolist())
        weights = probability[row, chosen[row]]
        expected_share = weights / weights.sum() if config.renormalise else weights
        torch.testing.assert_close(share[row], expected_share)
        parts = [
            moe.experts.one(x[row : row + 1], int(e)) * w
            for e, w in zip(chosen[row], share[row], strict=True)
        ]
        expected = torch.stack(parts).sum(dim=0)[0]
        for path in (moe.sparse, moe.looped, moe.dense):
            torch.testing.assert_close(path(x, share, chosen)[row], expected, rtol=1e-5, atol=1e-6)
    assert moe.dense(x, share, chosen).std() > 0.01


@pytest.mark.parametrize("config", FORMS)
def test_gradients_of_every_path_agree(config: ExpertsConfig):
    gradients = []
    for path in ("sparse", "looped", "dense"):
        moe = make(config)
        x = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
        _, share, chosen = moe.route(x)
        torch.autograd.backward(getattr(moe, path)(x, share, chosen).square().sum())
        named = {"x": x, **dict(moe.named_parameters())}
        gradients.append({n: p.grad for n, p in named.items() if not n.startswith("shared")})
    sparse, looped, dense = gradients
    for name, expected in dense.items():
        assert isinstance(expected, Tensor)
        assert name == "gate.weight" or expected.abs().max() > 1e-3
        torch.testing.assert_close(sparse[name], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(looped[name], expected, rtol=1e-4, atol=1e-5)


def test_experts_that_nobody_picks_are_left_alone():
    moe = make(UPCYCLED)
    with torch.no_grad():
        moe.gate.weight[2:] = moe.gate.weight[:1]
        moe.gate.weight[:2] *= 0
        moe.gate.weight[:2, 0] = 100
        moe.gate.weight[2:, 0] = -100
    x = torch.rand(30, WIDTH) + 0.1
    _, share, chosen = moe.route(x)
    assert set(chosen.flatten().tolist()) == {0, 1}
    y = moe.sparse(x, share, chosen)
    torch.testing.assert_close(y, moe.dense(x, share, chosen), rtol=1e-5, atol=1e-6)
    torch.autograd.backward(y.sum())
    for parameter in moe.experts.parameters():
        assert parameter.grad is not None
        assert parameter.grad[:2].any()
        assert not parameter.grad[2:].any()


def test_under_autocast_the_products_are_rounded_and_the_routing_is_not():
    moe = make(UPCYCLED)
    x = torch.randn(2, 20, WIDTH)
    exact = moe(x)
    with torch.autocast("cpu", torch.bfloat16):
        _, share, chosen = moe.route(x.flatten(0, 1))
        rounded = moe(x)
    assert share.dtype == torch.float32
    assert torch.equal(chosen, moe.route(x.flatten(0, 1))[2])
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("config", [UPCYCLED, FROM_SCRATCH])
def test_a_training_pass_asks_nothing_of_the_device(config: ExpertsConfig):
    """Neither way of the traced step has an operation whose result the host has to read."""
    moe = make(config).train()

    def step(x: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            y = moe(x)
        balance = expert_balance(moe)
        assert balance is not None
        return torch.autograd.grad(y.float().square().sum() + balance, list(moe.parameters()))

    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(
        torch.randn(2, 16, WIDTH)
    )
    targets = {str(node.target) for node in graph.graph.nodes}
    called = {name for name in targets if name.startswith("aten.")}
    assert any("grouped_mm" in name for name in called)
    waiting = ("item", "_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique")
    assert [name for name in called if any(word in name for word in waiting)] == []
    assert not any("index_put" in name or "scatter_add" in name for name in called)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_training_pass_on_a_gpu_never_waits():
    moe = make(FROM_SCRATCH).cuda().train()
    x = torch.randn(4, 64, WIDTH, device="cuda")

    def step() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            y = moe(x)
        balance = expert_balance(moe)
        assert balance is not None
        loss = y.float().square().mean() + balance
        torch.autograd.backward(loss)
        return loss

    step()  # the first pass allocates
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


def test_the_balance_loss_follows_its_formula():
    config = ExpertsConfig(num=4, active=2, balance_weight=0.5)
    moe = make(config).train()
    x = torch.randn(2, 25, WIDTH)
    moe(x)
    with torch.no_grad():
        probability, _, chosen = moe.route(x.flatten(0, 1))
    expected = 0.0
    for expert in range(4):
        fraction = float((chosen == expert).sum()) / chosen.numel() * 4
        expected += 0.5 * float(probability[:, expert].mean()) * fraction
    balance = expert_balance(moe)
    assert balance is not None
    assert balance.item() == pytest.approx(expected, rel=1e-5)


def test_even_use_has_the_smallest_balance_loss():
    moe = make(ExpertsConfig(num=4, active=1, balance_weight=1.0)).train()
    x = torch.eye(WIDTH)[None, :4]
    with torch.no_grad():
        moe.gate.weight.zero_()
        moe.gate.weight[:, :4] = torch.eye(4)
    moe(x)
    even = expert_balance(moe)
    with torch.no_grad():
        moe.gate.weight[0, :4] = 5
    moe(x)
    uneven = expert_balance(moe)
    assert even is not None
    assert uneven is not None
    assert even.item() == pytest.approx(1.0, abs=1e-6)
    assert uneven > 2


def test_only_training_passes_have_a_balance_loss_and_it_does_not_hinder_copies():
    moe = make(UPCYCLED).train()
    assert expert_balance(moe) is None
    moe(torch.randn(1, 8, WIDTH))
    assert expert_balance(moe) is not None
    assert expert_balance(copy.deepcopy(moe)) is None
    moe.eval()(torch.randn(1, 8, WIDTH))
    assert expert_balance(moe) is None


DENOISER = DiTConfig(
    in_channels=6,
    out_channels=3,
    num_labels=3,
    width=32,
    depth=2,
    heads=4,
    experts=ExpertsConfig(num=4, active=2, shared=1),
)


def randomised(config: DiTConfig) -> DiT:
    torch.manual_seed(4)
    model = DiT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    return model


def denoiser_inputs(rows: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "noisy": torch.randn(rows, 3, 8, 8, generator=generator),
        "condition": torch.randn(rows, 3, 8, 8, generator=generator),
        "timestep": torch.tensor([999, 400][:rows]),
        "task": torch.tensor([0, 2][:rows]),
    }


def test_computing_blocks_again_changes_no_gradient():
    gradients = []
    for recompute in (False, True):
        model = randomised(DENOISER).train()
        model.recompute = recompute
        loss = model(**denoiser_inputs()).square().mean()
        balance = expert_balance(model)
        assert balance is not None
        torch.autograd.backward(loss + balance)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    kept, again = gradients
    for name, gradient in kept.items():
        assert isinstance(gradient, Tensor)
        assert gradient.any(), name
        recomputed = again[name]
        assert recomputed is not None
        assert torch.equal(gradient, recomputed), name


def test_computing_blocks_again_keeps_less_for_the_way_back():
    kept = {}
    for recompute in (False, True):
        model = randomised(DENOISER).train()
        model.recompute = recompute
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**denoiser_inputs())
        kept[recompute] = sum(sizes)
    assert kept[True] < kept[False] / 3


@pytest.mark.filterwarnings("ignore")
def test_an_exported_denoiser_with_experts_answers_as_in_torch(tmp_path: Path):
    model = randomised(DENOISER).eval()
    network = Network("small", model, denoiser_inputs(), "prediction")
    path = tmp_path / "model.onnx"
    write_onnx(network, path)
    assert check_onnx(network, path) < 1e-5
    operations = [node.op_type for node in onnx.load(path).graph.node]
    assert operations.count("NonZero") == DENOISER.depth * 4  # each expert finds its own tokens


@pytest.mark.parametrize(
    ("wrong", "field"), [({"active": 5, "num": 4}, "active"), ({"shared": -1}, "shared")]
)
def test_impossible_experts_are_named(wrong: dict[str, int], field: str):
    with pytest.raises(ArtifactError, match=field):
        ExpertsConfig(**wrong)  # type: ignore[arg-type]


def test_widths_that_a_grouped_product_cannot_take_are_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        MoE(20, 80, UPCYCLED)
