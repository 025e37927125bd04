"""How inputs and latents are measured out for pictures of any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.record import ArtifactError
from service.core.sizes import FixedGrid, FixedSize, InputGrid, LongestEdge

SIDES = st.integers(1, 9000)


@given(SIDES, SIDES, st.integers(1, 1000), st.integers(1, 64))
def test_a_shape_is_kept_and_padded_to_whole_multiples(height, width, edge, multiple):
    rule = LongestEdge(edge, multiple)
    fit = rule.fit((height, width))
    assert max(fit.content) == edge
    short, longest = min(height, width), max(height, width)
    assert min(fit.content) == max(1, short * edge // longest)
    for content, padded in zip(fit.content, fit.padded, strict=True):
        assert padded % multiple == 0
        assert 0 <= padded - content < multiple
    assert rule.takes(fit.padded)
    assert not rule.takes((fit.padded[0] + multiple, max(fit.padded) + multiple))


def test_a_photograph_is_the_example():
    assert LongestEdge(768, 8).example == (576, 768)
    assert LongestEdge(768, 8).fit((1080, 1920)).padded == (432, 768)
    assert LongestEdge(100, 8).fit((1, 9000)).content == (1, 100)


def test_a_fixed_size_takes_every_picture_and_no_other_input():
    rule = FixedSize(64, 96)
    assert rule.fit((3, 5000)).padded == rule.fit((3, 5000)).content == rule.example == (64, 96)
    assert rule.takes((64, 96))
    assert not rule.takes((96, 64))


def test_latents_are_fixed_or_follow_the_input():
    assert FixedGrid(16, 16).of((192, 192)) == (16, 16)
    assert InputGrid(8).of((432, 768)) == (54, 96)


@pytest.mark.parametrize(
    "make", [lambda: FixedSize(0, 8), lambda: LongestEdge(8, 0), lambda: InputGrid(-1)]
)
def test_sizes_are_positive(make):
    with pytest.raises(ArtifactError, match="must be positive"):
        make()
