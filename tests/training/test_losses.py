"""The loss of one example against a slow, obvious one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.core.artifact import ScheduleSpec
from training.data.mixture import seeded
from training.diffusion import PAPER_SCHEDULE, SCHEDULE, Diffusion
from training.losses import LossConfig, diffusion_loss, flow_loss, latent_mask
from training.models.perception import MODELS, PerceptionModel
from training.targets import Example, FlowCode

CPU = torch.device("cpu")


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def model() -> PerceptionModel:
    torch.manual_seed(0)
    model = PerceptionModel(MODELS["tiny"])
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def test_every_row_is_noised_and_judged_with_its_own_label(model: PerceptionModel):
    config, diffusion = LossConfig(draws=3), Diffusion(SCHEDULE, CPU)
    targets = draw(2, 2, 3, 64, 64, seed=1)
    example = Example("amodal", draw(2, 3, 64, 64, seed=2), draw(2, 3, 64, 64, seed=3), targets)
    parts = diffusion_loss(model, diffusion, example, config, seeded(CPU, "loss"))
    assert parts.keys() == {"diffusion", "estimate"}

    generator = seeded(CPU, "loss")
    t = diffusion.sample_timesteps(12, generator)
    t = t[torch.randperm(12, generator=generator)]
    eps = torch.randn(12, 4, 8, 8, generator=generator)
    condition = model.encode("amodal", example.image, example.prompt).condition
    errors, row = [], 0
    for picture in range(2):
        for component, label in enumerate((2, 3)):
            x_0 = model.vae.encode(targets[picture, component][None])
            for _ in range(3):
                own_t, own_eps = t[row : row + 1], eps[row : row + 1]
                x_t = diffusion.add_noise(x_0, own_eps, own_t)
                shown = condition[picture : picture + 1]
                predicted = model.denoiser(x_t, shown, own_t, torch.tensor([label]))
                error = predicted - diffusion.target(x_0, own_eps, own_t)
                errors.append(error.square().mean())
                row += 1
    torch.testing.assert_close(parts["diffusion"], torch.stack(errors).mean())
    latents = torch.cat([model.vae.encode(targets[:, i]) for i in range(2)], dim=1)
    torch.testing.assert_close(parts["estimate"], functional.mse_loss(condition[:, :8], latents))


@torch.no_grad()
def test_the_paper_form_has_no_direct_loss():
    model = PerceptionModel(MODELS["tiny-concatenated"])
    example = Example("depth", draw(1, 3, 64, 64, seed=1), None, draw(1, 1, 3, 64, 64, seed=2))
    parts = diffusion_loss(model, Diffusion(SCHEDULE, CPU), example, LossConfig(), seeded(CPU))
    assert parts.keys() == {"diffusion"}


def test_a_flow_example_trains_matching_and_denoiser(model: PerceptionModel):
    model.zero_grad()
    flow = 0.05 * draw(1, 2, 64, 64, seed=4)
    image = draw(1, 3, 64, 64, seed=1)
    target = FlowCode().picture(flow)[:, None]
    example = Example("flow", image, draw(1, 3, 64, 64, seed=2), target, flow)
    parts = diffusion_loss(model, Diffusion(SCHEDULE, CPU), example, LossConfig(), seeded(CPU))
    assert parts.keys() == {"diffusion", "estimate", "flow"}
    torch.autograd.backward(torch.stack(list(parts.values())).sum())
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert "encoders.flow.pyramid.stem.weight" in trained
    assert "denoiser.head.weight" in trained
    assert not any(name.startswith(("vae.", "encoders.depth.")) for name in trained)


class Answering(nn.Module):
    """A denoiser that says the same everywhere, and something else in further channels."""

    def __init__(self, value: float, further: int) -> None:
        super().__init__()
        self.value, self.further = value, further

    def forward(self, noisy: Tensor, condition: Tensor, timestep: Tensor, task: Tensor) -> Tensor:
        del condition, timestep, task
        variance = noisy.new_full((len(noisy), self.further, *noisy.shape[2:]), 1e3)
        return torch.cat([torch.full_like(noisy, self.value), variance], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("further", [0, 4])
@pytest.mark.parametrize("schedule", [SCHEDULE, PAPER_SCHEDULE])
def test_the_loss_of_a_known_denoiser_is_known(further: int, schedule: ScheduleSpec):
    """Of a constant answer a, it is the mean of (a - target)^2; variances are not judged."""
    model = PerceptionModel(MODELS["tiny-concatenated"])
    model.denoiser = Answering(0.3, further)  # type: ignore[assignment]
    targets = draw(3, 1, 3, 64, 64, seed=2)
    example = Example("depth", draw(3, 3, 64, 64, seed=1), None, targets)
    config = LossConfig(draws=2)
    parts = diffusion_loss(model, Diffusion(schedule, CPU), example, config, seeded(CPU, 4))
    generator = seeded(CPU, 4)
    unit = (torch.arange(6) + torch.rand(6, generator=generator)) / 6
    t = (unit * 1000).long()[torch.randperm(6, generator=generator)]
    eps = torch.randn(6, 4, 8, 8, generator=generator)
    alpha_bar = torch.from_numpy(schedule.build().alpha_bar)[t][:, None, None, None]
    x_0 = model.vae.encode(targets[:, 0]).repeat_interleave(2, dim=0)
    kinds = {"epsilon": eps, "v": alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0}
    expected = (0.3 - kinds[schedule.prediction_type]).square().mean()
    assert float(parts["diffusion"]) == pytest.approx(float(expected), rel=1e-5)


def corner(rows: int, side: int, invalid: int) -> Tensor:
    """Valid everywhere but in one corner of the first row."""
    valid = torch.ones(rows, 1, side, side, dtype=torch.bool)
    valid[0, :, :invalid, :invalid] = False
    return valid


@torch.no_grad()
def test_what_is_not_valid_has_no_part_in_the_loss():
    model = PerceptionModel(MODELS["tiny-concatenated"])
    model.denoiser = Answering(0.0, 0)  # type: ignore[assignment]
    image, targets = draw(2, 3, 64, 64, seed=1), draw(2, 1, 3, 64, 64, seed=2)
    diffusion, config = Diffusion(PAPER_SCHEDULE, CPU), LossConfig(draws=3)

    def loss(valid: Tensor | None) -> float:
        example = Example("depth", image, None, targets, valid=valid)
        return float(diffusion_loss(model, diffusion, example, config, seeded(CPU))["diffusion"])

    generator = seeded(CPU)
    diffusion.sample_timesteps(6, generator)
    torch.randperm(6, generator=generator)
    eps = torch.randn(6, 4, 8, 8, generator=generator)
    squares = eps.square()  # of the noise that was not said, here the three draws of each picture
    squares[:3, :, :2, :2] = 0  # 9 px reach into two cells of 8
    known = 6 * 4 * 64 - 3 * 4 * 4
    assert loss(corner(2, 64, 9)) == pytest.approx(float(squares.sum() / known), rel=1e-5)
    everything = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    assert loss(everything) == pytest.approx(loss(None), rel=1e-6)
    assert loss(~everything) == 0


def test_a_cell_is_known_where_all_its_pixels_are():
    mask = latent_mask(corner(2, 32, 9), 4)
    assert mask.shape == (2, 1, 4, 4)
    assert not mask[0, 0, :2, :2].any()
    assert int(mask.sum()) == 2 * 16 - 4


def test_nothing_is_learned_from_what_is_not_valid(model: PerceptionModel):
    """Not by the estimate of a condition encoder either, nor by the flow's."""
    flow = 0.05 * draw(1, 2, 64, 64, seed=4)
    target = FlowCode().picture(flow)[:, None]
    pictures = draw(1, 3, 64, 64, seed=1), draw(1, 3, 64, 64, seed=2)
    nowhere = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    example = Example("flow", *pictures, target, flow, nowhere)
    parts = diffusion_loss(model, Diffusion(SCHEDULE, CPU), example, LossConfig(), seeded(CPU))
    assert {name: float(part.detach()) for name, part in parts.items()} == {
        "diffusion": 0,
        "estimate": 0,
        "flow": 0,
    }


def test_an_unknown_vector_does_not_count_against_an_estimate():
    truth = torch.zeros(1, 2, 16, 16)
    estimate = truth.clone()
    estimate[:, :, :4] = 0.1
    valid = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    config = LossConfig()
    wrong = float(FlowCode().compand(torch.full((1, 2, 1, 1), 0.1)).mean())
    assert float(flow_loss((estimate,), truth, config, valid)) == pytest.approx(wrong / 4, rel=1e-5)
    valid[:, :, :2] = False
    assert float(flow_loss((estimate,), truth, config, valid)) == pytest.approx(wrong / 7, rel=1e-5)
    valid[:, :, :4] = False
    assert float(flow_loss((estimate,), truth, config, valid)) == 0


def test_experts_are_asked_to_share_the_work():
    torch.manual_seed(0)
    model = PerceptionModel(MODELS["tiny-moe"]).train()
    example = Example("depth", draw(1, 3, 64, 64, seed=1), None, draw(1, 1, 3, 64, 64, seed=2))
    parts = diffusion_loss(model, Diffusion(SCHEDULE, CPU), example, LossConfig(), seeded(CPU))
    assert parts.keys() == {"diffusion", "balance"}
    balance = parts["balance"]
    assert float(balance.detach()) > 0
    torch.autograd.backward(balance)
    gates = [p.grad for name, p in model.named_parameters() if "gate" in name]
    assert gates
    assert all(grad is not None and grad.abs().max() > 0 for grad in gates)


def test_finer_estimates_of_the_flow_weigh_more():
    config = LossConfig(flow_decay=0.5)
    truth = 0.1 * draw(1, 2, 16, 16, seed=0)
    wrong = torch.zeros_like(truth)
    single = float(flow_loss((wrong,), truth, config))
    assert single == pytest.approx(float(FlowCode().compand(truth).abs().mean()), rel=1e-5)
    assert float(flow_loss((wrong, truth), truth, config)) == pytest.approx(0.5 * single, rel=1e-5)
    assert float(flow_loss((truth, wrong), truth, config)) == pytest.approx(single, rel=1e-5)
    only_last = replace(config, flow_decay=0.0)
    assert float(flow_loss((wrong, wrong), truth, only_last)) == pytest.approx(single, rel=1e-5)
