"""Colours mean what they say: warm is near, hue is direction, tints mark the object."""

import numpy as np
import pytest

from service.api.colors import (
    color_flow,
    color_normals,
    flow_scale_px,
    flow_wheel,
    near_warm_table,
    overlay_object,
)
from tests.support.pictures import sphere


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB in 0..255."""
    unit = rgb / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_depth_colours_are_perceptual_and_warm_near():
    table = near_warm_table()
    light = lightness(table.astype(float))
    steps = -np.diff(light)
    assert (steps > -0.2).all()  # rounding to a byte may stall, never turn back
    assert light[0] > 95
    assert light[-1] < 5
    sections = np.diff(light[::32])
    assert sections.max() / sections.min() == pytest.approx(1, abs=0.6)  # the same everywhere
    near, far = table[16:96].astype(int), table[160:].astype(int)
    assert (near[:, 0] > near[:, 2]).all()
    assert far[:, 2].sum() > far[:, 1].sum()


def test_depth_colours_match_inferno():
    """Known entries of matplotlib's table, from its far (dark) end."""
    inferno = {0: (0, 0, 4), 64: (87, 16, 110), 128: (188, 55, 84), 192: (249, 142, 9)}
    table = near_warm_table()
    for entry, colour in inferno.items():
        assert np.abs(table[255 - entry].astype(int) - colour).max() <= 8


def test_wheel_has_55_colours_and_the_published_ones():
    wheel = np.round(flow_wheel() * 255).astype(int)
    assert wheel.shape == (55, 3)
    assert wheel[0].tolist() == [255, 0, 0]
    assert wheel[1].tolist() == [255, 17, 0]
    assert wheel[15].tolist() == [255, 255, 0]
    assert wheel[21].tolist() == [0, 255, 0]
    assert wheel[25].tolist() == [0, 255, 255]
    assert wheel[36].tolist() == [0, 0, 255]
    assert wheel[49].tolist() == [255, 0, 255]


def middlebury(u: float, v: float) -> list[int]:
    """One pixel of the published computeColor, in plain Python."""
    wheel = np.round(flow_wheel() * 255)
    radius = np.hypot(u, v)
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * 54
    below = int(np.floor(place))
    above = (below + 1) % 55
    pixel = []
    for channel in range(3):
        colour = (1 - (place - below)) * wheel[below, channel] / 255
        colour += (place - below) * wheel[above, channel] / 255
        colour = 1 - radius * (1 - colour) if radius <= 1 else colour * 0.75
        pixel.append(int(np.floor(255 * colour)))
    return pixel


def test_flow_colours_equal_the_published_code():
    rng = np.random.default_rng(0)
    flow = rng.uniform(-1.2, 1.2, (2, 20, 20)).astype(np.float32)
    painted = color_flow(flow * 8, 8.0)
    for y in range(20):
        for x in range(20):
            want = middlebury(*flow[:, y, x].astype(float))
            assert np.abs(painted[y, x].astype(int) - want).max() <= 1


def test_no_motion_is_white():
    still = np.zeros((2, 16, 16), np.float32)
    assert flow_scale_px(still) > 0
    assert (color_flow(still, flow_scale_px(still)) == 255).all()


def test_flow_scale_ignores_a_few_outliers():
    flow = np.full((2, 100, 100), 3, np.float32)
    flow[:, 0, :50] = 1000
    assert flow_scale_px(flow) == pytest.approx(np.hypot(3, 3), rel=1e-5)


def test_overlay_touches_the_object_only():
    picture = np.full((20, 20, 3), 100, np.uint8)
    visible = np.zeros((20, 20), bool)
    visible[5:10, 5:10] = True
    whole = visible.copy()
    whole[5:10, 10:15] = True
    painted = overlay_object(picture, whole, visible).astype(int)
    assert (painted[~whole] == 100).all()
    assert painted[6, 6, 2] > painted[6, 6, 0]  # blue where visible
    assert painted[6, 12, 0] > painted[6, 12, 2]  # orange where completed


def test_normals_are_painted_as_they_point():
    ball = sphere(96, 80, radius=30)
    painted = color_normals(ball)
    assert painted.dtype == np.uint8
    assert painted.shape == (80, 96, 3)
    assert painted[2, 2].tolist() == [128, 128, 255]  # the wall, light blue
    assert painted[40, 48].tolist() == pytest.approx([130, 126, 255], abs=1)
    assert painted[40, 76].tolist() == pytest.approx([248, 126, 168], abs=1)  # right: pink
    assert painted[40, 19].tolist() == pytest.approx([6, 126, 166], abs=1)
    assert painted[11, 48].tolist() == pytest.approx([130, 248, 167], abs=3)  # up: green
    assert painted[68, 48].tolist() == pytest.approx([130, 7, 167], abs=3)
    np.testing.assert_allclose(painted / 127.5 - 1, ball.transpose(1, 2, 0), atol=0.5 / 127 + 1e-6)
