import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.core.artifact import ArtifactError
from service.core.encodings import (
    AmodalEncoding,
    DepthEncoding,
    FlowEncoding,
    NormalsEncoding,
    X,
    Y,
    Z,
    ZRange,
)
from tests.support.pictures import sphere

LEADING = st.sampled_from([(), (3,), (2, 3)])
SIDES = st.integers(16, 8000)


def _maps(low, high, leading):
    return hnp.arrays(np.float32, (*leading, 4, 5), elements=st.floats(low, high, width=32))


class TestDepth:
    ENCODING = DepthEncoding(0.02, 0.98)

    def test_quantiles_become_the_ends_of_the_range(self):
        depth = np.linspace(1, 101, 101, dtype=np.float32).reshape(1, 101)
        y = self.ENCODING.encode(depth, np.ones_like(depth, dtype=bool))
        assert y[0, 2] == -1
        assert y[0, 98] == 1
        assert y[0, 50] == pytest.approx(0, abs=1e-6)
        assert y.min() == -1
        assert y.max() == 1

    @given(
        leading=LEADING, scale=st.floats(0.1, 100), shift=st.floats(0, 100), seed=st.integers(0, 99)
    )
    def test_scale_and_shift_do_not_matter(self, leading, scale, shift, seed):
        rng = np.random.default_rng(seed)
        depth = rng.uniform(1, 10, (*leading, 6, 7))
        valid = rng.uniform(size=depth.shape) < 0.8
        np.testing.assert_allclose(
            self.ENCODING.encode(scale * depth + shift, valid),
            self.ENCODING.encode(depth, valid),
            atol=1e-4,
        )

    def test_each_image_has_its_own_range_and_ignores_its_invalid_pixels(self):
        near = np.random.default_rng(0).uniform(1, 2, (8, 8)).astype(np.float32)
        far = 50 * near
        valid = np.ones((2, 8, 8), dtype=bool)
        valid[:, 0, :3] = False
        broken = np.stack([near, far])
        broken[:, 0, 0] = np.nan
        broken[:, 0, 1] = np.inf
        broken[:, 0, 2] = 0
        y = self.ENCODING.encode(broken, valid)
        assert np.all(y[:, 0, :3] == 1)
        np.testing.assert_allclose(y[0], y[1], atol=1e-5)
        alone = self.ENCODING.encode(broken[1], valid[1])
        np.testing.assert_array_equal(y[1], alone)

    def test_a_flat_wall_is_near(self):
        wall = np.full((4, 4), 3, dtype=np.float32)
        assert np.all(self.ENCODING.encode(wall, wall > 0) == -1)

    def test_an_image_without_valid_depth_is_refused(self):
        depth = np.ones((2, 4, 4), dtype=np.float32)
        valid = np.array([True, False])[:, None, None] & (depth > 0)
        with pytest.raises(ValueError, match="valid depth"):
            self.ENCODING.encode(depth, valid)

    @given(companding=st.just(0.0) | st.floats(1e-3, 100), seed=st.integers(0, 99))
    def test_decoding_undoes_encoding_up_to_scale_and_shift(self, companding, seed):
        encoding = DepthEncoding(0.0, 1.0, companding)
        depth = np.random.default_rng(seed).uniform(2, 40, (5, 6))
        relative = (depth - depth.min()) / (depth.max() - depth.min())
        y = encoding.encode(depth, depth > 0)
        assert (y.min(), y.max()) == (-1, 1)
        np.testing.assert_allclose(encoding.decode(y), relative, atol=1e-5)

    def test_companding_gives_near_things_more_of_the_range(self):
        street = np.array([[2.0, 4.0, 8.0, 16.0, 32.0]])
        linear = DepthEncoding(0.0, 1.0).encode(street, street > 0)
        companded = DepthEncoding(0.0, 1.0, 15.0).encode(street, street > 0)
        # companding by far / near - 1 is the logarithm of depth
        np.testing.assert_allclose(companded, [[-1, -0.5, 0, 0.5, 1]], atol=1e-6)
        assert linear[0, 1] < -0.8

    def test_decoding_is_relative_depth_with_near_at_0(self):
        y = np.array([[-3, -1, 0, 1, 3]], dtype=np.float32)
        np.testing.assert_array_equal(self.ENCODING.decode(y), [[0, 0, 0.5, 1, 1]])


class TestFlow:
    @given(
        data=st.data(),
        leading=LEADING,
        width=SIDES,
        height=SIDES,
        companding=st.sampled_from([0.0, 0.5, 10.0, 100.0]),
    )
    def test_pixels_survive_the_round_trip(self, data, leading, width, height, companding):
        encoding = FlowEncoding(75.0, 40.0, 512, 384, companding)
        u = data.draw(_maps(-width, width, leading))
        v = data.draw(_maps(-height, height, leading))
        decoded = encoding.decode(*encoding.encode(u, v, width, height), width, height)
        np.testing.assert_allclose(decoded[0], u, rtol=1e-4, atol=1e-5 * width)
        np.testing.assert_allclose(decoded[1], v, rtol=1e-4, atol=1e-5 * height)

    def test_the_papers_units(self):
        # Released checkpoints emit pixels of a 512 x 384 frame over 75, whatever the upload's size.
        encoding = FlowEncoding(75.0, 75.0, 512, 384, 0.0)
        one = np.ones((1, 1), dtype=np.float32)
        u, v = encoding.decode(one, one, 1024, 192)
        assert u.item() == pytest.approx(150)
        assert v.item() == pytest.approx(37.5)

    @given(width=SIDES, height=SIDES, factor=st.integers(2, 5))
    def test_the_same_motion_at_another_size_is_the_same_code(self, width, height, factor):
        encoding = FlowEncoding(75.0, 40.0, 512, 384, 10.0)
        u, v = np.random.default_rng(width).normal(0, 30, (2, 3, 3)).astype(np.float32)
        small = encoding.encode(u, v, width, height)
        large = encoding.encode(factor * u, v, factor * width, height)
        np.testing.assert_allclose(large, small, rtol=1e-5, atol=1e-6)

    def test_companding_spreads_small_motions_and_keeps_the_unit(self):
        linear = FlowEncoding(75.0, 75.0, 512, 384, 0.0)
        companded = FlowEncoding(75.0, 75.0, 512, 384, 20.0)
        px = np.array([[0, 1, 75, 150]], dtype=np.float32)
        y = companded.encode(px, px, 512, 384)[0][0]
        plain = linear.encode(px, px, 512, 384)[0][0]
        assert y[0] == 0
        assert y[1] > 5 * plain[1]
        assert y[2] == pytest.approx(1)
        assert 1 < y[3] < plain[3]
        assert np.all(companded.encode(-px, px, 512, 384)[0][0] == -y)

    def test_arrays_stay_float32(self):
        encoding = FlowEncoding(75.0, 75.0, 512, 384, 10.0)
        one = np.ones((2, 2), dtype=np.float32)
        assert {y.dtype.name for y in encoding.encode(one, one, 640, 480)} == {"float32"}
        assert {y.dtype.name for y in encoding.decode(one, one, 640, 480)} == {"float32"}


class TestAmodal:
    ENCODING = AmodalEncoding(background=1.0, threshold=0.1)

    @given(data=st.data(), leading=LEADING)
    def test_coverage_survives_the_round_trip(self, data, leading):
        mask = data.draw(_maps(0, 1, leading))
        y = self.ENCODING.encode_mask(mask)
        np.testing.assert_allclose(self.ENCODING.decode_mask(y), mask, atol=1e-6)

    def test_decoded_coverage_is_clipped(self):
        y = np.array([[-2, -1, 0, 1, 2]], dtype=np.float32)
        np.testing.assert_array_equal(self.ENCODING.decode_mask(y), [[0, 0, 0.5, 1, 1]])

    @given(seed=st.integers(0, 99), leading=LEADING)
    def test_the_mask_is_read_back_from_the_appearance(self, seed, leading):
        rng = np.random.default_rng(seed)
        mask = (rng.uniform(size=(*leading, 6, 7)) < 0.5).astype(np.float32)
        rgb = rng.uniform(-1, 0.8, (*leading, 3, 6, 7)).astype(np.float32)
        y = self.ENCODING.encode_appearance(rgb, mask)
        np.testing.assert_array_equal(self.ENCODING.mask_from_appearance(y), mask)
        inside = np.broadcast_to(mask[..., None, :, :] == 1, rgb.shape)
        np.testing.assert_array_equal(y[inside], rgb[inside])
        assert np.all(y[~inside] == 1)

    def test_one_channel_off_the_background_is_object(self):
        y = np.ones((3, 1, 3), dtype=np.float32)
        y[2, 0, 1] = 0.85
        y[:, 0, 2] = 0.95
        np.testing.assert_array_equal(self.ENCODING.mask_from_appearance(y), [[0, 1, 0]])

    def test_appearance_decodes_to_unit_rgb(self):
        y = np.array([-2, 0, 1], dtype=np.float32).reshape(3, 1, 1)
        np.testing.assert_array_equal(self.ENCODING.decode_appearance(y).ravel(), [0, 0.5, 1])


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: DepthEncoding(0.5, 0.5), "low_quantile"),
        (lambda: DepthEncoding(-0.1, 0.5), "low_quantile"),
        (lambda: DepthEncoding(0.0, 1.0, -1.0), "companding"),
        (lambda: DepthEncoding(0.0, 1.0, 1e-9), "companding"),
        (lambda: FlowEncoding(75.0, 0.0, 512, 384, 0.0), "divisor_y"),
        (lambda: FlowEncoding(75.0, 75.0, 0, 384, 0.0), "reference_width"),
        (lambda: FlowEncoding(75.0, 75.0, 512, 384, -1.0), "companding"),
        (lambda: AmodalEncoding(2.0, 0.1), "background"),
        (lambda: AmodalEncoding(1.0, 0.0), "threshold"),
    ],
)
def test_impossible_encodings_are_refused(build, path):
    with pytest.raises(ArtifactError) as caught:
        build()
    assert caught.value.path == path


class TestNormals:
    SPHERE = sphere(40, 30, radius=12)
    ENCODINGS = tuple(
        NormalsEncoding(x, y, z, z_range)
        for x, y, z, z_range in itertools.product(*map(get_args, (X, Y, Z, ZRange)))
    )

    @pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
    def test_decoding_undoes_encoding(self, encoding):
        facing = self.SPHERE * [[[1]], [[1]], [[{"viewer": 1, "scene": -1}[encoding.z]]]]
        normals = facing.astype(np.float32)
        y = encoding.encode(normals)
        assert y.dtype == np.float32
        assert np.abs(y).max() <= 1
        np.testing.assert_allclose(encoding.decode(y), normals, atol=1e-6)
        np.testing.assert_allclose(encoding.decode(np.stack([y, y]))[1], encoding.decode(y), atol=0)

    @pytest.mark.parametrize(
        ("encoding", "y"),
        [
            (NormalsEncoding(), (0.6, 0, 0.8)),
            (NormalsEncoding(x="left"), (-0.6, 0, 0.8)),
            (NormalsEncoding(z="scene"), (0.6, 0, -0.8)),
            (NormalsEncoding(z_range="half"), (0.6, 0, 0.6)),
            (NormalsEncoding(x="left", z_range="half"), (-0.6, 0, 0.6)),
        ],
        ids=str,
    )
    def test_what_faces_right_is_stored_along_the_models_axes(self, encoding, y):
        normal = np.array([0.6, 0, 0.8], dtype=np.float32)[:, None, None]
        np.testing.assert_allclose(encoding.encode(normal).ravel(), y, atol=1e-6)

    def test_what_a_network_draws_becomes_unit_vectors(self):
        drawn = np.random.default_rng(0).normal(0, 1.5, (4, 3, 8, 9)).astype(np.float32)
        before = drawn.copy()
        for encoding in self.ENCODINGS:
            decoded = encoding.decode(drawn)
            np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(drawn, before)
        clipped = np.clip(drawn, -1, 1)
        np.testing.assert_array_equal(
            NormalsEncoding().decode(drawn), NormalsEncoding().decode(clipped)
        )

    def test_half_of_z_faces_the_viewer(self):
        drawn = np.random.default_rng(0).normal(0, 1, (3, 8, 9)).astype(np.float32)
        assert NormalsEncoding(z_range="half").decode(drawn)[2].min() >= 0
        assert NormalsEncoding().decode(drawn)[2].min() < 0
