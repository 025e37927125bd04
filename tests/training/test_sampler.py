"""Sampling against the service's own update, and against denoisers that are known exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.core.ddim import ddim_coefficients, ddim_step
from training import sampler as module
from training.data.mixture import seeded
from training.diffusion import SCHEDULE
from training.models.perception import MODELS, PerceptionModel
from training.sampler import Sampler
from training.targets import COMPONENTS

CPU = torch.device("cpu")


@pytest.fixture
def model() -> PerceptionModel:
    torch.manual_seed(0)
    model = PerceptionModel(MODELS["tiny"]).eval()
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def picture(seed: int, rows: int = 2) -> Tensor:
    return torch.rand(rows, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 3])
def test_sampling_is_a_plain_loop_of_the_services_update(model: PerceptionModel, steps: int):
    image, prompt = picture(1), picture(2)
    got = Sampler(model, CPU, seed=5).pictures("amodal", image, prompt, steps, members=2)
    assert got.keys() == {"mask", "appearance"}
    condition = model.encode("amodal", image, prompt).condition
    schedule = SCHEDULE.build()
    for component in COMPONENTS["amodal"]:
        assert got[component.name].shape == (2, 2, 3, 64, 64)
        for member in range(2):
            generator = seeded(CPU, "member", 5, member, component.name)
            x_t = torch.randn(2, 4, 8, 8, generator=generator).numpy()
            for t, t_prev in SCHEDULE.step_pairs(steps):
                times, previous = np.full(2, t), np.full(2, t_prev)
                a, b = ddim_coefficients(schedule, "v", times, previous)
                labels = torch.full((2,), component.label)
                arguments = torch.from_numpy(x_t), condition, torch.from_numpy(times), labels
                x_t = ddim_step(x_t, model.denoiser(*arguments).numpy(), a, b)
            expected = model.vae.decode(torch.from_numpy(x_t))
            torch.testing.assert_close(got[component.name][member], expected, rtol=1e-4, atol=1e-4)


class Gaussian(nn.Module):
    """The best v for latents that are normal around the condition's first channels."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.variance = deviation**2
        self.register_buffer("alpha_bar", torch.from_numpy(SCHEDULE.build().alpha_bar).float())

    def forward(self, noisy: Tensor, condition: Tensor, timestep: Tensor, task: Tensor) -> Tensor:
        alpha_bar = self.get_buffer("alpha_bar")[timestep][:, None, None, None]
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        mean = condition[:, :4]
        gain = signal * self.variance / (alpha_bar * self.variance + 1 - alpha_bar)
        x_0 = mean + gain * (noisy - signal * mean)
        eps = (noisy - signal * x_0) / noise.clamp(min=1e-6)
        return signal * eps - noise * x_0


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_a_certain_answer_is_reached_in_any_number_of_steps(model: PerceptionModel, steps: int):
    model.denoiser = Gaussian(0.0)  # type: ignore[assignment]
    image = picture(1)
    got = Sampler(model, CPU).pictures("depth", image, None, steps, members=2)["depth"]
    expected = model.vae.decode(model.encode("depth", image, None).condition[:, :4])
    for member in got:
        torch.testing.assert_close(member, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_many_steps_bring_noise_to_its_place_in_the_distribution(model: PerceptionModel):
    deviation = 0.4
    model.denoiser = Gaussian(deviation)  # type: ignore[assignment]
    image = picture(1, rows=1)
    mean = model.encode("depth", image, None).condition[:, :4]
    generator = seeded(CPU, "member", 7, 0, "depth")
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    # the probability flow of a Gaussian only moves and scales
    expected = model.vae.decode(mean + deviation * noise)
    sampler = Sampler(model, CPU, seed=7)
    errors = [
        float((sampler.pictures("depth", image, None, steps, 1)["depth"][0] - expected).abs().max())
        for steps in (1, 10, 100)
    ]
    assert errors[0] > 5 * errors[1] > 5 * errors[2]


@torch.no_grad()
def test_the_first_members_are_those_of_a_larger_ensemble(
    model: PerceptionModel, monkeypatch: pytest.MonkeyPatch
):
    sampler, image = Sampler(model, CPU), picture(1)
    large = sampler.pictures("depth", image, None, 2, members=3)["depth"]
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 4)  # nor does it matter how rows are split
    small = sampler.pictures("depth", image, None, 2, members=3)["depth"]
    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-4)
    small = sampler.pictures("depth", image, None, 2, members=1)["depth"]
    torch.testing.assert_close(small[0], large[0], rtol=1e-4, atol=1e-4)
    assert (large[0] - large[1]).abs().max() > 1e-2
    other = replace(sampler, seed=1).pictures("depth", image, None, 2, members=1)["depth"]
    assert (other[0] - small[0]).abs().max() > 1e-2
