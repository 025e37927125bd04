"""Error measures against known values."""

import numpy as np
import pytest

from training.metrics import convex_hull, gradient_baseline, iou, score_depth, score_flow

ALL = np.ones((8, 10), dtype=bool)


def depth_map(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 9, (8, 10)).astype(np.float32)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (0.01, 7), (-3, 2), (250, -40)])
def test_depth_is_scored_up_to_scale_and_shift(scale: float, shift: float):
    truth, prediction = depth_map(), depth_map(1)
    perfect = score_depth((scale * truth + shift).astype(np.float32), truth, ALL)
    assert perfect.abs_rel == pytest.approx(0, abs=1e-4)
    assert perfect.delta1 == 1
    plain = score_depth(prediction, truth, ALL)
    moved = score_depth((scale * prediction + shift).astype(np.float32), truth, ALL)
    assert moved.abs_rel == pytest.approx(plain.abs_rel, rel=1e-3)
    assert moved.delta1 == pytest.approx(plain.delta1)


def test_a_constant_depth_is_fitted_by_the_mean():
    truth = np.array([[1.0, 3.0]], dtype=np.float32)
    score = score_depth(np.ones_like(truth), truth, np.ones((1, 2), dtype=bool))
    assert score.abs_rel == pytest.approx((1 / 1 + 1 / 3) / 2)
    assert score.delta1 == 0


def test_depth_is_fitted_and_scored_where_it_is_known():
    truth, prediction = depth_map(), depth_map()
    prediction[:, 5:] = 1e4
    valid = ALL.copy()
    valid[:, 5:] = False
    assert score_depth(prediction, truth, valid).abs_rel == pytest.approx(0, abs=1e-5)


def test_within_a_factor_of_five_quarters():
    truth = np.full((1, 1000), 2.0, dtype=np.float32)
    truth[0, :200] = 10  # a fit to a constant is 3.6: 0.36 and 1.8 times the truth
    score = score_depth(np.ones_like(truth), truth, truth > 0)
    assert score.abs_rel == pytest.approx(0.2 * 0.64 + 0.8 * 0.8)
    assert score.delta1 == 0


def test_flow_errors():
    truth = np.zeros((2, 1, 5), dtype=np.float32)
    truth[0] = [0, 0, 100, 100, 0]
    wrong = truth.copy()
    wrong[:, 0, 0] = 3, 4  # 5 px of 0: wrong
    wrong[0, 0, 1] = 2  # 2 px: right
    wrong[1, 0, 2] = 4  # 4 px of 100: within 5 %
    wrong[1, 0, 3] = 6  # 6 px of 100: wrong
    wrong[0, 0, 4] = 1e6  # unknown
    score = score_flow(wrong, truth, np.array([[True, True, True, True, False]]))
    assert score.epe == pytest.approx((5 + 2 + 4 + 6) / 4)
    assert score.fl_all == pytest.approx(2 / 4)


def test_intersection_over_union():
    first, second = np.zeros((2, 4, 4), dtype=bool)
    assert iou(first, second) == 1
    first[:2], second[1:3] = True, True
    assert iou(first, second) == pytest.approx(4 / 12)
    assert iou(first, ~first) == 0


def test_the_hull_of_an_l_is_its_triangle():
    mask = np.zeros((12, 12), dtype=bool)
    mask[2:10, 2] = True
    mask[9, 2:10] = True
    hull = convex_hull(mask)
    rows, columns = np.indices(mask.shape)
    expected = (columns >= 2) & (rows <= 9) & (rows >= columns)
    np.testing.assert_array_equal(hull, expected)


def test_a_hull_contains_its_mask_and_is_convex():
    mask = np.random.default_rng(3).random((20, 20)) > 0.95
    hull = convex_hull(mask)
    assert hull[mask].all()
    np.testing.assert_array_equal(convex_hull(hull), hull)


@pytest.mark.parametrize("points", [[], [(3, 3)], [(1, 1), (4, 4)], [(2, 1), (2, 4), (2, 7)]])
def test_what_spans_no_area_is_its_own_hull(points: list[tuple[int, int]]):
    mask = np.zeros((8, 8), dtype=bool)
    for point in points:
        mask[point] = True
    np.testing.assert_array_equal(convex_hull(mask), mask)


def test_the_gradient_is_far_above_and_near_below():
    baseline = gradient_baseline((5, 3))
    assert baseline.shape == (5, 3)
    assert baseline[:, 1].tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert baseline.dtype == np.float32
