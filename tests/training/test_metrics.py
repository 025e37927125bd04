"""Error measures against known values."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from training.metrics import (
    DepthScore,
    FlowScore,
    convex_hull,
    gradient_baseline,
    iou,
    mean_amodal,
    mean_depth,
    mean_flow,
    score_amodal,
    score_depth,
    score_flow,
)
from training.metrics.depth import fit_affine, thin

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


def marigold(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """The measures as Marigold's release writes them, in torch on whole maps."""
    output, target, mask = (torch.from_numpy(a.copy()) for a in (prediction, truth, valid))
    n = mask.sum()

    def mean(values: torch.Tensor) -> torch.Tensor:
        values = values.clone()
        values[~mask] = 0
        return values.sum() / n

    log = output.log() - target.log()
    ratio = torch.max(output / target, target / output)
    inner = ((log**2)[mask].sum() / n) - (log[mask].sum() ** 2) / n**2
    return {
        "abs_rel": float(mean((output - target).abs() / target)),
        "sq_rel": float(mean((output - target) ** 2 / target)),
        "rmse": float(mean((output - target) ** 2).sqrt()),
        "rmse_log": float(mean(log**2).sqrt()),
        "log10": float((output.log10() - target.log10()).abs()[mask].mean()),
        **{f"delta{i}": float(mean((ratio < 1.25**i).double())) for i in (1, 2, 3)},
        "i_rmse": float(mean((1 / output - 1 / target) ** 2).sqrt()),
        "si_log": float(inner.sqrt() * 100),
    }


def test_depth_measures_are_those_of_the_published_code():
    random = np.random.default_rng(5)
    truth = random.uniform(0.5, 30, (24, 40))
    prediction = np.log(truth) + random.normal(0, 0.3, truth.shape)
    valid = random.random(truth.shape) > 0.3
    limits = (1.0, 18.0)
    columns = np.stack([prediction[valid], np.ones(valid.sum())], axis=1)
    scale, shift = np.linalg.solve(columns.T @ columns, columns.T @ truth[valid])
    fitted = np.clip(scale * prediction + shift, *limits)
    assert (fitted == 1).any()
    assert (fitted == 18).any()
    score = score_depth(prediction.astype(np.float32), truth.astype(np.float32), valid, limits)
    expected = marigold(fitted, truth, valid)
    assert asdict(score) == pytest.approx(expected, rel=1e-4)
    assert 0.1 < score.abs_rel < 1
    assert 0.2 < score.delta1 < score.delta2 < score.delta3 < 1


def test_depth_measures_of_two_known_pixels():
    truth = np.array([[1.0, 3.0]], dtype=np.float32)
    score = score_depth(np.ones_like(truth), truth, truth > 0)  # fitted to 2 and 2
    assert score.sq_rel == pytest.approx((1 + 1 / 3) / 2)
    assert score.rmse == pytest.approx(1)
    logs = np.log([2, 2 / 3])
    assert score.rmse_log == pytest.approx(np.sqrt(np.mean(logs**2)))
    assert score.log10 == pytest.approx(np.mean(np.abs(logs)) / np.log(10))
    assert score.i_rmse == pytest.approx(np.sqrt((0.25 + (1 / 6) ** 2) / 2))
    assert score.si_log == pytest.approx(100 * np.std(logs))
    assert (score.delta1, score.delta2, score.delta3) == (0, 0.5, 0.5)  # factors 2 and 1.5


def test_a_negative_fit_is_clipped_to_a_positive_depth():
    truth = np.array([[0.1, 0.1, 0.1, 5.0]], dtype=np.float32)
    prediction = np.array([[0.0, 1.0, 2.0, 2.1]], dtype=np.float32)
    score = score_depth(prediction, truth, truth > 0)
    assert np.isfinite(list(asdict(score).values())).all()
    assert score.i_rmse > 1e5  # 1 / 1e-6


def test_large_maps_are_fitted_on_the_columns_that_torch_would_keep():
    rows, columns = 40, 60
    kept = thin((rows, columns), 18)
    numbers = torch.arange(columns, dtype=torch.float32).expand(1, rows, columns)
    left = torch.nn.Upsample(scale_factor=18 / 60, mode="nearest")(numbers)
    np.testing.assert_array_equal(np.flatnonzero(kept.all(axis=0)), left[0, 0].numpy())
    assert kept.sum() == left.numel()
    assert thin((rows, columns), 60).all()
    random = np.random.default_rng(0)
    truth = random.uniform(4, 9, (rows, columns)).astype(np.float32)
    prediction = truth + random.normal(0, 1, truth.shape).astype(np.float32)
    scale, shift = fit_affine(prediction[kept], truth[kept])
    score = score_depth(prediction, truth, truth > 0, fit_side=18)
    assert score.rmse == pytest.approx(np.sqrt(np.mean((scale * prediction + shift - truth) ** 2)))
    assert score.rmse > score_depth(prediction, truth, truth > 0).rmse


def test_depth_means_are_over_pictures():
    scores = [DepthScore(*range(i, i + 10)) for i in (0, 4)]
    assert mean_depth(scores)["abs_rel"] == 2
    assert mean_depth(scores)["si_log"] == 11


def test_flow_is_fitted_per_component():
    random = np.random.default_rng(1)
    truth = random.normal(0, 9, (2, 12, 14)).astype(np.float32)
    valid = random.random((12, 14)) > 0.2
    prediction = np.stack([0.1 * truth[0] - 3, -2 * truth[1] + 8]).astype(np.float32)
    prediction[:, ~valid] = 1e5
    score = score_flow(prediction, truth, valid)
    assert score.epe_fitted == pytest.approx(0, abs=1e-5)
    assert score.epe > 5
    assert score.pixels == valid.sum()
    noisy = prediction + random.normal(0, 1, truth.shape).astype(np.float32)
    errors = []
    for given, known in zip(noisy[:, valid], truth[:, valid], strict=True):
        slope, offset = np.polyfit(given, known, 1)
        errors.append(slope * given + offset - known)
    fitted = score_flow(noisy, truth, valid).epe_fitted
    assert fitted == pytest.approx(np.hypot(*errors).mean(), rel=1e-5)


def test_shares_within_pixels():
    wrong = np.zeros((2, 1, 5), dtype=np.float32)
    wrong[1, 0] = [0.5, 1, 2, 4, 6]
    score = score_flow(wrong, np.zeros_like(wrong), np.ones((1, 5), dtype=bool))
    assert (score.within_1px, score.within_3px, score.within_5px) == (0.2, 0.6, 0.8)
    assert score.fl_all == pytest.approx(0.4)


def test_flow_means_are_over_pictures_or_over_pixels():
    small = FlowScore(1, 10, 0.5, 0, 0, 0, pixels=1)
    large = FlowScore(5, 50, 0.1, 0, 0, 1, pixels=3)
    pictures, pixels = (mean_flow([small, large], a) for a in ("samples", "pixels"))
    assert (pictures["epe"], pictures["epe_fitted"]) == (3, 30)
    assert (pixels["epe"], pixels["epe_fitted"]) == (4, 40)
    for means in (pictures, pixels):  # shares are of all pixels in either case
        assert means["fl_all"] == pytest.approx(0.2)
        assert means["within_5px"] == 0.75
        assert means["pixels"] == 4


def test_amodal_overlap_has_two_means_and_a_hidden_part():
    line = np.arange(100)[None]
    small = score_amodal(line < 4, line < 2, line < 8)
    assert small.iou == 0.5
    assert small.hidden_iou == pytest.approx(2 / 6)
    large = score_amodal(line < 90, line < 40, line < 90)
    assert (large.iou, large.hidden_iou) == (1, 1)
    nothing_hidden = score_amodal(line < 10, line < 5, line < 5)
    assert nothing_hidden.iou == 0.5
    assert np.isnan(nothing_hidden.hidden_iou)
    means = mean_amodal([small, large, nothing_hidden])
    assert means["miou"] == pytest.approx(2 / 3)
    assert means["miou_summed"] == pytest.approx((4 + 90 + 5) / (8 + 90 + 10))
    assert means["hidden_miou"] == pytest.approx((1 / 3 + 1) / 2)
    assert means["hidden_miou_summed"] == pytest.approx((2 + 50 + 0) / (6 + 50 + 5))
    assert np.isnan(mean_amodal([nothing_hidden])["hidden_miou"])
