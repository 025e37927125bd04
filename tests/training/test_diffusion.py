"""Noising and its targets against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.core.artifact import ScheduleSpec
from service.core.ddim import ddim_coefficients
from training.diffusion import PAPER_SCHEDULE, SCHEDULE, Diffusion

CPU = torch.device("cpu")


def draw(seed: int, rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 4, 3, 5, generator=torch.Generator().manual_seed(seed))


def test_noising_is_the_closed_form_at_each_rows_own_timestep():
    t = torch.tensor([0, 17, 600, 999])
    x_0, eps = draw(0), draw(1)
    x_t = Diffusion(SCHEDULE, CPU).add_noise(x_0, eps, t)
    alpha_bar = SCHEDULE.build().alpha_bar
    for row, step in enumerate(t.tolist()):
        a = alpha_bar[step]
        expected = np.sqrt(a) * x_0[row].numpy() + np.sqrt(1 - a) * eps[row].numpy()
        np.testing.assert_allclose(x_t[row].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_zero_terminal_snr_is_pure_noise_and_its_v_is_minus_x_0():
    diffusion = Diffusion(SCHEDULE, CPU)
    x_0, eps = draw(0, 1), draw(1, 1)
    last = torch.tensor([999])
    assert torch.equal(diffusion.add_noise(x_0, eps, last), eps)
    assert torch.equal(diffusion.target(x_0, eps, last), -x_0)


@pytest.mark.parametrize("kind", ["epsilon", "v", "sample"])
def test_a_perfect_prediction_is_taken_back_to_x_0_in_one_step(kind):
    spec = replace(SCHEDULE, prediction_type=kind, zero_terminal_snr=False)
    diffusion = Diffusion(spec, CPU)
    t = torch.tensor([20, 300, 700, 900])
    x_0, eps = draw(2), draw(3)
    x_t, target = diffusion.add_noise(x_0, eps, t), diffusion.target(x_0, eps, t)
    schedule = replace(spec, set_alpha_to_one=True).build()
    a, b = ddim_coefficients(schedule, kind, t.numpy(), np.full(4, -1))
    back = torch.from_numpy(a)[:, None, None, None] * x_t
    back += torch.from_numpy(b)[:, None, None, None] * target
    torch.testing.assert_close(back, x_0, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("spec", [SCHEDULE, PAPER_SCHEDULE])
@pytest.mark.parametrize("steps", [5, 10, 50, 200])
def test_no_step_multiplies_an_error_of_the_prediction(spec: ScheduleSpec, steps: int):
    t, t_prev = np.array(spec.step_pairs(steps)).T
    _, b = ddim_coefficients(spec.build(), spec.prediction_type, t, t_prev)
    assert np.abs(b).max() < 2
    last = replace(spec, spacing="trailing", steps_offset=0).step_pairs(steps)[0]
    _, b = ddim_coefficients(
        spec.build(), spec.prediction_type, np.array(last[:1]), np.array(last[1:])
    )
    assert (abs(b[0]) > 100) == (spec is PAPER_SCHEDULE)  # which is why it has other steps


def test_timesteps_are_one_from_each_equal_part():
    diffusion = Diffusion(SCHEDULE, CPU)
    for count in (1, 7, 64, 1000):
        t = diffusion.sample_timesteps(count, torch.Generator().manual_seed(count))
        assert t.dtype == torch.int64
        assert ((t * count).div(1000, rounding_mode="floor") - torch.arange(count)).abs().max() <= 1
        assert t.min() >= 0
        assert t.max() <= 999


def test_timesteps_are_uniform():
    diffusion = Diffusion(SCHEDULE, CPU)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([diffusion.sample_timesteps(3, generator) for _ in range(4000)])
    counts = torch.histc(drawn.float(), bins=10, min=0, max=1000)
    assert (counts / len(drawn) - 0.1).abs().max() < 0.015
