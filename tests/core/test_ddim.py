import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.ddim import ddim_coefficients, ddim_step
from service.core.schedule import make_schedule, step_pairs

PREDICTION_TYPES = ("epsilon", "v", "sample")


def _noised(schedule, x_0, eps, t):
    alpha_bar = schedule.alpha_bar[t] if t >= 0 else schedule.final_alpha_bar
    return (np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * eps).astype(np.float32)


def _perfect_prediction(schedule, prediction_type, x_0, eps, t):
    signal, noise = np.sqrt(schedule.alpha_bar[t]), np.sqrt(1 - schedule.alpha_bar[t])
    target = {"epsilon": eps, "sample": x_0, "v": signal * eps - noise * x_0}[prediction_type]
    return target.astype(np.float32)


@given(
    prediction_type=st.sampled_from(PREDICTION_TYPES),
    t=st.integers(0, 999),
    stride=st.integers(1, 1000),
    set_alpha_to_one=st.booleans(),
)
def test_a_perfect_prediction_moves_along_the_true_trajectory(
    prediction_type, t, stride, set_alpha_to_one
):
    schedule = make_schedule("scaled_linear", 1000, 0.00085, 0.012, False, set_alpha_to_one)
    x_0, eps = np.random.default_rng(t).standard_normal((2, 1, 4, 3, 5))
    a, b = ddim_coefficients(schedule, prediction_type, np.array([t]), np.array([t - stride]))
    prediction = _perfect_prediction(schedule, prediction_type, x_0, eps, t)
    x_prev = ddim_step(_noised(schedule, x_0, eps, t), prediction, a, b)
    np.testing.assert_allclose(x_prev, _noised(schedule, x_0, eps, t - stride), atol=2e-5)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_row_moves_as_it_would_alone(prediction_type):
    schedule = make_schedule("cosine")
    rng = np.random.default_rng(0)
    x_t, prediction = rng.standard_normal((2, 16, 4, 8, 8), dtype=np.float32)
    t = rng.integers(0, 1000, 16)
    t_prev = t - rng.integers(1, 1000, 16)
    a, b = ddim_coefficients(schedule, prediction_type, t, t_prev)
    together = ddim_step(x_t, prediction, a, b)
    for i in range(16):
        row = slice(i, i + 1)
        alone = ddim_step(
            x_t[row],
            prediction[row],
            *ddim_coefficients(schedule, prediction_type, t[row], t_prev[row]),
        )
        np.testing.assert_array_equal(together[row], alone)


def test_the_last_step_of_v_prediction_returns_x_0():
    schedule = make_schedule("linear", zero_terminal_snr=True)
    ((t, t_prev),) = step_pairs(1000, 1, "trailing")
    a, b = ddim_coefficients(schedule, "v", np.array([t]), np.array([t_prev]))
    # At zero SNR x_t is noise alone, so v = -x_0 and x_t has no say.
    assert (a.item(), b.item()) == (0, -1)


def test_epsilon_cannot_start_from_pure_noise():
    schedule = make_schedule("linear", zero_terminal_snr=True)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        ddim_coefficients(schedule, "epsilon", np.array([5, 999]), np.array([4, 500]))


@pytest.mark.parametrize(("t", "t_prev"), [(1000, 5), (-1, -2), (5, 1000)])
def test_timesteps_outside_the_schedule_are_refused(t, t_prev):
    with pytest.raises(ValueError, match="timesteps"):
        ddim_coefficients(make_schedule("linear"), "v", np.array([t]), np.array([t_prev]))
