"""Training encodes in torch what the service decodes in numpy: the same formulas."""

import numpy as np
import pytest
import torch

from service.core.encodings import DepthEncoding, FlowEncoding
from training.data.sample import AmodalBatch, DepthBatch, FlowBatch
from training.targets import AMODAL, COMPONENTS, DEPTH, FLOW, FlowCode, depth_picture, prepare

SIDE = 24


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_depth_is_the_services_depth():
    depth = 0.5 + 20 * noise(3, 1, SIDE, SIDE) ** 3
    picture = depth_picture(depth)
    assert picture.shape == (3, 3, SIDE, SIDE)
    assert torch.equal(picture[:, 0], picture[:, 2])
    valid = np.ones((3, SIDE, SIDE), dtype=bool)
    expected = DEPTH.encode(depth[:, 0].numpy(), valid)
    # training takes its quantiles of a third of the pixels, which moves them a little
    assert np.abs(picture[:, 0].numpy() - expected).mean() < 0.02
    assert picture.min() == -1
    assert picture.max() == 1


@pytest.mark.parametrize("companding", [0.0, 6.0])
def test_depth_of_smooth_scenes_is_the_services_depth_closely(companding: float):
    encoding = DepthEncoding(companding=companding)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    depth = (2 + torch.sin(x / 17) + torch.cos(y / 23))[None, None]
    expected = encoding.encode(depth[:, 0].numpy(), np.ones((1, 96, 96), dtype=bool))
    found = depth_picture(depth, encoding)[:, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.02 if companding else 5e-3)


def test_a_flat_scene_has_a_finite_depth_picture():
    assert torch.equal(depth_picture(torch.full((1, 1, 8, 8), 3.0)), torch.full((1, 3, 8, 8), -1.0))


ENCODINGS = [
    FLOW,
    FlowEncoding(75.0, 75.0, 512, 384, 0.0),
    FlowEncoding(40.0, 25.0, 320, 200, 8.0),
]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_flow_is_the_services_flow(encoding: FlowEncoding):
    width, height = 40, 30
    code = FlowCode(encoding)
    flow_px = 60 * noise(2, 2, height, width) - 30
    flow_px[:, :, 0] *= 1e-3  # motion of a fraction of a pixel as well
    fractions = flow_px / torch.tensor([width, height])[:, None, None]
    u, v = encoding.encode(flow_px[:, 0].numpy(), flow_px[:, 1].numpy(), width, height)
    encoded = code.compand(fractions)
    np.testing.assert_allclose(encoded.numpy(), np.stack([u, v], axis=1), rtol=2e-5, atol=1e-6)
    back = encoding.decode(encoded[:, 0].numpy(), encoded[:, 1].numpy(), width, height)
    np.testing.assert_allclose(np.stack(back, axis=1), flow_px.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(code.expand(encoded), fractions, rtol=1e-3, atol=1e-6)


def test_companding_keeps_a_third_of_a_pixel_apart_from_nothing():
    third = FlowCode().compand(torch.full((1, 2, 1, 1), 1 / 3 / 256))
    assert third.min() > 0.04  # an 8-bit level is 0.008
    assert FlowCode().compand(torch.full((1, 2, 1, 1), 0.25)).allclose(torch.ones(()))


def test_a_flow_example_has_the_fields_that_its_component_reads():
    batch = FlowBatch(
        noise(2, 3, SIDE, SIDE, seed=1),
        noise(2, 3, SIDE, SIDE, seed=2),
        10 * noise(2, 2, SIDE, SIDE, seed=3) - 5,
        torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool),
    )
    example = prepare(batch, SIDE)
    (component,) = COMPONENTS["flow"]
    picture = example.targets[:, 0].numpy()
    u, v = (picture[:, list(component.channels[name])].mean(axis=1) for name in ("u", "v"))
    decoded = np.stack(FLOW.decode(u, v, SIDE, SIDE), axis=1)
    np.testing.assert_allclose(decoded, batch.flow.numpy(), atol=1e-4)
    assert example.prompt is not None
    torch.testing.assert_close(example.image, 2 * batch.frame1 - 1)
    torch.testing.assert_close(example.prompt, 2 * batch.frame2 - 1)
    assert example.flow is not None
    torch.testing.assert_close(example.flow * SIDE, batch.flow)


def test_an_amodal_example_is_the_services_mask_and_appearance():
    amodal = (noise(2, 1, SIDE, SIDE, seed=1) > 0.4).float()
    rgb = 2 * noise(2, 3, SIDE, SIDE, seed=2) - 1
    whole = amodal * (rgb + 1) / 2 + 1 - amodal  # on white
    visible = amodal * (noise(2, 1, SIDE, SIDE, seed=3) > 0.5).float()
    batch = AmodalBatch(noise(2, 3, SIDE, SIDE, seed=4), visible, amodal, whole)
    example = prepare(batch, SIDE)
    mask, appearance = example.targets.unbind(1)
    coverage = amodal[:, 0].numpy()
    expected = AMODAL.encode_mask(coverage)
    for channel in mask.unbind(1):
        np.testing.assert_array_equal(channel.numpy(), expected)
    expected = AMODAL.encode_appearance(rgb.numpy(), coverage)
    np.testing.assert_allclose(appearance.numpy(), expected, atol=1e-6)
    assert example.prompt is not None
    assert set(example.prompt.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(example.prompt[:, 0] > 0, visible[:, 0] > 0)


def test_targets_are_averaged_down_to_the_predictions_size():
    depth = 1 + noise(1, 1, 2 * SIDE, 2 * SIDE)
    example = prepare(DepthBatch(noise(1, 3, 2 * SIDE, 2 * SIDE), depth), SIDE)
    assert example.image.shape == (1, 3, 2 * SIDE, 2 * SIDE)
    assert example.targets.shape == (1, 1, 3, SIDE, SIDE)
    assert example.prompt is None
    flow = torch.full((1, 2, 2 * SIDE, 2 * SIDE), 6.0)
    picture = torch.zeros(1, 3, 2 * SIDE, 2 * SIDE)
    batch = FlowBatch(picture, picture, flow, torch.zeros(1, 1, 1, 1, dtype=torch.bool))
    target = prepare(batch, SIDE).targets[0, 0].numpy()
    # 6 px of the frame are 3 px of a picture half its size
    u, v = FLOW.decode(target[None, 0], target[None, 1], SIDE, SIDE)
    np.testing.assert_allclose(np.stack([u, v]), 3.0, rtol=1e-4)


def test_every_component_has_its_own_label():
    labels = [component.label for row in COMPONENTS.values() for component in row]
    assert labels == list(range(len(labels)))
