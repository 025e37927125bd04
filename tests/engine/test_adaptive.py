"""When an ensemble stops growing: the estimate is what the mean really moves by."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.adaptive import ROUNDS, estimated_change, next_round


def members(number: int, side: int = 24, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (0.3 + spread * generator.normal(size=(number, side, side))).astype(np.float32)


@settings(deadline=None)
@given(st.integers(1, 20))
def test_rounds_grow_to_the_most_and_end_there(most: int):
    sizes = [next_round(0, most)]
    while sizes[-1] < most:
        sizes.append(next_round(sizes[-1], most))
        assert sizes[-1] > sizes[-2]
    assert sizes[-1] == most
    assert sizes[:-1] == [size for size in ROUNDS if size < most]
    assert next_round(most, most) == most


@settings(deadline=None)
@given(st.integers(1, 20), st.data())
def test_any_number_of_members_has_a_next_round(most: int, data: st.DataObject):
    count = data.draw(st.integers(0, most - 1))
    assert count < next_round(count, most) <= most


@pytest.mark.parametrize(("count", "most"), [(-1, 5), (6, 5), (0, 0), (0, 21)])
def test_rounds_outside_the_range_are_refused(count: int, most: int):
    with pytest.raises(ValueError, match="no round follows"):
        next_round(count, most)


@pytest.mark.parametrize("num_members", [2, 4, 8])
@pytest.mark.parametrize("next_members", [9, 20])
def test_it_is_what_the_mean_of_gaussian_members_moves_by(num_members: int, next_members: int):
    moved, estimated = [], []
    for seed in range(20):
        drawn = members(next_members, seed=seed)
        change = drawn.mean(axis=0) - drawn[:num_members].mean(axis=0)
        moved.append(np.mean(change**2))
        estimated.append(estimated_change({"u": drawn[:num_members]}, next_members) ** 2)
    assert np.mean(estimated) == pytest.approx(np.mean(moved), rel=0.1)
    expected = 0.1**2 * (1 / num_members - 1 / next_members)
    assert np.mean(estimated) == pytest.approx(expected, rel=0.1)


def test_it_falls_with_the_root_of_the_members():
    drawn = members(20, side=64)
    changes = [estimated_change({"u": drawn[:n]}, 2 * n) for n in (2, 4, 8)]
    for change, later in pairwise(changes):
        assert later / change == pytest.approx(1 / math.sqrt(2), rel=0.05)


@settings(deadline=None)
@given(st.permutations(range(7)), st.integers(7, 20))
def test_the_order_of_members_does_not_matter(order: list[int], next_members: int):
    fields = {"u": members(7), "v": members(7, seed=1)}
    shuffled = {name: field[order] for name, field in fields.items()}
    expected = estimated_change(fields, next_members)
    assert estimated_change(shuffled, next_members) == pytest.approx(expected, rel=1e-9)


def test_fields_count_alike():
    quiet, loud = members(5, spread=0.0), members(5)
    alone = estimated_change({"v": loud}, 8)
    assert estimated_change({"u": quiet}, 8) == pytest.approx(0, abs=1e-9)
    assert estimated_change({"u": quiet, "v": loud}, 8) == pytest.approx(alone / math.sqrt(2))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 64), (65, 300), (480, 3)])
def test_a_sample_stands_for_the_picture(height: int, width: int):
    offsets = np.array([-1, 0, 1], np.float32)[:, None, None]  # equal spread at every pixel
    field = offsets + np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)
    expected = math.sqrt(1 / 3 - 1 / 4)
    assert estimated_change({"depth": field}, 4) == pytest.approx(expected, rel=1e-6)


def test_one_member_says_nothing():
    assert estimated_change({"u": members(1)}, 2) == math.inf


def test_nothing_moves_without_more_members():
    assert estimated_change({"u": members(5)}, 5) == 0


@pytest.mark.parametrize(
    ("fields", "next_members", "message"),
    [
        ({}, 2, "equally many"),
        ({"u": members(3), "v": members(2)}, 4, "equally many"),
        ({"u": members(3)}, 2, "do not follow"),
        ({"u": members(3)[:0]}, 2, "do not follow"),
    ],
)
def test_members_that_do_not_fit_are_refused(
    fields: dict[str, np.ndarray], next_members: int, message: str
):
    with pytest.raises(ValueError, match=message):
        estimated_change(fields, next_members)
