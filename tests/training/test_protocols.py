"""Protocols: which pixels are scored, what is cut off before, and that every set has a row."""

import numpy as np
import pytest

from training.data.sample import DataError, DepthTruth, FlowTruth, Sample
from training.data.sets import SETS
from training.protocols import PROTOCOLS, Region
from training.published import ROWS, SOURCES


def depth_sample(height: int, width: int, depth: float = 5.0) -> Sample:
    rows, columns = np.indices((height, width))
    image = np.stack([rows % 256, columns % 256, columns // 256], axis=2).astype(np.uint8)
    truth = np.full((height, width), depth, dtype=np.float32)
    return Sample("a", (image,), DepthTruth(truth, np.ones_like(truth, dtype=bool)))


def scored(name: str, sample: Sample, region: str | None = None) -> np.ndarray:
    prepared = PROTOCOLS[name].prepare(sample)
    assert isinstance(prepared.truth, DepthTruth)
    return PROTOCOLS[name].scored(prepared.truth, region)


def test_every_set_has_a_protocol_that_fits_it():
    assert PROTOCOLS.keys() == SETS.keys()
    for name, protocol in PROTOCOLS.items():
        info = SETS[name]
        assert protocol.task == info.task
        assert protocol.split in info.splits
        assert {"depth": 3, "flow": 4, "amodal": 5}[protocol.task] == protocol.table
        assert (protocol.depth_range is None) == (protocol.task != "depth")
        if info.depth_range and protocol.range_validates:
            assert info.depth_range == protocol.depth_range


def test_nyu_is_scored_in_eigens_window():
    mask = scored("nyu_v2", depth_sample(480, 640))
    expected = np.zeros((480, 640), dtype=bool)
    expected[45:471, 41:601] = True
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(ValueError, match=r"meant for \(480, 640\)"):
        scored("nyu_v2", depth_sample(240, 320))


@pytest.mark.parametrize("size", [(375, 1242), (370, 1226), (376, 1241), (352, 1216)])
@pytest.mark.parametrize("name", ["kitti_eigen", "virtual_kitti"])
def test_kitti_is_cut_at_the_bottom_and_centred_and_scored_in_eigens_fractions(
    name: str, size: tuple[int, int]
):
    height, width = size
    sample = depth_sample(height, width)
    cut = PROTOCOLS[name].prepare(sample)
    assert cut.truth.shape == (352, 1216)
    assert cut.images[0].shape == (352, 1216, 3)
    top, left = height - 352, int((width - 1216) / 2)
    np.testing.assert_array_equal(cut.images[0], sample.images[0][top:, left : left + 1216])
    mask = scored(name, sample)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (rows[0], rows[-1] + 1) == (int(0.3324324 * 352), int(0.91351351 * 352)) == (117, 321)
    assert (columns[0], columns[-1] + 1) == (43, 1172)
    garg = np.flatnonzero(scored(name, sample, "garg").any(axis=1))
    assert (garg[0], garg[-1] + 1) == (int(0.40810811 * 352), int(0.99189189 * 352))


def test_a_picture_that_is_too_small_to_cut_is_named():
    with pytest.raises(DataError, match="a: the picture is 1000 x 352 px, and 1216 x 352"):
        PROTOCOLS["kitti_eigen"].prepare(depth_sample(352, 1000))


@pytest.mark.parametrize(
    ("name", "limit"), [("nyu_v2", 10.0), ("scannet", 10.0), ("hypersim", 65.0)]
)
def test_depth_outside_of_the_range_is_not_scored(name: str, limit: float):
    near, far = (scored(name, depth_sample(480, 640, d)) for d in (limit - 0.1, limit))
    assert near.any()
    assert not far.any()


def test_diode_is_scored_where_its_own_mask_says():
    sample = depth_sample(48, 64, 400.0)
    assert PROTOCOLS["diode"].depth_range == (0.6, 350.0)
    assert scored("diode", sample).all()
    assert not scored("diode", depth_sample(48, 64, 0.0)).any()


def test_eth3d_has_no_farthest_depth_and_is_fitted_on_fewer_columns():
    assert scored("eth3d", depth_sample(48, 64, 5000.0)).all()
    assert PROTOCOLS["eth3d"].fit_side == 1024


def test_flow_is_left_as_it_is():
    flow = np.ones((2, 400, 1300), dtype=np.float32)
    image = np.zeros((400, 1300, 3), dtype=np.uint8)
    sample = Sample("a", (image, image), FlowTruth(flow, flow[0] > 0))
    assert PROTOCOLS["kitti_flow"].prepare(sample) is sample
    assert PROTOCOLS["kitti_flow"].averaging == "samples"
    assert PROTOCOLS["flying_chairs"].averaging == "pixels"


def test_fractions_of_any_size():
    mask = Region((0.25, 0.5), (0.0, 1.0)).mask(9, 4)
    assert np.flatnonzero(mask.all(axis=1)).tolist() == [2, 3]  # 2.25 up to before 4.5


def test_published_rows_are_of_sets_and_measures_that_are_shown():
    for row in ROWS:
        assert row.source in SOURCES
        for name, measure in row.cells:
            assert PROTOCOLS[name].table == row.table
            assert measure in PROTOCOLS[name].columns
