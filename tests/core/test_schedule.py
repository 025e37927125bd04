import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.schedule import make_schedule, sampling_timesteps, step_pairs

BETAS = ("linear", "scaled_linear", "cosine")
SPACINGS = ("leading", "trailing", "linspace")


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("betas", BETAS)
def test_noise_grows_at_every_timestep(betas, zero_terminal_snr):
    alpha_bar = make_schedule(betas, zero_terminal_snr=zero_terminal_snr).alpha_bar
    assert alpha_bar.shape == (1000,)
    assert alpha_bar[0] < 1
    assert np.all(np.diff(alpha_bar) < 0)
    assert (alpha_bar[-1] == 0) == zero_terminal_snr


@pytest.mark.parametrize("betas", BETAS)
def test_zero_terminal_snr_keeps_the_first_timestep(betas):
    plain = make_schedule(betas)
    rescaled = make_schedule(betas, zero_terminal_snr=True)
    assert rescaled.alpha_bar[0] == pytest.approx(plain.alpha_bar[0], abs=1e-12)


def test_linear_betas_are_the_textbook_product():
    alpha_bar = make_schedule("linear", num_timesteps=3, beta_start=0.1, beta_end=0.3).alpha_bar
    np.testing.assert_allclose(alpha_bar, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7], rtol=1e-6)


def test_sampling_ends_at_the_image_or_at_the_first_noise_level():
    assert make_schedule("linear").final_alpha_bar == 1
    schedule = make_schedule("linear", set_alpha_to_one=False)
    assert schedule.final_alpha_bar == schedule.alpha_bar[0]


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("leading", [750, 500, 250, 0]),
        ("trailing", [999, 749, 499, 249]),
        ("linspace", [999, 666, 333, 0]),
    ],
)
def test_spacings_of_four_steps(spacing, expected):
    assert sampling_timesteps(1000, 4, spacing).tolist() == expected


def test_one_step_starts_where_the_spacing_says():
    # Leading spacing spends its only step on an almost clean image: the flaw that trailing removes.
    assert step_pairs(1000, 1, "leading", steps_offset=1) == ((1, -999),)
    assert step_pairs(1000, 1, "trailing") == ((999, -1),)


def test_the_offset_moves_leading_timesteps_only():
    assert sampling_timesteps(1000, 2, "leading", 1).tolist() == [501, 1]
    assert sampling_timesteps(1000, 2, "trailing", 1).tolist() == [999, 499]
    assert sampling_timesteps(1000, 2, "linspace", 1).tolist() == [999, 0]


@given(steps=st.integers(1, 200), spacing=st.sampled_from(SPACINGS), offset=st.integers(0, 4))
def test_timesteps_fall_and_stay_inside(steps, spacing, offset):
    timesteps = sampling_timesteps(1000, steps, spacing, offset)
    assert timesteps.shape == (steps,)
    assert np.all(np.diff(timesteps) < 0)
    assert timesteps[0] < 1000
    assert timesteps[-1] >= 0


@given(steps=st.integers(1, 200), spacing=st.sampled_from(SPACINGS))
def test_only_steps_below_one_stride_are_final(steps, spacing):
    pairs = step_pairs(1000, steps, spacing)
    assert all(t - t_prev == 1000 // steps for t, t_prev in pairs)
    assert pairs[-1][1] < 1000 // steps
    assert all(t_prev >= 0 for t, t_prev in pairs if t >= 1000 // steps)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match=r"steps must be in 1\.\.1000"):
        sampling_timesteps(1000, steps, "trailing")


def test_an_offset_past_the_last_timestep_is_refused():
    with pytest.raises(ValueError, match="steps_offset 5"):
        sampling_timesteps(1000, 200, "leading", steps_offset=5)
