"""Encoded fields to answers, where a whole server would hide the numbers."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from service.api.answers import (
    MAKERS,
    AmodalAnswer,
    Answer,
    DepthAnswer,
    FlowAnswer,
    NormalsAnswer,
    Scene,
    make_answer,
)
from service.api.images import ImageLimits, Upload
from service.api.render import RENDERERS
from service.api.resample import resize_maps
from service.core.encodings import (
    AmodalEncoding,
    DepthEncoding,
    Encoding,
    FlowEncoding,
    NormalsEncoding,
)
from service.core.sizes import LongestEdge
from service.core.tasks import NORMALS, TASKS, TaskName
from tests.support.artifacts import small_artifact
from tests.support.pictures import disc, encode, gradient, sphere

LIMITS = ImageLimits(10**7, 16, 10**4)
PICTURE, MASK = gradient(40, 32), disc(40, 32, radius=8)
SCENE = Scene(
    uploads=(Upload("image", encode(PICTURE), LIMITS), Upload("mask", encode(MASK), LIMITS)),
    width=40,
    height=32,
    reduction="mean",
    uncertainty=True,
    all_members=True,
)


def noise(members: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.4, 0.4, (members, 16, 16)).astype(np.float32)


def test_depth_uncertainty_is_stretched_with_the_prediction():
    wide = make_answer(DepthEncoding(), {"depth": noise(4)}, SCENE)
    narrow = make_answer(DepthEncoding(), {"depth": noise(4) / 10}, SCENE)
    assert isinstance(wide, DepthAnswer)
    assert isinstance(narrow, DepthAnswer)
    assert wide.uncertainty is not None
    assert narrow.uncertainty is not None
    np.testing.assert_allclose(narrow.prediction, wide.prediction, atol=1e-5)
    np.testing.assert_allclose(narrow.uncertainty, wide.uncertainty, rtol=1e-3, atol=1e-5)


def test_flat_depth_is_all_near():
    flat = np.full((3, 16, 16), 0.3, np.float32)
    answer = make_answer(DepthEncoding(), {"depth": flat}, SCENE)
    assert not answer.prediction.any()


def test_answers_leave_the_engines_arrays_alone():
    fields = {"depth": noise(1)}
    before = fields["depth"].copy()
    make_answer(DepthEncoding(), fields, replace(SCENE, width=16, height=16))
    np.testing.assert_array_equal(fields["depth"], before)


def test_flow_scales_each_axis_by_its_own_factor():
    encoding = FlowEncoding(75.0, 75.0, 512, 384, companding=0.0)
    ones = np.full((1, 16, 16), 0.1, np.float32)
    answer = make_answer(encoding, {"u": ones, "v": ones}, SCENE)
    assert isinstance(answer, FlowAnswer)
    np.testing.assert_allclose(answer.prediction[0], 7.5 * 40 / 512, rtol=1e-5)
    np.testing.assert_allclose(answer.prediction[1], 7.5 * 32 / 384, rtol=1e-5)


def test_reduction_happens_at_the_models_resolution():
    """The median of resized members would differ from the resized median."""
    scene = replace(SCENE, reduction="median")
    fields = {"u": noise(5), "v": noise(5)}
    encoding = FlowEncoding(1.0, 1.0, 40, 32, companding=0.0)
    answer = make_answer(encoding, fields, scene)
    want = resize_maps(np.median(fields["u"], axis=0), 32, 40)
    np.testing.assert_allclose(answer.prediction[0], want, atol=1e-6)


@pytest.mark.parametrize("reduction", ["median", "mean"])
def test_a_model_without_a_mask_has_it_from_the_appearance(reduction):
    scene = replace(SCENE, reduction=reduction)
    background = np.ones((3, 16, 16), np.float32)
    appearance = background.copy()
    appearance[:, 2:10, 2:10] = -0.5
    fields = dict(zip(("red", "green", "blue"), (appearance,) * 3, strict=True))
    answer = make_answer(AmodalEncoding(background=1.0, threshold=0.1), fields, scene)
    assert isinstance(answer, AmodalAnswer)
    assert answer.whole[8, 8]
    assert not answer.whole[30, 38]
    assert answer.whole[MASK > 0].all()
    rgba = answer.completed()
    assert rgba is not None
    assert rgba[6, 6].tolist() == [64, 64, 64, 255]


def test_no_appearance_no_completion():
    answer = make_answer(AmodalEncoding(1.0, 0.1), {"mask": noise(2)}, SCENE)
    assert isinstance(answer, AmodalAnswer)
    assert answer.completed() is None


def test_padding_is_cut_off_and_the_rest_resized_plainly():
    fit = LongestEdge(64, 16).fit((40, 100))
    assert (fit.content, fit.padded) == ((25, 64), (32, 64))
    field = np.full((1, 16, 32), 5.0, dtype=np.float32)  # a decoder at half the input's size
    field[:, :12] = np.linspace(-1, 0.5, 32, dtype=np.float32)  # of 12.5 rows of picture
    scene = replace(SCENE, height=40, width=100, fit=fit)
    answer = make_answer(DepthEncoding(), {"depth": field}, scene)
    assert isinstance(answer, DepthAnswer)
    assert answer.prediction.shape == (40, 100)
    np.testing.assert_array_equal(answer.prediction, np.tile(answer.prediction[:1], (40, 1)))
    assert (np.diff(answer.prediction[0]) >= 0).all()


def test_disparity_is_reversed():
    near_is_high = np.linspace(-1, 1, 32, dtype=np.float32)[None, None].repeat(20, axis=1)
    scene = replace(SCENE, uncertainty=False, all_members=False)
    answer = make_answer(DepthEncoding(quantity="disparity"), {"depth": near_is_high}, scene)
    assert answer.prediction[0, 0] == 1
    assert answer.prediction[0, -1] == 0


def normals_fields(*members: np.ndarray, encoding: NormalsEncoding) -> dict[str, np.ndarray]:
    encoded = encoding.encode(np.stack(members))
    return {axis: np.ascontiguousarray(encoded[:, i]) for i, axis in enumerate(NORMALS)}


NORMALS_SCENE = replace(SCENE, reduction="closest")


@pytest.mark.parametrize(
    "encoding",
    [NormalsEncoding(), NormalsEncoding(x="left"), NormalsEncoding(z_range="half")],
    ids=str,
)
def test_a_balls_sides_face_where_they_are(encoding):
    ball = sphere(40, 32, radius=12)
    answer = make_answer(encoding, normals_fields(ball, encoding=encoding), NORMALS_SCENE)
    assert isinstance(answer, NormalsAnswer)
    np.testing.assert_allclose(answer.prediction, ball, atol=1e-5)
    assert answer.uncertainty is not None
    assert answer.uncertainty.shape == (32, 40)
    assert not answer.uncertainty.any()
    for (row, column), axis, sign in (
        ((16, 31), 0, 1),  # its right side faces right
        ((16, 8), 0, -1),
        ((5, 20), 1, 1),  # its top faces up
        ((26, 20), 1, -1),
        ((16, 20), 2, 1),  # its middle and the wall face the viewer
        ((2, 2), 2, 1),
    ):
        assert sign * answer.prediction[axis, row, column] > 0.85, (row, column)


@pytest.mark.parametrize("fit", [None, LongestEdge(40, 8).fit((80, 100))], ids=str)
@pytest.mark.parametrize("size", [(80, 100), (13, 16)], ids=str)
def test_resized_normals_are_unit_vectors_again(size, fit):
    height, width = size
    rng = np.random.default_rng(0)
    random = NormalsEncoding().decode(rng.normal(size=(3, 3, 32, 40)).astype(np.float32))
    fields = normals_fields(*random, encoding=NormalsEncoding())
    scene = replace(NORMALS_SCENE, height=height, width=width, fit=fit)
    answer = make_answer(NormalsEncoding(), fields, scene)
    assert isinstance(answer, NormalsAnswer)
    assert answer.members is not None
    assert answer.uncertainty is not None
    assert answer.members.shape == (3, 3, height, width)
    assert answer.uncertainty.shape == (height, width)
    for vectors in (answer.prediction, *answer.members):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, atol=1e-5)
        plain = scene.resize(vectors[:, ::2, ::2].copy())  # what resizing does to unit vectors
        assert np.linalg.norm(plain, axis=0).min() < 0.9


def test_resized_normals_point_between_their_neighbours():
    right = np.zeros((3, 1, 2), np.float32)
    right[0, 0, 1] = right[2, 0, 0] = 1  # to the viewer, then to the right
    scene = replace(NORMALS_SCENE, height=1, width=4, uncertainty=False, all_members=False)
    fields = normals_fields(right, encoding=NormalsEncoding())
    answer = make_answer(NormalsEncoding(), fields, scene)
    turned = np.degrees(np.arctan2(answer.prediction[0, 0], answer.prediction[2, 0]))
    eighth = np.degrees(np.arctan2(0.25, 0.75))
    np.testing.assert_allclose(turned, [0, eighth, 90 - eighth, 90], atol=1e-3)


def test_every_encoding_has_its_answer_and_every_answer_its_task_s_forms():
    kinds = get_args(Encoding)
    assert set(MAKERS) == set(kinds)
    assert set(RENDERERS) == set(get_args(Answer))
    assert {kind.kind for kind in kinds} == set(TASKS)
    answers = {
        served.task: type(make_answer(served.encoding, task_fields(served.task), SCENE))
        for served in small_artifact().tasks
    }
    answers["normals"] = NormalsAnswer
    for name, task in TASKS.items():
        assert RENDERERS[answers[name]].keys() == task.outputs.keys()


def task_fields(task: TaskName) -> dict[str, np.ndarray]:
    return {field: noise(2) for field in TASKS[task].fields}
