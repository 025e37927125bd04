"""The loss of one example against a slow, obvious one."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from training.data.mixture import seeded
from training.diffusion import SCHEDULE, Diffusion
from training.losses import LossConfig, diffusion_loss, flow_loss
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
