"""Maps (B, C, H, W) on coarser grids, and what stands in for pixels that are not known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def shrink(picture: Tensor, size: int) -> Tensor:
    """`picture` (B, C, S, S) averaged down to (B, C, size, size)."""
    if picture.shape[-1] == size:
        return picture
    return functional.interpolate(
        picture, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def shrink_known(values: Tensor, valid: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The mean of what is valid (B, 1, S, S) of `values` (B, C, S, S), and where most of it is."""
    weight = shrink(valid.float(), size)
    mean = shrink(torch.where(valid, values, 0.0), size) / weight.clamp(min=1e-6)
    return mean, weight > 0.5


def fill(values: Tensor, valid: Tensor) -> Tensor:
    """`values` (B, C, H, W) with what is not valid (B, 1, H, W) taken from around it.

    From the smallest of ever coarser grids whose cell knows anything: what is invalid must not
    disturb the latents around it. 0 where nothing is known at all.
    """
    known = torch.where(valid, values, 0.0)
    if min(valid.shape[-2:]) == 1:
        return known
    weight = functional.avg_pool2d(valid.float(), 2, ceil_mode=True)
    mean = functional.avg_pool2d(known, 2, ceil_mode=True) / weight.clamp(min=1e-6)
    around = fill(mean, weight > 0)
    enlarged = functional.interpolate(around, size=tuple(valid.shape[-2:]), mode="nearest")
    return torch.where(valid, values, enlarged)
