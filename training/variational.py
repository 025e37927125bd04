"""Learned variance: the second half of a denoiser's output, and the bound that trains it.

After Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (arXiv 2102.09672),
section 3.1, as DiT is pre-trained (`learn_sigma`). The mean is frozen in the bound, so that it
trains the variance alone and the mean is trained by its own squared error.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from service.core.schedule import NoiseSchedule
from training.diffusion import Diffusion

_HALF_LEVEL = 1 / 255  # half a step of an 8-bit value in [-1, 1]
_EDGE = 0.999  # beyond it, the first and the last step reach to infinity


class Posterior:
    """q(x_(t-1) | x_t, x_0) of a schedule: Ho et al. (arXiv 2006.11239), equations 6 and 7."""

    def __init__(self, schedule: NoiseSchedule, device: torch.device) -> None:
        alpha_bar = torch.from_numpy(schedule.alpha_bar)  # float64: betas are small differences
        before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        beta = 1 - alpha_bar / before
        variance = beta * (1 - before) / (1 - alpha_bar)
        # At t = 0 it is 0, whose logarithm the bound cannot use: Nichol's code takes that of t = 1.
        variance[0] = variance[1]
        self._of_x_0 = (beta * before.sqrt() / (1 - alpha_bar)).float().to(device)  # (T,)
        self._of_x_t = ((1 - before) * (1 - beta).sqrt() / (1 - alpha_bar)).float().to(device)
        self._low = variance.log().float().to(device)
        self._high = beta.log().float().to(device)
        self._signal = alpha_bar.sqrt().float().to(device)
        self._noise = (1 - alpha_bar).sqrt().float().to(device)

    def mean(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Equation 7: (B, C, h, w) at timesteps (B,)."""
        return _rows(self._of_x_0, t) * x_0 + _rows(self._of_x_t, t) * x_t

    def log_variance(self, t: Tensor) -> Tensor:
        """Logarithm of the variance (B, 1, 1, 1); at t = 0, where it is none, that of t = 1."""
        return _rows(self._low, t)

    def learned_log_variance(self, v: Tensor, t: Tensor) -> Tensor:
        """Between the posterior's variance and beta, as `v` in [-1, 1] says: equation 15."""
        share = (v + 1) / 2
        return share * _rows(self._high, t) + (1 - share) * _rows(self._low, t)

    def x_0(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The sample that a predicted noise means."""
        return (x_t - _rows(self._noise, t) * eps) / _rows(self._signal, t)


def gaussian_kl(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """KL(p | q) in nats of normal distributions with means and logarithms of variances, each."""
    ratio = (log_p - log_q).exp()
    return 0.5 * (log_q - log_p - 1 + ratio + (mean_p - mean_q).square() * (-log_q).exp())


def discretised_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log probability in nats of 8-bit values `x` in [-1, 1] under a normal distribution, each.

    Of the bin around each value, whose first and last reach to infinity: Ho et al., equation 13.
    Latents are no 8-bit values; DiT uses it for them all the same, and so do we.
    """
    spread = (-0.5 * log_variance).exp()
    above = (x + _HALF_LEVEL - mean) * spread
    below = (x - _HALF_LEVEL - mean) * spread
    # The difference of two tails on one side loses nothing to rounding where both are near one.
    mirrored = (above + below) > 0
    upper, lower = torch.where(mirrored, -below, above), torch.where(mirrored, -above, below)
    inside = (torch.special.ndtr(upper) - torch.special.ndtr(lower)).clamp(min=1e-12).log()
    first, last = torch.special.log_ndtr(above), torch.special.log_ndtr(-below)
    return torch.where(x < -_EDGE, first, torch.where(x > _EDGE, last, inside))


def bound(
    posterior: Posterior, predicted: Tensor, v: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor
) -> Tensor:
    """The term of the variational bound at each row's timestep, bits per dimension, (B,).

    `predicted` is the noise, `v` says the variance. KL to the posterior for t > 0, the discretised
    likelihood of x_0 at t = 0 (arXiv 2102.09672, equations 4 to 7).
    """
    mean = posterior.mean(posterior.x_0(x_t, predicted, t), x_t, t)
    log_variance = posterior.learned_log_variance(v, t)
    true_mean = posterior.mean(x_0, x_t, t)
    kl = gaussian_kl(true_mean, posterior.log_variance(t), mean, log_variance)
    likelihood = discretised_likelihood(x_0, mean, log_variance)
    terms = torch.where((t == 0)[:, None, None, None], -likelihood, kl)
    return terms.mean(dim=(1, 2, 3)) / math.log(2)


def hybrid_loss(
    output: Tensor, diffusion: Diffusion, posterior: Posterior, x_0: Tensor, eps: Tensor, t: Tensor
) -> dict[str, Tensor]:
    """Squared error of the noise, and the bound for the variance alone: their sum is minimised.

    `output` (B, 2C, h, w) is the predicted noise, then `v`; the rest are (B, C, h, w) and (B,). The
    paper weights the sum of the T terms by 0.001 (equation 16), so the mean over them by T / 1000.
    """
    predicted, v = output.float().chunk(2, dim=1)
    x_t = diffusion.add_noise(x_0, eps, t)
    terms = bound(posterior, predicted.detach(), v, x_0, x_t, t)
    return {
        "diffusion": functional.mse_loss(predicted, eps),
        "variance": terms.mean() * diffusion.spec.num_timesteps / 1000,
    }


def _rows(values: Tensor, t: Tensor) -> Tensor:
    return values[t][:, None, None, None]
