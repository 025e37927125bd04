"""Requests check themselves, and trajectories begin where they should."""

from dataclasses import replace

import numpy as np
import pytest

from service.backends.repository import ServedModel
from service.engine.request import Plan, collect_fields, make_run
from service.engine.sampling import draw_noise, make_sampling
from tests.support.requests import make_picture, make_request


@pytest.mark.parametrize(
    ("steps", "members", "seed", "field"),
    [(0, 1, 0, "steps"), (201, 1, 0, "steps"), (1, 21, 0, "members"), (1, 1, 2**64, "seed")],
)
def test_a_plan_out_of_range_is_refused(steps: int, members: int, seed: int, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Plan(steps, members, seed)


def test_a_request_that_does_not_fit_the_model_is_refused(model: ServedModel) -> None:
    depth, flow = make_request(model), make_request(model, "flow")
    with pytest.raises(ValueError, match="image must be"):
        replace(depth, image=make_picture(1, height=32))
    with pytest.raises(ValueError, match="prompt must be"):
        replace(flow, prompt=make_picture(1, width=32))
    with pytest.raises(ValueError, match="prompt does not fit"):
        replace(depth, prompt=make_picture(2))
    with pytest.raises(ValueError, match="prompt does not fit"):
        replace(flow, prompt=None)
    with pytest.raises(ValueError, match="components"):
        replace(flow, components=())
    with pytest.raises(ValueError, match="components"):
        replace(flow, components=flow.components * 2)
    with pytest.raises(ValueError, match="not in"):
        replace(flow, components=depth.components)


def test_noise_is_standard_normal_and_its_own_for_every_key() -> None:
    shape = (4, 32, 32)
    keys = [(seed, member, part) for seed in (0, 1, 2**40) for member in (0, 1) for part in (0, 1)]
    drawn = np.stack([draw_noise(*key, shape) for key in keys])
    assert drawn.dtype == np.float32
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.02)
    correlation = np.corrcoef(drawn.reshape(len(keys), -1))
    assert np.abs(correlation - np.eye(len(keys))).max() < 0.08  # 5 / sqrt(4096)
    np.testing.assert_array_equal(drawn[-1], draw_noise(*keys[-1], shape))


def test_sampling_holds_the_schedule_of_the_checkpoint(model: ServedModel) -> None:
    sampling = make_sampling(model.artifact.schedule, 4)
    assert sampling.timesteps == (999, 749, 499, 249)
    assert len(sampling.a) == len(sampling.b) == 4
    alpha_bar = model.artifact.schedule.build().alpha_bar[249]  # the last step lands on x_0
    assert sampling.a[-1] == pytest.approx(np.sqrt(alpha_bar), rel=1e-6)
    assert sampling.b[-1] == pytest.approx(-np.sqrt(1 - alpha_bar), rel=1e-6)


def test_fields_are_channel_means_with_members_in_order(model: ServedModel) -> None:
    run = make_run(1, make_request(model, "amodal", members=3))
    with pytest.raises(ValueError, match="no image"):
        collect_fields(run)
    for place, row in enumerate(run.trajectories):
        row.image = (
            np.full((3, 64, 64), place, np.float32) + np.arange(3, dtype=np.float32)[:, None, None]
        )
    fields = collect_fields(run)
    assert set(fields) == {"mask", "red", "green", "blue"}
    np.testing.assert_array_equal(fields["mask"][:, 0, 0], [1, 2, 3])
    np.testing.assert_array_equal(fields["blue"][:, 5, 9], [5, 6, 7])
