"""Matching against slow, obvious loops."""

import math

import pytest
import torch

from training.models.matching import CELL, all_pairs, global_match, local_match, pixel_grid, warp


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_pixel_centres_are_fractions_of_the_picture():
    grid = pixel_grid(2, 4, torch.zeros(1))
    assert grid[0, 0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert grid[1, :, 0].tolist() == [0.25, 0.75]


def test_similarity_is_the_cosine():
    first, second = draw(2, 5, 3, 4), draw(2, 5, 3, 4, seed=1)
    volume = all_pairs(first, second)
    assert volume.shape == (2, 3, 4, 3, 4)
    a, b = first[1, :, 2, 0], second[1, :, 1, 3]
    expected = float(a @ b / a.norm() / b.norm())
    assert float(volume[1, 2, 0, 1, 3]) == pytest.approx(expected, abs=1e-5)


def test_similarity_stays_in_single_precision():
    features = draw(1, 4, 2, 2).bfloat16()
    assert all_pairs(features, features).dtype == torch.float32


@pytest.mark.parametrize("nearness", [0.0, 0.3])
def test_global_matching_is_the_expected_displacement(nearness: float):
    height, width, temperature = 3, 4, 5.0
    volume = draw(1, height, width, height, width)
    flow, best = global_match(volume, torch.tensor(temperature), torch.tensor(nearness))
    assert flow.shape == (1, 2, height, width)
    assert best.shape == (1, 1, height, width)
    for y in range(height):
        for x in range(width):
            weights = {}
            for v in range(height):
                for u in range(width):
                    dx, dy = (u - x) / width, (v - y) / height
                    distance = (dx**2 + dy**2) / CELL**2
                    logit = temperature * float(volume[0, y, x, v, u]) - nearness * distance
                    weights[dx, dy] = math.exp(logit)
            total = sum(weights.values())
            expected = [sum(w * d[axis] for d, w in weights.items()) / total for axis in (0, 1)]
            assert flow[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)
            assert float(best[0, 0, y, x]) == pytest.approx(max(weights.values()) / total, abs=1e-5)


def test_global_matching_finds_a_shifted_picture():
    features = draw(1, 32, 8, 8)
    moved = features.roll((1, 2), dims=(2, 3))  # one cell down, two to the right
    volume = all_pairs(features, moved)
    flow, best = global_match(volume, torch.tensor(60.0), torch.tensor(0.0))
    inside = flow[0, :, :-1, :-2]
    torch.testing.assert_close(inside[0], torch.full_like(inside[0], 2 / 8), rtol=0, atol=1e-3)
    torch.testing.assert_close(inside[1], torch.full_like(inside[1], 1 / 8), rtol=0, atol=1e-3)
    assert best[0, 0, :-1, :-2].min() > 0.99


def test_without_evidence_nothing_moves_in_the_middle():
    volume = torch.zeros(1, 9, 9, 9, 9)
    flow, _ = global_match(volume, torch.tensor(15.0), torch.tensor(0.05))
    assert flow[0, :, 4, 4].abs().max() < 1e-6


def test_local_matching_looks_around_where_the_flow_points():
    height, width, radius = 5, 6, 2
    volume = draw(2, height, width, height, width)
    cells = torch.randint(-3, 4, (2, 2, height, width), generator=torch.Generator().manual_seed(1))
    flow = cells / torch.tensor([width, height])[:, None, None]  # whole cells: nothing to blend
    found = local_match(volume, flow, radius)
    assert found.shape == (2, 25, height, width)
    for b in range(2):
        for y in range(height):
            for x in range(width):
                expected = []
                for dy in range(-radius, radius + 1):
                    for dx in range(-radius, radius + 1):
                        u, v = x + int(cells[b, 0, y, x]) + dx, y + int(cells[b, 1, y, x]) + dy
                        inside = 0 <= u < width and 0 <= v < height
                        expected.append(float(volume[b, y, x, v, u]) if inside else 0.0)
                assert found[b, :, y, x].tolist() == pytest.approx(expected, abs=1e-4)


def test_local_matching_blends_between_cells():
    volume = torch.zeros(1, 1, 4, 1, 4)
    volume[0, 0, :, 0] = torch.arange(4.0)
    flow = torch.zeros(1, 2, 1, 4)
    flow[:, 0] = 0.25 / 4  # a quarter of a cell to the right
    found = local_match(volume, flow, 0)
    torch.testing.assert_close(found[0, 0, 0, :3], torch.tensor([0.25, 1.25, 2.25]))


def test_warping_looks_up_where_the_flow_points():
    height, width = 4, 6
    features = draw(1, 3, height, width)
    flow = torch.zeros(1, 2, height, width)
    flow[:, 0], flow[:, 1] = 2 / width, -1 / height
    warped = warp(features, flow)
    for y in range(height):
        for x in range(width):
            v, u = max(y - 1, 0), min(x + 2, width - 1)  # beyond the border, the border
            torch.testing.assert_close(warped[0, :, y, x], features[0, :, v, u])


def test_warping_the_second_frame_gives_the_first():
    line = torch.arange(32.0)
    first = torch.sin(line / 5)[None, None, None].expand(1, 1, 32, 32)
    second = torch.sin((line - 1.5) / 5)[None, None, None].expand(1, 1, 32, 32)
    flow = torch.zeros(1, 2, 32, 32)
    flow[:, 0] = 1.5 / 32
    inside = (warp(second, flow) - first)[..., :-3]
    assert inside.abs().max() < 0.01
