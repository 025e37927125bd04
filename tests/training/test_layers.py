"""Layered scenes: exact flow and occlusion, amodal masks that contain the visible ones, white."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural import layers
from training.data.procedural.layer_motion import draw_layer_motion
from training.data.procedural.layers import render_amodal, render_flow
from training.data.procedural.placing import (
    Layer,
    affine,
    apply_affine,
    picture_axes,
    sample_distance,
)
from training.data.procedural.recipes import RECIPES, recipe_tables
from training.data.procedural.shapes import make_primitives
from training.data.procedural.sprites import make_sprites
from training.data.sample import AmodalBatch, FlowBatch

SIZE = 48


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pairs() -> FlowBatch:
    return render_flow(seeded(0), 12, SIZE)


@pytest.fixture(scope="module")
def objects() -> AmodalBatch:
    return render_amodal(seeded(1), 32, SIZE)


def warp(frame2: Tensor, flow: Tensor) -> Tensor:
    """Frame 2 looked up where every pixel of frame 1 went."""
    size = frame2.shape[-1]
    x, y = picture_axes(size, frame2.device)
    x2, y2 = x + flow[:, 0] * (2 / size), y + flow[:, 1] * (2 / size)
    grid = torch.stack([x2, y2], -1)
    return F.grid_sample(frame2, grid, padding_mode="border", align_corners=False)


def test_frames_have_shapes_and_ranges(pairs: FlowBatch) -> None:
    assert pairs.frame1.shape == pairs.frame2.shape == (12, 3, SIZE, SIZE)
    assert pairs.flow.shape == (12, 2, SIZE, SIZE)
    assert pairs.occluded.shape == (12, 1, SIZE, SIZE)
    assert pairs.occluded.dtype == torch.bool
    for frame in (pairs.frame1, pairs.frame2):
        assert frame.isfinite().all()
        assert frame.min() >= 0
        assert frame.max() <= 1
    assert pairs.flow.isfinite().all()
    assert pairs.flow.dtype == torch.float32
    assert pairs.flow.abs().max() < 2 * SIZE


@pytest.fixture
def evenly_lit(monkeypatch: pytest.MonkeyPatch) -> FlowBatch:
    """Pairs without a change of light, so that brightness is constant along the flow."""
    monkeypatch.setattr(layers, "relight", lambda generator, picture: picture.clamp(0, 1))
    return render_flow(seeded(7), 12, SIZE)


def misfit(batch: FlowBatch, flow: Tensor) -> Tensor:
    """Mean difference of frame 1 and frame 2 seen through a flow, per scene, away from edges."""
    seen = -F.max_pool2d(-(~batch.occluded).float(), 3, stride=1, padding=1)
    # Slightly smoothed: a fine texture changes when it is interpolated at another phase.
    first, second = (
        F.avg_pool2d(frame, 3, stride=1, padding=1)
        for frame in (batch.frame1, warp(batch.frame2, flow))
    )
    error = (first - second).abs().mean(1, keepdim=True) * seen
    return error.sum((1, 2, 3)) / seen.sum((1, 2, 3)).clamp_min(1)


def test_second_frame_seen_through_the_flow_is_the_first(evenly_lit: FlowBatch) -> None:
    right = misfit(evenly_lit, evenly_lit.flow)
    assert right.median() < 0.012
    assert right.max() < 0.05
    for wrong in (-evenly_lit.flow, evenly_lit.flow + 0.5, evenly_lit.flow - 0.5):
        assert (misfit(evenly_lit, wrong) > 1.1 * right).float().mean() > 0.8


def test_points_that_leave_the_frame_are_occluded(pairs: FlowBatch) -> None:
    x, y = picture_axes(SIZE, pairs.flow.device)
    outside = ((x + pairs.flow[:, 0] * 2 / SIZE).abs() > 1.001) | (
        (y + pairs.flow[:, 1] * 2 / SIZE).abs() > 1.001
    )
    assert outside.any()
    assert pairs.occluded[:, 0][outside].all()
    assert 0.005 < pairs.occluded.float().mean() < 0.3


def test_speeds_are_heavy_tailed() -> None:
    motion = draw_layer_motion(seeded(2), 4000, 3)
    speed = motion.shift.norm(dim=-1)[:, 1] / 2  # widths
    assert speed.quantile(0.1) < 0.001
    assert speed.quantile(0.5) < 0.02
    assert speed.quantile(0.95) > 0.05
    stereo = (motion.shift[:, :, 1] == 0).all(1)
    assert 0.1 < stereo.float().mean() < 0.3


def test_flow_repeats_for_a_seed(pairs: FlowBatch) -> None:
    again = render_flow(seeded(0), 12, SIZE)
    assert torch.equal(again.frame2, pairs.frame2)
    assert torch.equal(again.flow, pairs.flow)


def test_amodal_has_shapes_and_ranges(objects: AmodalBatch) -> None:
    assert objects.image.shape == objects.whole.shape == (32, 3, SIZE, SIZE)
    for picture in (objects.image, objects.whole):
        assert picture.isfinite().all()
        assert picture.min() >= 0
        assert picture.max() <= 1
    for mask in (objects.visible, objects.amodal):
        assert mask.shape == (32, 1, SIZE, SIZE)
        assert ((mask == 0) | (mask == 1)).all()


def test_the_whole_contains_the_visible(objects: AmodalBatch) -> None:
    assert (objects.amodal >= objects.visible).all()
    assert (objects.visible.mean((1, 2, 3)) >= 0.03).float().mean() > 0.95
    share = 1 - objects.visible.sum((1, 2, 3)) / objects.amodal.sum((1, 2, 3))
    assert 0.02 < (share < 0.01).float().mean() < 0.3
    assert share.median() > 0.1
    assert share.max() > 0.45


def test_whole_is_white_outside_the_object(objects: AmodalBatch) -> None:
    near = F.max_pool2d(objects.amodal, 3, stride=1, padding=1)
    assert (objects.whole[(near == 0).expand(-1, 3, -1, -1)] > 0.999).all()
    inside = -F.max_pool2d(-objects.amodal, 3, stride=1, padding=1)
    assert objects.whole[(inside > 0).expand(-1, 3, -1, -1)].mean() < 0.8


def test_visible_part_looks_as_in_the_whole(objects: AmodalBatch) -> None:
    inside = (-F.max_pool2d(-objects.visible, 5, stride=1, padding=2) > 0).expand(-1, 3, -1, -1)
    error = (objects.image - objects.whole).abs()[inside]
    # Exact but for the soft shadows that occluders cast.
    assert error.median() < 0.01
    hidden = ((objects.amodal - objects.visible) > 0).expand(-1, 3, -1, -1)
    assert (objects.image - objects.whole).abs()[hidden].mean() > 3 * error.mean()


def test_amodal_repeats_for_a_seed(objects: AmodalBatch) -> None:
    again = render_amodal(seeded(1), 32, SIZE)
    assert torch.equal(again.image, objects.image)
    assert torch.equal(again.amodal, objects.amodal)


def test_primitives_are_distances() -> None:
    primitives = make_primitives(seeded(3), 9)
    assert primitives.isfinite().all()
    centre = primitives.shape[-1] // 2
    assert (primitives[:, 0, centre, centre] > 0).all()
    disc = primitives[0, 0]
    line = (torch.arange(len(disc)) + 0.5) * (2.5 / len(disc)) - 1.25
    expected = 1 - (line[None].square() + line[:, None].square()).sqrt()
    torch.testing.assert_close(disc, expected, atol=1e-5, rtol=0)


def test_recipes_stay_inside_their_picture() -> None:
    weights, rows = recipe_tables(torch.device("cpu"))
    assert len(weights) == len(RECIPES) == len(rows)
    assert (weights > 0).all()
    assert (rows[:, 0, 3] > 0).all()
    assert rows[..., 1:3].abs().max() <= 1


def test_things_do_not_touch_the_border_of_their_picture() -> None:
    sprites = make_sprites(seeded(4), 64)
    distance = sprites.distance
    edge = torch.cat([distance[..., 0, :], distance[..., -1, :], distance[..., 0]], -1)
    assert (edge < -0.2).all()
    assert (sprites.area() > 0).float().mean() > 0.95
    assert sprites.picture.isfinite().all()


def test_a_placed_disc_is_where_it_was_put() -> None:
    disc = torch.zeros(1, 5, 64, 64)
    disc[:, :1] = make_primitives(seeded(5), 1)[:1] + 0.5
    centre, half = torch.tensor([[0.3, -0.2]]), torch.tensor([[0.4, 0.4]])
    layer = Layer(
        sprite=disc,
        texture=torch.zeros(1, 3, 8, 8),
        inverse=affine(centre, half * 1.25, torch.tensor([0.7])),
        surface=torch.eye(2, 3)[None],
        scale=half[:, 0],
        shadow=torch.zeros(1, 2),
    )
    x, y = picture_axes(SIZE, disc.device)
    distance = sample_distance(layer, x, y)[0, 0]
    expected = 1 - ((x[0] - 0.3).square() + (y[0] + 0.2).square()).sqrt() / 0.4
    near = expected.abs() < 0.2
    torch.testing.assert_close(distance[near], expected[near], atol=0.01, rtol=0)


def test_affine_takes_the_centre_to_zero_and_the_axes_to_one() -> None:
    centre, half = torch.tensor([[0.5, 0.1]]), torch.tensor([[0.3, 0.7]])
    matrix = affine(centre, half, torch.tensor([0.0]))
    x, y = torch.tensor([[[0.5, 0.8, 0.5]]]), torch.tensor([[[0.1, 0.1, 0.8]]])
    points = apply_affine(matrix, x, y)[0, 0]
    torch.testing.assert_close(points, torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
