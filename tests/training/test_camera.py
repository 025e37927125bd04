"""The simulated camera: ranges, plausible strength, pairs that belong together, slow references."""

from dataclasses import replace

import torch
from torch.nn import functional as F

from training.data.procedural.camera import (
    CameraSettings,
    apply_camera,
    apply_camera_to_pair,
    compress,
    develop,
    draw_settings,
    soften,
)
from training.data.procedural.textures import make_textures


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def neutral(count: int) -> CameraSettings:
    """A camera that does nothing."""
    one, zero = torch.ones(count, 1, 1, 1), torch.zeros(count, 1, 1, 1)
    flat = torch.zeros(count)
    return CameraSettings(
        gain=one.expand(-1, 3, -1, -1),
        gamma=one,
        saturation=one,
        contrast=one,
        vignette=zero,
        shot_noise=zero,
        read_noise=zero,
        blur=flat,
        quality=flat,
    )


def test_pictures_keep_shape_and_range_and_stay_recognisable() -> None:
    images = make_textures(seeded(0), 64, 36)  # no multiple of 8
    shots = apply_camera(images, seeded(1))
    assert shots.shape == images.shape
    assert shots.dtype == torch.float32
    assert shots.isfinite().all()
    assert shots.min() >= 0
    assert shots.max() <= 1
    change = (shots - images).abs().mean((1, 2, 3))
    assert 0.01 < change.median() < 0.15
    assert (shots.mean() - images.mean()).abs() < 0.06


def test_camera_is_deterministic_and_leaves_its_input_alone() -> None:
    images = make_textures(seeded(0), 8, 32)
    copy = images.clone()
    first, again = (apply_camera(images, seeded(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(images, copy)
    assert not torch.equal(first, apply_camera(images, seeded(4)))


def test_black_and_white_pictures_give_no_nan() -> None:
    images = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]).repeat(32, 1, 1, 1)
    shots = apply_camera(images, seeded(5))
    assert shots.isfinite().all()
    assert shots[0::2].mean() < 0.1
    assert shots[1::2].mean() > 0.8


def test_a_neutral_camera_changes_nothing() -> None:
    images = make_textures(seeded(0), 4, 32)
    shots = develop(images, neutral(4), seeded(0))
    torch.testing.assert_close(shots, images.clamp(1e-4, 1), atol=2e-5, rtol=1e-4)


def test_frames_of_a_pair_share_the_camera_but_not_the_noise() -> None:
    frame = make_textures(seeded(0), 64, 32)
    first, second = apply_camera_to_pair(frame, frame, seeded(6))
    alone = apply_camera(frame, seeded(7))
    assert not torch.equal(first, second)
    drift = (first.mean((2, 3)) - second.mean((2, 3))).abs().mean()
    other = (first.mean((2, 3)) - alone.mean((2, 3))).abs().mean()
    assert drift < 0.4 * other


def test_noise_has_the_asked_strength() -> None:
    images = torch.full((2, 3, 64, 64), 0.5)
    settings = replace(neutral(2), read_noise=torch.tensor([0.0, 0.02]).view(2, 1, 1, 1))
    shots = develop(images, settings, seeded(8))
    assert shots[0].std() < 1e-4
    assert 0.019 < shots[1].std().item() < 0.021


def test_blur_equals_a_plain_gaussian_filter() -> None:
    images = make_textures(seeded(9), 2, 32)
    sigma = 0.9
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma).square())
    kernel = torch.outer(taps, taps)
    kernel = (kernel / kernel.sum()).expand(3, 1, 7, 7)
    expected = F.conv2d(F.pad(images, (3, 3, 3, 3), mode="replicate"), kernel, groups=3)
    smooth = soften(images, torch.tensor([sigma, 0.0]))
    torch.testing.assert_close(smooth[0], expected[0])
    assert torch.equal(smooth[1], images[1])


def test_sharpening_raises_contrast_of_edges() -> None:
    images = make_textures(seeded(10), 4, 32)
    sharp = soften(images, torch.full((4,), -0.5))
    assert (sharp.std((2, 3)) >= images.std((2, 3))).all()


def test_compression_loses_more_at_worse_quality_and_nothing_at_a_perfect_one() -> None:
    images = make_textures(seeded(11), 3, 40)
    shots = [compress(images, torch.full((3,), q)) for q in (1e-6, 0.3, 1.5)]
    torch.testing.assert_close(shots[0], images, atol=2e-3, rtol=0)
    loss = [(shot - images).square().mean() for shot in shots]
    assert loss[0] < loss[1] < loss[2] < 0.01


def test_compression_works_on_whole_blocks() -> None:
    flat = torch.full((1, 3, 16, 16), 0.4)
    torch.testing.assert_close(
        compress(flat, torch.tensor([1.0])).std((2, 3)), torch.zeros(1, 3), atol=1e-6, rtol=0
    )


def test_settings_are_mostly_ordinary() -> None:
    settings = draw_settings(seeded(12), 2000)
    assert 0.8 < settings.gain.median() < 1.25
    assert 0.2 < (settings.blur > 0).float().mean() < 0.4
    assert 0.4 < (settings.quality > 0).float().mean() < 0.6
