"""Views of samples: mirrors, crops and squares that keep every answer in its place."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.core.record import ArtifactError
from training.data.augment import AugmentConfig, View, augment, draw_view, see
from training.data.mixture import seeded
from training.data.sample import AmodalTruth, DepthTruth, FlowTruth, Sample

CPU = torch.device("cpu")
HEIGHT, WIDTH, SIZE = 24, 40, 32
WHOLE = View(0, 0, WIDTH, HEIGHT, mirrored=False)
RAMP_X = np.tile(np.arange(WIDTH, dtype=np.float32), (HEIGHT, 1))
RAMP_Y = np.tile(np.arange(HEIGHT, dtype=np.float32)[:, None], (1, WIDTH))


def picture() -> np.ndarray:
    """Red says the column, green the row."""
    blue = np.zeros_like(RAMP_X)
    return np.stack([6 * RAMP_X, 10 * RAMP_Y, blue], axis=2).astype(np.uint8)


def depth_sample() -> Sample:
    valid = RAMP_X > 9
    truth = DepthTruth(np.where(valid, 1 + RAMP_X, 0).astype(np.float32), valid)
    return Sample("depth", (picture(),), truth)


def flow_sample() -> Sample:
    flow = np.stack([np.full_like(RAMP_X, 5.0), np.full_like(RAMP_X, 3.0)])
    occluded = RAMP_X > 30
    truth = FlowTruth(flow, np.ones_like(occluded), occluded)
    return Sample("flow", (picture(), picture()), truth)


def amodal_sample() -> Sample:
    amodal = (RAMP_X > 10) & (RAMP_X < 30) & (RAMP_Y > 4)
    return Sample("amodal", (picture(),), AmodalTruth(amodal & (RAMP_Y > 12), amodal, picture()))


SAMPLES = {"depth": depth_sample, "flow": flow_sample, "amodal": amodal_sample}


def test_the_whole_picture_becomes_a_square_and_motion_scales_with_each_axis():
    seen = see(flow_sample(), WHOLE, SIZE)
    assert isinstance(seen.truth, FlowTruth)
    assert [image.shape for image in seen.images] == [(SIZE, SIZE, 3)] * 2
    np.testing.assert_allclose(seen.truth.flow[0], 5.0 * SIZE / WIDTH, rtol=1e-6)
    np.testing.assert_allclose(seen.truth.flow[1], 3.0 * SIZE / HEIGHT, rtol=1e-6)
    assert seen.truth.valid.all()
    assert seen.truth.occluded is not None
    np.testing.assert_array_equal(seen.truth.occluded[0], np.arange(SIZE) >= 25)


def test_motion_still_leads_from_one_frame_to_the_other():
    """Frames of ramps that move by a known flow, looked at through any view."""
    u, v = 4.0, -2.0
    first = np.stack([3 * RAMP_X, 4 * RAMP_Y, RAMP_X], axis=2) + 40
    second = np.stack([3 * (RAMP_X - u), 4 * (RAMP_Y - v), RAMP_X], axis=2) + 40
    flow = np.stack([np.full_like(RAMP_X, u), np.full_like(RAMP_X, v)])
    images = tuple(frame.astype(np.uint8) for frame in (first, second))
    sample = Sample("pair", images, FlowTruth(flow, np.ones(RAMP_X.shape, dtype=bool)))
    for view in (WHOLE, replace(WHOLE, mirrored=True), View(10, 4, 24, 16, mirrored=True)):
        seen = see(sample, view, SIZE)
        assert isinstance(seen.truth, FlowTruth)
        one, two = (image.astype(float) for image in seen.images)
        across = (one[16, 20, 0] - one[16, 12, 0]) / 8
        down = (one[20, 16, 1] - one[12, 16, 1]) / 8
        # a value found at x in the first frame is at x + u in the second
        assert (one[16, 16, 0] - two[16, 16, 0]) / across == pytest.approx(
            seen.truth.flow[0, 16, 16], abs=0.5
        )
        assert (one[16, 16, 1] - two[16, 16, 1]) / down == pytest.approx(
            seen.truth.flow[1, 16, 16], abs=0.5
        )


@pytest.mark.parametrize("task", SAMPLES)
@pytest.mark.parametrize("view", [WHOLE, View(7, 5, 20, 12, mirrored=False)])
def test_a_mirror_turns_everything_around_and_horizontal_motion_back(task: str, view: View):
    sample = SAMPLES[task]()
    plain, turned = see(sample, view, SIZE), see(sample, replace(view, mirrored=True), SIZE)
    for straight, mirrored in zip(plain.images, turned.images, strict=True):
        np.testing.assert_array_equal(mirrored, straight[:, ::-1])
    for name, straight in vars(plain.truth).items():
        mirrored = getattr(turned.truth, name)
        axis = 1 if name == "whole" else -1
        expected = np.flip(straight, axis)
        if name == "flow":
            expected = expected * np.array([-1, 1], dtype=np.float32)[:, None, None]
        np.testing.assert_array_equal(mirrored, expected)


def test_depth_takes_its_nearest_pixel_and_stays_with_its_picture():
    view = View(4, 2, 32, 16, mirrored=False)
    seen = see(depth_sample(), view, 64)
    assert isinstance(seen.truth, DepthTruth)
    columns = 4 + np.arange(64) // 2
    np.testing.assert_array_equal(seen.truth.valid[0], columns > 9)
    np.testing.assert_array_equal(seen.truth.depth[0], np.where(columns > 9, 1 + columns, 0))
    assert set(np.unique(seen.truth.depth)) <= {0, *range(11, 41)}  # nothing in between
    # the picture is smooth, and in the same place: its red is six times the column
    assert np.abs(seen.images[0][0, :, 0] / 6 - columns).max() <= 1


def test_motion_next_to_the_unknown_is_that_of_what_is_known():
    valid = RAMP_X < 20
    flow = np.where(valid, np.float32(8), np.float32(1e6)) * np.ones((2, 1, 1), np.float32)
    seen = see(Sample("flow", (picture(), picture()), FlowTruth(flow, valid)), WHOLE, SIZE)
    assert isinstance(seen.truth, FlowTruth)
    assert 0.4 < seen.truth.valid.mean() < 0.6
    np.testing.assert_allclose(seen.truth.flow[0][seen.truth.valid], 8 * SIZE / WIDTH, rtol=1e-4)
    assert not seen.truth.flow[:, ~seen.truth.valid].any()


def test_masks_stay_masks_within_each_other():
    seen = see(amodal_sample(), WHOLE, SIZE)
    assert isinstance(seen.truth, AmodalTruth)
    assert seen.truth.amodal.dtype == bool
    assert not (seen.truth.visible & ~seen.truth.amodal).any()
    assert seen.truth.visible.any()
    assert seen.truth.whole is not None
    assert seen.truth.whole.shape == (SIZE, SIZE, 3)


CROPS = AugmentConfig(flip=0.5, crop_area=0.25, crop_stretch=4 / 3)


def test_crops_are_within_the_picture_and_as_large_as_they_should_be():
    truth, areas, ratios, mirrored = flow_sample().truth, [], [], 0
    for index in range(300):
        view = draw_view(truth, CROPS, seeded(CPU, index))
        assert view.left >= 0
        assert view.top >= 0
        assert view.left + view.width <= WIDTH
        assert view.top + view.height <= HEIGHT
        areas.append(view.width * view.height / (WIDTH * HEIGHT))
        ratios.append((view.width / WIDTH) / (view.height / HEIGHT))
        mirrored += view.mirrored
    assert 0.2 < min(areas) < 0.35
    assert max(areas) > 0.85
    assert 0.7 < min(ratios) < 0.9
    assert 1.1 < max(ratios) < 1.45
    assert 110 < mirrored < 190


def test_what_is_to_be_completed_is_not_cut():
    for index in range(20):
        view = draw_view(amodal_sample().truth, CROPS, seeded(CPU, index))
        assert replace(view, mirrored=False) == WHOLE


@pytest.mark.parametrize("task", SAMPLES)
def test_the_same_numbers_make_the_same_view(task: str):
    sample = SAMPLES[task]()
    first, again, other = (augment(sample, SIZE, CROPS, seeded(CPU, key)) for key in (1, 1, 2))
    assert np.array_equal(first.images[0], again.images[0])
    assert not np.array_equal(first.images[0], other.images[0])
    never = AugmentConfig(flip=0.0)
    still = augment(sample, SIZE, never, seeded(CPU, 5))
    assert np.array_equal(still.images[0], see(sample, WHOLE, SIZE).images[0])


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"crop_area": 0.0}, {"crop_stretch": 0.5}])
def test_impossible_settings_are_named(wrong: dict[str, float]):
    with pytest.raises(ArtifactError, match=next(iter(wrong))):
        AugmentConfig(**wrong)
