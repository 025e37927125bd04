"""Learned variance against closed forms, diffusers and a bound written another way."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, distributions

from training.diffusion import Diffusion
from training.runs.pretrain import DIT_SCHEDULE
from training.variational import (
    Posterior,
    bound,
    discretised_likelihood,
    gaussian_kl,
    hybrid_loss,
)

CPU = torch.device("cpu")
SCHEDULE = DIT_SCHEDULE.build()
DIFFUSION, POSTERIOR = Diffusion(DIT_SCHEDULE, CPU), Posterior(SCHEDULE, CPU)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_kl_is_that_of_normal_distributions() -> None:
    means, logs = drawn(0, 2, 50), drawn(1, 2, 50)
    p = distributions.Normal(means[0].double(), (logs[0].double() / 2).exp())
    q = distributions.Normal(means[1].double(), (logs[1].double() / 2).exp())
    found = gaussian_kl(means[0], logs[0], means[1], logs[1])
    expected = distributions.kl_divergence(p, q).float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert gaussian_kl(means[0], logs[0], means[0], logs[0]).abs().max() == 0


def test_probabilities_of_all_8_bit_values_sum_to_one() -> None:
    levels = (torch.arange(256) / 127.5 - 1).expand(5, 256)
    mean = torch.tensor([-1.2, -0.5, 0.0, 0.3, 0.9])[:, None].expand(5, 256)
    log_variance = torch.tensor([-9.0, -4.0, -2.0, 0.0, -6.0])[:, None].expand(5, 256)
    total = discretised_likelihood(levels, mean, log_variance).double().exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones(5).double(), rtol=1e-4, atol=1e-4)


def test_the_likelihood_is_the_integral_over_the_bin() -> None:
    x, mean, log_variance = torch.tensor(0.2), torch.tensor(0.25), torch.tensor(-7.0)
    points = np.linspace(0.2 - 1 / 255, 0.2 + 1 / 255, 2001)
    variance = math.exp(-7.0)
    density = np.exp(-((points - 0.25) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    expected = math.log(np.trapezoid(density, points))
    found = discretised_likelihood(x, mean, log_variance)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_far_values_have_finite_likelihoods_and_gradients() -> None:
    mean = torch.tensor([-40.0, 40.0, 3.0], requires_grad=True)
    x = torch.tensor([1.0, -1.0, 0.0])
    likelihood = discretised_likelihood(x, mean, torch.full((3,), -4.0))
    torch.autograd.backward(likelihood.sum())
    assert mean.grad is not None
    assert likelihood.isfinite().all()
    assert mean.grad.isfinite().all()


def test_the_posterior_is_what_bayes_says() -> None:
    alpha_bar = SCHEDULE.alpha_bar
    for t in (1, 10, 500, 999):
        alpha = alpha_bar[t] / alpha_bar[t - 1]
        # q(x_t | x_(t-1)) q(x_(t-1) | x_0): precisions add, means are weighted by them.
        likelihood, prior = alpha / (1 - alpha), 1 / (1 - alpha_bar[t - 1])
        variance = 1 / (likelihood + prior)
        x_0, x_t = 0.7, -0.4
        mean = variance * (
            likelihood * x_t / math.sqrt(alpha) + prior * math.sqrt(alpha_bar[t - 1]) * x_0
        )
        step = torch.tensor([t])
        found = POSTERIOR.mean(torch.full((1, 1, 1, 1), x_0), torch.full((1, 1, 1, 1), x_t), step)
        assert found.item() == pytest.approx(mean, rel=1e-4)
        assert POSTERIOR.log_variance(step).exp().item() == pytest.approx(variance, rel=1e-4)


def test_the_learned_range_is_that_of_diffusers() -> None:
    theirs = DDPMScheduler(1000, 1e-4, 0.02, "linear", variance_type="learned_range")
    v = drawn(2, 1, 4, 3, 3).clamp(-1, 1)
    for t in (1, 2, 300, 998):
        log = POSTERIOR.learned_log_variance(v, torch.tensor([t]))
        # Theirs says the logarithm for this type.
        expected = theirs._get_variance(t, predicted_variance=v)  # type: ignore[attr-defined]
        torch.testing.assert_close(log, expected, rtol=2e-3, atol=2e-3)
    ends = torch.tensor([-1.0, 1.0])[:, None, None, None]
    low, high = POSTERIOR.learned_log_variance(ends, torch.tensor([40, 40])).exp().flatten()
    beta = 1 - SCHEDULE.alpha_bar[40] / SCHEDULE.alpha_bar[39]
    assert high.item() == pytest.approx(beta, rel=1e-5)
    before, now = SCHEDULE.alpha_bar[39], SCHEDULE.alpha_bar[40]
    assert low.item() == pytest.approx(beta * (1 - before) / (1 - now), rel=1e-5)


def test_the_bound_agrees_with_one_written_with_distributions() -> None:
    x_0, eps = drawn(3, 4, 2, 3, 3).clamp(-1, 1), drawn(4, 4, 2, 3, 3)
    predicted, v = drawn(5, 4, 2, 3, 3), drawn(6, 4, 2, 3, 3).clamp(-1, 1)
    t = torch.tensor([0, 1, 250, 999])
    x_t = DIFFUSION.add_noise(x_0, eps, t)
    found = bound(POSTERIOR, predicted, v, x_0, x_t, t)
    for row, step in enumerate(t.tolist()):
        arrays = [part[row].double().numpy() for part in (x_0, x_t, predicted, v)]
        expected = _one_bound(arrays, step)
        assert found[row].item() == pytest.approx(expected, rel=2e-3)


def _one_bound(arrays: list[np.ndarray], t: int) -> float:
    x_0, x_t, predicted, v = arrays
    alpha_bar = np.append(1.0, SCHEDULE.alpha_bar)  # shifted by one: the paper's own counting
    now, before = alpha_bar[t + 1], alpha_bar[t]
    beta = 1 - now / before

    def posterior(start: np.ndarray) -> np.ndarray:
        return (math.sqrt(before) * beta * start + math.sqrt(1 - beta) * (1 - before) * x_t) / (
            1 - now
        )

    step = max(t, 1)
    small_beta = 1 - alpha_bar[step + 1] / alpha_bar[step]
    small = small_beta * (1 - alpha_bar[step]) / (1 - alpha_bar[step + 1])
    variance = beta ** ((v + 1) / 2) * small ** ((1 - v) / 2)
    start = (x_t - math.sqrt(1 - now) * predicted) / math.sqrt(now)
    model = distributions.Normal(torch.tensor(posterior(start)), torch.tensor(np.sqrt(variance)))
    if t > 0:
        truth = distributions.Normal(torch.tensor(posterior(x_0)), math.sqrt(small))
        return distributions.kl_divergence(truth, model).mean().item() / math.log(2)
    x = torch.tensor(x_0)
    upper = torch.where(x > 0.999, 1.0, model.cdf(x + 1 / 255))
    lower = torch.where(x < -0.999, 0.0, model.cdf(x - 1 / 255))
    return -(upper - lower).clamp(min=1e-12).log().mean().item() / math.log(2)


def test_the_bound_trains_the_variance_and_the_error_trains_the_mean() -> None:
    output = drawn(7, 6, 4, 3, 3).requires_grad_()
    x_0, eps, t = drawn(8, 6, 2, 3, 3), drawn(9, 6, 2, 3, 3), torch.arange(6) * 150
    parts = hybrid_loss(output, DIFFUSION, POSTERIOR, x_0, eps, t)
    (of_error,) = torch.autograd.grad(parts["diffusion"], output, retain_graph=True)
    (of_bound,) = torch.autograd.grad(parts["variance"], output)
    assert of_error[:, :2].abs().min() > 0
    assert of_error[:, 2:].abs().max() == 0
    assert of_bound[:, :2].abs().max() == 0
    assert of_bound[:, 2:].abs().max() > 0


def test_a_perfect_prediction_with_the_posteriors_variance_costs_nothing() -> None:
    x_0, eps, t = drawn(10, 3, 2, 3, 3), drawn(11, 3, 2, 3, 3), torch.tensor([1, 400, 999])
    output = torch.cat([eps, torch.full_like(eps, -1.0)], dim=1)
    parts = hybrid_loss(output, DIFFUSION, POSTERIOR, x_0, eps, t)
    assert float(parts["diffusion"]) == 0
    assert 0 <= float(parts["variance"]) < 1e-3
