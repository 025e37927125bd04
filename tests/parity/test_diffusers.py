"""Our sampler and our ensemble against diffusers', which public checkpoints were made with."""

import contextlib
import itertools
import warnings

import numpy as np
import pytest
import torch

from service.core.ddim import ddim_coefficients, ddim_step
from service.core.ensemble import reduce_members
from service.core.schedule import make_schedule, sampling_timesteps, step_pairs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers' imports warn of its own dependencies
    from diffusers import DDIMScheduler
    from diffusers.pipelines.marigold.pipeline_marigold_depth import MarigoldDepthPipeline

BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}
SPACINGS = ("leading", "trailing", "linspace")
STEPS = (1, 2, 5, 10, 50, 200)
RANGE = (0.00085, 0.012)


def _scheduler(
    betas="linear",
    prediction_type="v",
    spacing="leading",
    *,
    zero_terminal_snr=False,
    set_alpha_to_one=True,
    steps_offset=1,
    num_timesteps=1000,
    beta_range=RANGE,
):
    return DDIMScheduler(
        num_train_timesteps=num_timesteps,
        beta_start=beta_range[0],
        beta_end=beta_range[1],
        beta_schedule=BETAS[betas],
        clip_sample=False,
        set_alpha_to_one=set_alpha_to_one,
        steps_offset=steps_offset,
        prediction_type=PREDICTION_TYPES[prediction_type],
        timestep_spacing=spacing,
        rescale_betas_zero_snr=zero_terminal_snr,
    )


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("num_timesteps", [200, 1000])
@pytest.mark.parametrize("beta_range", [RANGE, (1e-4, 0.02)])
@pytest.mark.parametrize("betas", BETAS)
def test_schedules(betas, beta_range, num_timesteps, zero_terminal_snr, set_alpha_to_one):
    ours = make_schedule(
        betas,
        num_timesteps,
        beta_start=beta_range[0],
        beta_end=beta_range[1],
        zero_terminal_snr=zero_terminal_snr,
        set_alpha_to_one=set_alpha_to_one,
    )
    theirs = _scheduler(
        betas,
        zero_terminal_snr=zero_terminal_snr,
        set_alpha_to_one=set_alpha_to_one,
        num_timesteps=num_timesteps,
        beta_range=beta_range,
    )
    np.testing.assert_allclose(ours.alpha_bar, theirs.alphas_cumprod, rtol=0, atol=2e-6)
    assert ours.final_alpha_bar == pytest.approx(theirs.final_alpha_cumprod.item(), abs=2e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps_offset", [0, 1])
def test_timesteps(spacing, steps_offset):
    scheduler = _scheduler(spacing=spacing, steps_offset=steps_offset)
    for steps in range(1, 201):
        scheduler.set_timesteps(steps)
        # Theirs holds one timestep too many, -1, for trailing steps such as 61.
        theirs = scheduler.timesteps.tolist()[:steps]
        assert sampling_timesteps(1000, steps, spacing, steps_offset).tolist() == theirs


def _model(x_t, t):
    """Stand in for a network: nonlinear, so that an error in one step shows in all later ones."""
    return 0.6 * x_t / (1 + np.abs(x_t)) + np.float32(0.3 * np.cos(t / 100))


def _sample_alone(scheduler, noise, steps):
    scheduler.set_timesteps(steps)
    x_t = torch.from_numpy(noise)
    for t in scheduler.timesteps.tolist():
        prediction = torch.from_numpy(_model(x_t.numpy(), t))
        x_t = scheduler.step(prediction, t, x_t).prev_sample
    return x_t.numpy()


def _sample_together(schedule, prediction_type, spacing, noise):
    """Advance one row per entry of STEPS, each at its own timestep, until all are done."""
    rows = [list(step_pairs(1000, steps, spacing, steps_offset=1)) for steps in STEPS]
    x_t = noise.copy()
    for tick in range(max(STEPS)):
        live = np.array([i for i, pairs in enumerate(rows) if tick < len(pairs)])
        t, t_prev = np.array([rows[i][tick] for i in live]).T
        a, b = ddim_coefficients(schedule, prediction_type, t, t_prev)
        prediction = _model(x_t[live], t[:, None, None, None])
        x_t[live] = ddim_step(x_t[live], prediction, a, b)
    return x_t


def _assert_same_samples(scheduler, schedule, prediction_type, spacing):
    noise = np.random.default_rng(0).standard_normal((len(STEPS), 4, 6, 5), dtype=np.float32)
    together = _sample_together(schedule, prediction_type, spacing, noise)
    for i, steps in enumerate(STEPS):
        alone = _sample_alone(scheduler, noise[i : i + 1], steps)
        scale = max(1, np.abs(alone).max())
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("betas", BETAS)
def test_sampling(betas, spacing, prediction_type, set_alpha_to_one):
    scheduler = _scheduler(betas, prediction_type, spacing, set_alpha_to_one=set_alpha_to_one)
    schedule = make_schedule(betas, 1000, *RANGE, False, set_alpha_to_one)
    _assert_same_samples(scheduler, schedule, prediction_type, spacing)


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
def test_sampling_from_zero_terminal_snr(betas, spacing, set_alpha_to_one):
    scheduler = _scheduler(
        betas, "v", spacing, zero_terminal_snr=True, set_alpha_to_one=set_alpha_to_one
    )
    schedule = make_schedule(betas, 1000, *RANGE, True, set_alpha_to_one)
    _assert_same_samples(scheduler, schedule, "v", spacing)


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize(
    ("prediction_type", "spacing"),
    # Epsilon says nothing about x_0 at zero SNR, which only leading spacing does not visit.
    [("epsilon", "leading"), *itertools.product(("v", "sample"), SPACINGS)],
)
@pytest.mark.parametrize("betas", BETAS)
def test_sampling_from_zero_terminal_snr_with_exact_noise_levels(
    betas, prediction_type, spacing, set_alpha_to_one
):
    # The rescaling in float32 leaves 1 - alpha_bar near t = 0 wrong by up to 0.3 % (and by another
    # amount on another machine), which some combinations magnify beyond 1e-5. `test_schedules`
    # compares the levels; here theirs are replaced to compare the steps.
    scheduler = _scheduler(betas, prediction_type, spacing, zero_terminal_snr=True)
    schedule = make_schedule(betas, 1000, *RANGE, True, set_alpha_to_one)
    scheduler.alphas_cumprod = torch.from_numpy(schedule.alpha_bar)
    scheduler.final_alpha_cumprod = torch.tensor(schedule.final_alpha_bar, dtype=torch.float64)
    _assert_same_samples(scheduler, schedule, prediction_type, spacing)


def _members(count, noise, seed=0):
    """Depth maps of one scene, each with its own scale, shift, smooth error and pixel noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:48, 0:64] / 48
    scene = 0.5 * y + 0.2 * np.sin(5 * x) + 0.3 * x * y
    blocks = rng.standard_normal((count, 6, 8)).repeat(8, axis=1).repeat(8, axis=2)
    distorted = [scene * rng.uniform(0.6, 1.2) + rng.uniform(-0.2, 0.2) for _ in range(count)]
    pixels = rng.standard_normal((count, 48, 64))
    return (np.stack(distorted) + noise * (blocks + 0.2 * pixels)).astype(np.float32)


@contextlib.contextmanager
def _float64():
    """Let `ensemble_depth` keep float64, which it casts to `torch.float32`.

    In float32 most of its finite differences, of step 1.5e-8, are rounding: turning the very same
    members upside down moves its answer by up to 0.05, so there is no float32 answer to equal.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        yield


def _ensemble_depth(members, reduction="median"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        depth, uncertainty = MarigoldDepthPipeline.ensemble_depth(
            torch.from_numpy(members)[:, None], output_uncertainty=True, reduction=reduction
        )
    assert uncertainty is not None
    return depth[0, 0].numpy(), uncertainty[0, 0].numpy()


@pytest.mark.parametrize("noise", [0, 0.001, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 10])
def test_aligned_reduction(count, noise):
    for seed in range(3):
        members = _members(count, noise, seed)
        ours = reduce_members(members, "aligned")
        with _float64():
            depth, uncertainty = _ensemble_depth(members.astype(np.float64))
        np.testing.assert_allclose(ours.prediction, depth, rtol=0, atol=1e-3)
        np.testing.assert_allclose(ours.uncertainty, uncertainty, rtol=0, atol=1e-3)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10])
def test_aligned_reduction_in_their_precision(count):
    members = _members(count, noise=0.0002)
    ours = reduce_members(members, "aligned")
    depth, uncertainty = _ensemble_depth(members)
    np.testing.assert_allclose(ours.prediction, depth, rtol=0, atol=1e-3)
    np.testing.assert_allclose(ours.uncertainty, uncertainty, rtol=0, atol=1e-3)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_median_and_mean_are_torchs(count):
    members = _members(count, noise=0.1)
    values = torch.from_numpy(members)
    median = values.median(dim=0).values
    ours = reduce_members(members, "median")
    np.testing.assert_array_equal(ours.prediction, median)
    np.testing.assert_array_equal(ours.uncertainty, (values - median).abs().median(dim=0).values)
    ours = reduce_members(members, "mean")
    np.testing.assert_allclose(ours.prediction, values.mean(dim=0), atol=1e-6)
    np.testing.assert_allclose(ours.uncertainty, values.std(dim=0), atol=1e-6)
