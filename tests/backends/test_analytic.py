"""The closed form against numerical integration, and the same x_0 for every prediction type."""

from dataclasses import replace

import numpy as np
import pytest

from service.backends.analytic import AnalyticBackend, posterior_mean
from service.backends.repository import ServedModel
from service.core.ddim import PredictionType
from tests.support.requests import make_picture


@pytest.mark.parametrize("alpha_bar", [1e-4, 0.3, 0.999])
@pytest.mark.parametrize("sigma", [0.05, 1.3])
def test_posterior_mean_is_the_integral_of_bayes_rule(alpha_bar: float, sigma: float) -> None:
    mean, x_t = 0.4, -0.7
    grid = np.linspace(-16, 16, 400_001)
    log_prior = -((grid - mean) ** 2) / (2 * sigma**2)
    log_likelihood = -((x_t - np.sqrt(alpha_bar) * grid) ** 2) / (2 * (1 - alpha_bar))
    weight = np.exp(log_prior + log_likelihood - (log_prior + log_likelihood).max())
    expected = (grid * weight).sum() / weight.sum()
    result = posterior_mean(np.array([x_t]), np.array([mean]), sigma, np.array([alpha_bar]))
    assert result[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v", "sample"])
async def test_every_prediction_type_means_the_same_x_0(
    model: ServedModel, prediction_type: PredictionType
) -> None:
    schedule = replace(model.artifact.schedule, prediction_type=prediction_type)
    backend = AnalyticBackend([replace(model.artifact, schedule=schedule)], sigma=0.3)
    generator = np.random.default_rng(0)
    t = np.array([1, 400, 999])
    x_t = generator.standard_normal((3, 4, 8, 8), dtype=np.float32)
    condition = generator.uniform(-1, 1, (3, 6, 8, 8)).astype(np.float32)
    out = await backend.workers[0].run(
        "tiny_denoiser:1", {"noisy": x_t, "condition": condition, "timestep": t, "task": t * 0}
    )
    alpha_bar = schedule.build().alpha_bar[t][:, None, None, None]
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    x_0 = {
        "epsilon": (x_t - noise * out) / signal,
        "v": signal * x_t - noise * out,
        "sample": out,
    }[prediction_type]
    mean = model.artifact.latent.scale * condition[:, :4].astype(np.float64)
    expected = posterior_mean(x_t.astype(np.float64), mean, 0.3, alpha_bar)
    np.testing.assert_allclose(x_0, expected, atol=2e-5)


async def test_the_decoder_shows_the_picture_that_was_encoded(model: ServedModel) -> None:
    backend = AnalyticBackend([model.artifact])
    image = make_picture(3)[None]
    condition = await backend.workers[0].run(
        "tiny_depth_encoder:1", {"image": image, "task": np.array([0])}
    )
    assert condition.shape == (1, 6, 8, 8)
    np.testing.assert_array_equal(condition[:, :3], image[:, :, ::8, ::8])
    shown = await backend.workers[0].run("tiny_decoder:1", {"latent": condition[:, :4]})
    np.testing.assert_array_equal(shown[:, :, ::8, ::8], image[:, :, ::8, ::8])
    await backend.close()
