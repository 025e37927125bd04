"""Condition encoders and the whole model."""

import pytest
import torch

from service.core.tasks import TASKS
from training.models.motion import MotionEncoder
from training.models.perception import MODELS, PerceptionModel
from training.targets import COMPONENTS, FlowCode

TINY = ("tiny", "tiny-concatenated")


@pytest.fixture(scope="module", params=TINY)
def model(request: pytest.FixtureRequest) -> PerceptionModel:
    torch.manual_seed(0)
    return PerceptionModel(MODELS[request.param]).eval()


def pictures(size: int, seed: int, rows: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(rows, 3, 6, 6, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)


@torch.no_grad()
@pytest.mark.parametrize("task", COMPONENTS)
def test_every_task_has_a_condition_that_depends_on_all_its_pictures(model, task):
    size = model.config.input_size(task)
    image = pictures(size, 1)
    prompt = pictures(size, 2) if len(TASKS[task].images) > 1 else None
    condition = model.encode(task, image, prompt).condition
    latent = model.config.latent_size
    assert condition.shape == (2, model.config.condition_channels, latent, latent)
    image[1] = -image[1]
    changed = model.encode(task, image, prompt).condition
    torch.testing.assert_close(changed[0], condition[0], rtol=1e-5, atol=1e-5)
    assert (changed[1] - condition[1]).abs().max() > 1e-3
    if prompt is not None:
        other = model.encode(task, image, -prompt).condition
        assert (other - changed).abs().amax(dim=(1, 2, 3)).min() > 1e-3


@torch.no_grad()
def test_the_papers_condition_is_the_two_latents():
    model = PerceptionModel(MODELS["tiny-concatenated"])
    image, prompt = pictures(64, 1), pictures(64, 2)
    condition = model.encode("flow", image, prompt).condition
    torch.testing.assert_close(condition[:, :4], model.vae.encode(image))
    torch.testing.assert_close(condition[:, 4:], model.vae.encode(prompt))
    alone = model.encode("depth", image, None).condition
    torch.testing.assert_close(alone[:, 4:], model.vae.encode(torch.ones_like(image)))


def test_the_autoencoder_is_frozen_and_everything_else_learns(model: PerceptionModel):
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {f"vae.{name}" for name, _ in model.vae.named_parameters()}
    assert not any("denoiser" in name for name in fixed)


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 96])
def test_encoders_take_other_sizes_than_the_trained_one(size: int):
    torch.manual_seed(0)
    model = PerceptionModel(MODELS["tiny"])
    assert model.encode("depth", pictures(size, 1), None).condition.shape[-1] == size // 8
    # the motion encoder brings any grid to the latents' own
    assert model.encode("flow", pictures(size, 1), pictures(size, 2)).condition.shape[-1] == 8


@pytest.fixture(scope="module")
def motion() -> MotionEncoder:
    torch.manual_seed(0)
    encoder = PerceptionModel(MODELS["tiny"]).encoders["flow"]
    assert isinstance(encoder, MotionEncoder)
    return encoder.eval()


@torch.no_grad()
def test_the_first_channels_are_the_latent_of_the_flow_found(motion: MotionEncoder):
    encoded = motion(pictures(64, 1), pictures(64, 2))
    assert len(encoded.flows) == 1 + motion.config.refinements
    fine = torch.nn.functional.interpolate(encoded.flows[-1], size=(64, 64), mode="bilinear")
    torch.testing.assert_close(encoded.condition[:, :4], motion.vae(FlowCode().picture(fine)))


@torch.no_grad()
def test_before_training_nothing_is_corrected_and_two_equal_frames_hardly_move(motion):
    frame = pictures(64, 1)
    flows = motion(frame, frame).flows
    assert all(torch.equal(flow, flows[0]) for flow in flows)
    # half of the pixels are nearer to an edge than the matching is sharp
    assert flows[0].abs().median() < 1 / 8


def test_flow_needs_a_second_frame(motion: MotionEncoder):
    with pytest.raises(ValueError, match="second frame"):
        motion(pictures(64, 1), None)


@torch.no_grad()
def test_what_a_correction_sees_is_the_second_frame_moved_onto_the_first(motion: MotionEncoder):
    first = pictures(64, 1)
    second = first.roll(16, dims=3)  # everything moves a quarter of the frame to the right
    flow = torch.zeros(2, 2, 8, 8)
    still = motion.photometric(first, first, flow)
    flow[:, 0] = 0.25
    moved = motion.photometric(first, second, flow)
    torch.testing.assert_close(moved[..., 1:5], still[..., 1:5], rtol=1e-4, atol=1e-5)
    assert (motion.photometric(first, second, -flow) - still)[..., 1:5].abs().max() > 1e-2
