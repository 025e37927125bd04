"""Resizing keeps units, means and directions."""

import numpy as np
from PIL import Image

from service.api.resample import image_to_input, mask_to_input, resize_maps
from tests.support.pictures import disc, gradient


def test_model_input_range_and_layout():
    corners = np.zeros((64, 128, 3), np.uint8)
    corners[:, 64:, 0] = 255
    values = image_to_input(Image.fromarray(corners), 32, 48)
    assert values.shape == (3, 32, 48)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    assert (values[:, :, 0] == -1).all()
    assert (values[0, :, -1] == 1).all()
    assert (values[1:] == -1).all()


def test_shrinking_averages_over_the_whole_footprint():
    noise = np.random.default_rng(0).integers(0, 2, (512, 512, 1), dtype=np.uint8) * 255
    values = image_to_input(Image.fromarray(np.repeat(noise, 3, -1)), 16, 16)
    assert np.abs(values).max() < 0.15  # nearest or plain bilinear would give values near 1


def test_mask_prompt_is_three_equal_planes_of_minus_one_to_one():
    prompt = mask_to_input(disc(96, 80) > 0, 64, 64)
    assert prompt.shape == (3, 64, 64)
    assert prompt[0, 0, 0] == -1
    assert prompt[0, 32, 32] == 1
    assert (prompt == prompt[0]).all()


def test_maps_keep_linear_ramps():
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32), (1, 64, 64))
    big = resize_maps(ramp, 640, 320)[0]
    centres = (np.arange(320) + 0.5) * 64 / 320 - 0.5
    np.testing.assert_allclose(big[100, 5:-5], centres[5:-5], atol=1e-4)
    assert big.shape == (640, 320)


def test_maps_of_the_right_size_are_untouched_and_leading_axes_stay():
    maps = np.random.default_rng(0).normal(size=(4, 2, 20, 30)).astype(np.float32)
    assert resize_maps(maps, 20, 30) is maps
    big = resize_maps(maps, 41, 59)
    assert big.shape == (4, 2, 41, 59)
    np.testing.assert_array_equal(big[3, 1], resize_maps(maps[3, 1], 41, 59))


def test_maps_can_shrink_below_the_model_size():
    maps = np.random.default_rng(0).normal(size=(1, 256, 256)).astype(np.float32)
    assert np.abs(resize_maps(maps, 16, 16)).max() < 0.5


def test_gradient_picture_survives_a_round_trip():
    picture = gradient(640, 480)
    values = image_to_input(Image.fromarray(picture), 128, 128)
    back = (resize_maps(values, 480, 640) + 1) * 127.5
    assert np.abs(back.transpose(1, 2, 0) - picture).mean() < 6
