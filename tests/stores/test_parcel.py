"""Fields and files survive the way through a store, and nothing else is taken for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs.parcel import Parcel, fingerprint, pack, unpack

NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
PARCELS = st.builds(
    Parcel,
    st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=20), max_size=4),
    st.dictionaries(NAMES, st.binary(max_size=50), max_size=3),
)


@given(PARCELS)
def test_unpacking_gives_what_was_packed(parcel):
    assert unpack(pack(parcel)) == parcel


@given(PARCELS, PARCELS)
def test_fingerprints_are_equal_where_parcels_are(one, other):
    assert (fingerprint(pack(one)) == fingerprint(pack(other))) == (one == other)


def test_the_order_of_names_makes_no_difference():
    assert pack(Parcel({"a": "1", "b": "2"}, {"x": b"1", "y": b"2"})) == pack(
        Parcel({"b": "2", "a": "1"}, {"y": b"2", "x": b"1"})
    )


@given(PARCELS, st.data())
def test_damage_is_a_value_error_or_another_parcel(parcel, data):
    packed = bytearray(pack(parcel))
    where = data.draw(st.integers(0, len(packed) - 1))
    packed[where] ^= data.draw(st.integers(1, 255))
    try:
        damaged = unpack(bytes(packed))
    except ValueError:
        return
    assert damaged != parcel


@given(PARCELS, st.integers(min_value=1))
def test_a_part_of_a_parcel_is_none(parcel, missing):
    packed = pack(parcel)
    with pytest.raises(ValueError, match="parcel"):
        unpack(packed[: max(0, len(packed) - missing)])


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"null",
        b"{}",
        b'{"fields": [], "files": []}',
        b'{"fields": {}, "files": [1]}',
        b'{"fields": {}, "files": [["x", -1], ["y", 1]]}',
        b'{"fields": {}, "files": [["x", 1e400]]}',
        b"[" * 100_000,
    ],
)
def test_headers_that_are_none(header):
    with pytest.raises(ValueError, match="parcel"):
        unpack(b"PCL1" + len(header).to_bytes(4, "big") + header)
