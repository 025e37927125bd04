"""The sampler of latent consistency models against diffusers' scheduler, noise and all."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from service.engine.sampling import make_sampling
from tests.support.tiny_repository import SCHEDULE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers' imports warn of its own dependencies
    from diffusers import LCMScheduler
    from diffusers.schedulers import scheduling_lcm

SPEC = replace(SCHEDULE, sampler="lcm")
TYPES = {"v": "v_prediction", "epsilon": "epsilon", "sample": "sample"}


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("steps", [1, 2, 4, 10, 50])
def test_every_step_is_diffusers(monkeypatch, prediction_type, steps):
    scheduler: Any = LCMScheduler(
        beta_start=SPEC.beta_start,
        beta_end=SPEC.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=TYPES[prediction_type],
        original_inference_steps=50,
    )
    scheduler.set_timesteps(steps)
    sampling = make_sampling(replace(SPEC, prediction_type=prediction_type), steps)
    assert sampling.timesteps == tuple(scheduler.timesteps.tolist())

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 6, 6, generator=generator)
    ours = x.numpy()
    for i, t in enumerate(scheduler.timesteps):
        prediction = torch.randn(x.shape, generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, noise=noise, **__: noise)
        x = scheduler.step(prediction, t, x).prev_sample
        a, b, c = sampling.a[i], sampling.b[i], sampling.c[i]
        ours = a * ours + b * prediction.numpy() + c * noise.numpy()
        np.testing.assert_allclose(ours, x.numpy(), rtol=0, atol=1e-5 * max(1, abs(ours).max()))
    assert sampling.c[-1] == 0
