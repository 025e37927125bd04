"""What a camera does to a clean picture: light, optics, sensor noise, tone, sharpening, JPEG.

Every picture has parameters of its own. The expensive steps (blur, JPEG) touch a random part of the
batch, so that many pictures stay untouched by them and the whole stays cheap.
"""

import functools
import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.draws import chance, log_uniform, normal, uniform

BLOCK = 8  # side of a JPEG block


@dataclass(frozen=True)
class CameraSettings:
    """One row for each picture, all float32 on one device."""

    gain: Tensor  # (B, 3, 1, 1), exposure times white balance
    gamma: Tensor  # (B, 1, 1, 1), exponent of the tone curve
    saturation: Tensor  # (B, 1, 1, 1), 1 keeps the colours
    contrast: Tensor  # (B, 1, 1, 1), 1 keeps the contrast about mid-grey
    vignette: Tensor  # (B, 1, 1, 1), share of light lost in the corners
    shot_noise: Tensor  # (B, 1, 1, 1), variance per unit of brightness
    read_noise: Tensor  # (B, 1, 1, 1), standard deviation in the dark
    blur: Tensor  # (B,), standard deviation in px, 0 is sharp; negative sharpens
    quality: Tensor  # (B,), scale of the JPEG quantisation table, 0 is no JPEG


def draw_settings(generator: torch.Generator, count: int) -> CameraSettings:
    """Random settings of `count` cameras: most pictures are ordinary, few are bad."""
    plane = (count, 1, 1, 1)
    exposure = (normal(generator, *plane) * 0.18).exp()
    warmth = normal(generator, *plane) * 0.07
    tint = normal(generator, *plane) * 0.025
    balance = torch.cat([1 + warmth, 1 + tint, 1 - warmth], dim=1)
    noisy = chance(generator, 0.7, *plane)
    sharp = uniform(generator, 0.0, 1.0, count)
    blur = torch.where(sharp < 0.3, log_uniform(generator, 0.3, 1.6, count), 0.0)
    blur = torch.where(sharp > 0.75, -uniform(generator, 0.1, 0.8, count), blur)
    jpeg = log_uniform(generator, 0.1, 1.6, count)
    return CameraSettings(
        gain=exposure * balance,
        gamma=(normal(generator, *plane) * 0.15).exp(),
        saturation=uniform(generator, 0.6, 1.3, *plane),
        contrast=uniform(generator, 0.8, 1.25, *plane),
        vignette=uniform(generator, -0.3, 0.4, *plane).clamp_min(0.0),
        shot_noise=noisy * log_uniform(generator, 1e-5, 2e-3, *plane),
        read_noise=noisy * log_uniform(generator, 5e-4, 0.02, *plane),
        blur=blur,
        quality=torch.where(chance(generator, 0.5, count), jpeg, 0.0),
    )


@torch.no_grad()
def apply_camera(images: Tensor, generator: torch.Generator) -> Tensor:
    """Photograph clean pictures.

    Args:
        images: float32 (B, 3, H, W) in [0, 1], on the generator's device.
        generator: source of all settings and of the noise.

    Returns:
        float32 (B, 3, H, W) in [0, 1].
    """
    return develop(images, draw_settings(generator, len(images)), generator)


@torch.no_grad()
def apply_camera_to_pair(
    frame1: Tensor, frame2: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Photograph two frames of one scene: same camera, slightly other exposure, other noise.

    Args:
        frame1: float32 (B, 3, H, W) in [0, 1], on the generator's device.
        frame2: of the same shape.
        generator: source of all settings and of the noise.

    Returns:
        Both frames, float32 (B, 3, H, W) in [0, 1].
    """
    count = len(frame1)
    first = draw_settings(generator, count)
    both = {
        field.name: torch.cat([getattr(first, field.name)] * 2) for field in fields(CameraSettings)
    }
    drift = 1 + 0.015 * normal(generator, count, 3, 1, 1)
    drift = drift * (1 + 0.03 * normal(generator, count, 1, 1, 1))
    both["gain"] = torch.cat([first.gain, first.gain * drift])
    shots = develop(torch.cat([frame1, frame2]), CameraSettings(**both), generator)
    return shots[:count], shots[count:]


def develop(images: Tensor, settings: CameraSettings, generator: torch.Generator) -> Tensor:
    """Take pictures with given settings; the noise comes from the generator. Shapes as above."""
    height, width = images.shape[-2:]
    y = torch.linspace(-1, 1, height, device=images.device)[:, None]
    x = torch.linspace(-1, 1, width, device=images.device)[None, :]
    light = images * (settings.gain * (1 - settings.vignette * (x * x + y * y) / 2))
    light = soften(light, settings.blur)
    # Sharpening leaves negative values at dark edges; light itself has none.
    light = light.clamp_min_(0.0)
    variance = settings.shot_noise * light + settings.read_noise.square()
    light = light.addcmul_(normal(generator, *images.shape), variance.sqrt_())
    tone = light.clamp_(1e-4, 1.0).log_().mul_(settings.gamma).exp_()
    grey = tone.mean(1, keepdim=True)
    tone = torch.lerp(grey, tone, settings.saturation)
    tone = (tone - 0.5).mul_(settings.contrast).add_(0.5).clamp_(0.0, 1.0)
    return compress(tone, settings.quality)


def soften(images: Tensor, blur: Tensor) -> Tensor:
    """Gaussian blur of the pictures with blur > 0, unsharp masking of those with blur < 0.

    Args:
        images: float32 (B, 3, H, W).
        blur: float32 (B,), standard deviation in px (up to 2), or minus the sharpening strength.

    Returns:
        float32 (B, 3, H, W), a new tensor.
    """
    chosen = blur.nonzero()[:, 0]
    if not len(chosen):
        return images.clone()
    amount = blur[chosen][:, None, None, None]
    picked = images[chosen]
    sigma = torch.where(amount > 0, amount, 1.0)
    taps = torch.arange(4, device=images.device) / sigma  # (b, 1, 1, 4)
    kernel = torch.exp(-0.5 * taps.square())
    kernel = kernel / (2 * kernel.sum(-1, keepdim=True) - 1)
    smooth = _convolve(_convolve(picked, kernel, 2), kernel, 3)
    result = images.clone()
    result[chosen] = torch.where(amount > 0, smooth, picked - amount * (picked - smooth))
    return result


def _convolve(images: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Symmetric seven-tap filter along one axis, each picture with its own kernel (b, 1, 1, 4)."""
    size = images.shape[axis]
    padded = F.pad(images, (0, 0, 3, 3) if axis == 2 else (3, 3, 0, 0), mode="replicate")
    total = images * kernel[..., :1]
    for tap in range(1, 4):
        pair = padded.narrow(axis, 3 - tap, size) + padded.narrow(axis, 3 + tap, size)
        total.addcmul_(pair, kernel[..., tap : tap + 1])
    return total


@functools.cache
def _jpeg_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """DCT of a flattened 8x8 block (64, 64), quantisation steps (3, 64), RGB to YCbCr (3, 3)."""
    k = torch.arange(BLOCK, dtype=torch.float32)
    line = torch.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * BLOCK)) / 2
    line[0] /= math.sqrt(2)
    frequency = k[:, None] + k[None, :]
    # A smooth fit of the tables of Annex K of the JPEG standard, in units of full brightness.
    luma = (12 + 6.5 * frequency + 0.4 * frequency.square()).flatten() / 255
    chroma = (18 + 20 * frequency).clamp_max(99).flatten() / 255
    colour = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    steps = torch.stack([luma, chroma, chroma])
    return torch.kron(line, line).to(device), steps.to(device), colour.to(device)


def compress(images: Tensor, quality: Tensor) -> Tensor:
    """Quantise 8x8 DCT coefficients as JPEG does.

    Args:
        images: float32 (B, 3, H, W) in [0, 1].
        quality: float32 (B,), factor of the standard tables (1 is quality 50), 0 leaves a picture.

    Returns:
        float32 (B, 3, H, W) in [0, 1].
    """
    chosen = quality.nonzero()[:, 0]
    if not len(chosen):
        return images
    transform, steps, colour = _jpeg_tables(images.device)
    height, width = images.shape[-2:]
    count = len(chosen)
    padding = (0, -width % BLOCK, 0, -height % BLOCK)
    picked = F.pad(images[chosen], padding, mode="replicate")
    rows, columns = picked.shape[-2] // BLOCK, picked.shape[-1] // BLOCK
    ycc = torch.einsum("ij,bjhw->bihw", colour, picked - 0.5)
    blocks = ycc.reshape(count, 3, rows, BLOCK, columns, BLOCK).transpose(3, 4)
    step = steps[None, :, None] * quality[chosen][:, None, None, None]
    coefficients = blocks.reshape(count, 3, rows * columns, BLOCK * BLOCK) @ transform.T
    coefficients = coefficients.div_(step).round_().mul_(step)
    blocks = (coefficients @ transform).view(count, 3, rows, columns, BLOCK, BLOCK)
    ycc = blocks.transpose(3, 4).reshape(count, 3, rows * BLOCK, columns * BLOCK)
    rgb = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(colour), ycc) + 0.5
    return images.index_copy(0, chosen, rgb[..., :height, :width].clamp(0.0, 1.0))
