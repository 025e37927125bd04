"""Colours with the statistics of photographs: contrast mostly grey, chroma little and shared."""

import torch
from torch import Tensor

from training.data.procedural.draws import chance, log_uniform, normal, uniform


def colourise(generator: torch.Generator, field: Tensor) -> Tensor:
    """Standard fields (n, 3, S, S) to colours: grey contrast, little chroma, sometimes vivid."""
    count = len(field)
    vivid = chance(generator, 0.2, count, 1)
    chroma = log_uniform(generator, 0.01, 0.12, count, 1) * torch.where(vivid, 2.5, 1.0)
    # Hues of things and of daylight spread mostly from yellow to blue; magenta and green are rare.
    warm, green = normal(generator, count, 1) + 0.5, normal(generator, count, 1)
    axes = torch.tensor([[1.0, 0.1, -1.1], [-0.5, 0.6, -0.1]], device=field.device)
    tint = (warm * axes[0] + 0.6 * green * axes[1]) * chroma * 1.5
    brightness = uniform(generator, 0.12, 0.88, count, 1)
    base = (brightness + tint).clamp(0.03, 0.97)
    contrast = log_uniform(generator, 0.02, 0.28, count, 1, 1)
    # The first field scales the base colour, as shading and the density of a pigment do.
    mixing = torch.zeros(count, 3, 3, device=field.device)
    mixing[:, :, 0] = base / brightness
    mixing[:, :, 0] += normal(generator, count, 3) * chroma
    mixing[:, :, 1:] = normal(generator, count, 3, 2) * (chroma * 2.5)[:, :, None]
    signal = torch.einsum("nij,njhw->nihw", mixing * contrast, field)
    rgb = base[:, :, None, None] + signal
    # A soft knee at both ends instead of flat clipped areas.
    inner = rgb.clamp(0.1, 0.9)
    return inner + 0.1 * torch.tanh((rgb - inner) * 10)


def recolour(generator: torch.Generator, textures: Tensor) -> Tensor:
    """Textures (n, 3, S, S) in [0, 1] with new brightness, contrast and tint, some as negatives."""
    shape = (len(textures), 3, 1, 1)
    contrast = log_uniform(generator, 0.4, 1.2, len(textures), 1, 1, 1)
    contrast = contrast * (1 - 2.0 * chance(generator, 0.3, len(textures), 1, 1, 1))
    mean = textures.mean((2, 3), keepdim=True)
    grey = uniform(generator, 0.12, 0.88, len(textures), 1, 1, 1)
    vivid = chance(generator, 0.25, len(textures), 1, 1, 1)
    tint = torch.where(vivid, 0.22, 0.06) * normal(generator, *shape)
    keep = uniform(generator, 0.0, 1.0, len(textures), 1, 1, 1)
    target = torch.lerp(grey + tint, mean, keep)
    return torch.addcmul(target - contrast * mean, textures, contrast).clamp_(0.0, 1.0)
