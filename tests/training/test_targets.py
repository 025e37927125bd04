"""Tables of targets, and what is made of pixels whose answer is not known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from service.core.artifact import ArtifactError
from service.core.encodings import DepthEncoding
from service.core.tasks import TASKS
from training.data.sample import AmodalBatch, DepthBatch, FlowBatch
from training.models.perception import MODELS, paper_form
from training.regridding import fill
from training.targets import (
    COMPONENTS,
    PAPER,
    PERCEPT,
    TABLES,
    depth_picture,
    prepare,
)

SIDE = 24


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_has_every_task_and_numbers_its_labels(table):
    labels = [component.label for row in table.components.values() for component in row]
    assert sorted(labels) == list(range(table.num_labels))
    assert table.components.keys() == COMPONENTS.keys()
    for name in COMPONENTS:
        task = TASKS[name]
        assert table.encoding(name).kind == name
        fields = [field for c in table.components[name] for field in c.channels]
        assert all(task.fields_for(output, fields) for output in task.outputs)


def test_the_papers_labels_are_those_of_its_release():
    config = paper_form("DiT-XL/2", 512, ("depth", "flow", "amodal"))
    labels = {
        component.name: component.label
        for task in config.tasks
        for component in config.components(task)
    }
    assert labels == {"depth": 1000, "appearance": 1001, "flow_x": 1002, "flow_y": 1003}
    alone = paper_form("a1", 256, ("flow",))
    assert [component.label for component in alone.components("flow")] == [1000, 1001]


def test_our_own_labels_are_what_they_were():
    for name in ("tiny", "tiny-concatenated", "decoupled"):
        config = MODELS[name]
        assert all(config.components(task) == COMPONENTS[task] for task in COMPONENTS)
        assert config.table is PERCEPT


def flow_batch(valid: Tensor | None = None) -> FlowBatch:
    return FlowBatch(
        noise(2, 3, SIDE, SIDE, seed=1),
        noise(2, 3, SIDE, SIDE, seed=2),
        10 * noise(2, 2, SIDE, SIDE, seed=3) - 5,
        torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool),
        valid,
    )


def test_the_papers_motion_is_two_grey_pictures_of_75_px():
    batch = flow_batch()
    example = prepare(batch, SIDE, PAPER)
    assert example.targets.shape == (2, 2, 3, SIDE, SIDE)
    # a pixel of this square is 512 / 24 of the release's across, and 384 / 24 down
    expected = batch.flow * torch.tensor([512 / SIDE, 384 / SIDE])[:, None, None] / 75
    for channel in range(3):
        torch.testing.assert_close(example.targets[:, :, channel], expected)
    u, v = (picture[:, 0].numpy() for picture in example.targets.unbind(1))
    decoded = np.stack(PAPER.flow.decode(u, v, SIDE, SIDE), axis=1)
    np.testing.assert_allclose(decoded, batch.flow.numpy(), rtol=1e-4, atol=1e-5)


def test_the_papers_object_is_its_look_on_white():
    whole = noise(2, 3, SIDE, SIDE, seed=2)
    mask = (noise(2, 1, SIDE, SIDE) > 0.5).float()
    example = prepare(AmodalBatch(noise(2, 3, SIDE, SIDE, seed=4), mask, mask, whole), SIDE, PAPER)
    assert example.targets.shape == (2, 1, 3, SIDE, SIDE)
    torch.testing.assert_close(example.targets[:, 0], 2 * whole - 1)


def test_the_papers_depth_is_linear_and_shown_where_it_is_known():
    depth, valid = 1 + 4 * noise(2, 1, SIDE, SIDE), noise(2, 1, SIDE, SIDE, seed=5) > 0.3
    image = noise(2, 3, SIDE, SIDE, seed=1)
    example = prepare(DepthBatch(image, depth, valid), SIDE, PAPER)
    expected = PAPER.depth.encode(depth[:, 0].numpy(), valid[:, 0].numpy())
    np.testing.assert_allclose(example.targets[:, 0, 0].numpy(), expected, atol=1e-5)
    assert example.prompt is not None
    assert torch.equal(example.prompt, valid.float().expand(-1, 3, -1, -1))  # 0 and 1
    assert prepare(DepthBatch(image, depth, valid), SIDE).prompt is None
    assert prepare(DepthBatch(image, depth), SIDE, PAPER).prompt is None  # which is ones


@pytest.mark.parametrize("companding", [0.0, 6.0])
@pytest.mark.parametrize("share", [0.02, 0.6, 1.0])
def test_depth_with_unknown_pixels_is_the_services(companding: float, share: float):
    encoding = DepthEncoding(companding=companding)
    valid = noise(3, 1, 40, 40, seed=1) < share
    depth = torch.where(valid, 1 + 9 * noise(3, 1, 40, 40) ** 2, 1e4)
    expected = encoding.encode(depth[:, 0].numpy(), valid[:, 0].numpy())
    found = depth_picture(depth, encoding, valid)[:, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_picture_without_any_known_depth_is_far_and_finite():
    depth = torch.zeros(1, 1, 8, 8)
    picture = depth_picture(depth, valid=torch.zeros(1, 1, 8, 8, dtype=torch.bool))
    assert torch.equal(picture, torch.ones(1, 3, 8, 8))


def test_unknown_depth_does_not_reach_into_smaller_pictures():
    valid = torch.ones(1, 1, 2 * SIDE, 2 * SIDE, dtype=torch.bool)
    valid[..., :SIDE] = False
    depth = torch.where(valid, 5.0, 1e6)
    depth[..., -2:] = 3.0
    example = prepare(DepthBatch(noise(1, 3, 2 * SIDE, 2 * SIDE), depth, valid), SIDE, PAPER)
    assert example.valid is not None
    known = example.targets[:, 0, :1][example.valid]
    assert example.valid[0, 0, 0].tolist() == [False] * 12 + [True] * 12
    assert known.min() == -1
    assert known.max() == 1
    assert (known == 1).float().mean() > 0.8  # all but the near edge


def test_what_is_unknown_is_filled_from_around_it():
    values = torch.stack([torch.full((13, 10), 2.0), torch.full((13, 10), -3.0)])[None]
    valid = torch.zeros(1, 1, 13, 10, dtype=torch.bool)
    valid[0, 0, 4, 7] = True
    filled = fill(torch.where(valid, values, 99.0), valid)
    torch.testing.assert_close(filled, values)
    values = noise(1, 2, 13, 10)
    valid = noise(1, 1, 13, 10, seed=1) > 0.5
    filled = fill(values, valid)
    assert torch.equal(torch.where(valid, filled, 0), torch.where(valid, values, 0))
    assert filled.min() >= values.min()
    assert filled.max() <= values.max()
    assert not fill(values, torch.zeros_like(valid)).any()


def test_unknown_motion_disturbs_nothing_around_it():
    batch = flow_batch()
    valid = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
    valid[:, :, 8:16, 8:16] = False
    whole = prepare(batch, SIDE)
    spoiled = FlowBatch(
        batch.frame1,
        batch.frame2,
        torch.where(valid, batch.flow, 1e6),
        batch.occluded,
        valid,
    )
    example = prepare(spoiled, SIDE)
    assert example.valid is not None
    assert torch.equal(example.valid, valid)
    outside = valid[:, None].expand_as(whole.targets)
    assert torch.equal(example.targets[outside], whole.targets[outside])
    assert example.targets.abs().max() <= whole.targets.abs().max()
    assert example.flow is not None
    smaller = prepare(spoiled, SIDE // 2)
    assert smaller.valid is not None
    assert torch.equal(smaller.valid, functional.avg_pool2d(valid.float(), 2) > 0.5)


def test_a_task_without_targets_cannot_be_trained():
    assert "normals" not in COMPONENTS
    with pytest.raises(ArtifactError, match=r"tasks: must be out of depth, flow, amodal"):
        replace(MODELS["tiny"], tasks=("depth", "normals"))
