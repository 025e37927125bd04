"""Where things of one picture are in another: similarity of positions, and look-ups along a flow.

A flow (B, 2, h, w) is in fractions of the frame, x right and y down, on any grid.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# A flow of about one cell at 1/8 as a fraction of the frame: keeps the networks' numbers near one.
CELL = 1 / 24


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Pixel centres (2, height, width) as (x, y) fractions of the picture, in (0, 1)."""
    y = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=like.device, dtype=torch.float32) + 0.5) / width
    return torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)])


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """`features` (B, D, h, w) of the second frame looked up where `flow` says, edges repeated."""
    where = pixel_grid(flow.shape[2], flow.shape[3], flow) + flow
    grid = (2 * where - 1).permute(0, 2, 3, 1)
    return functional.grid_sample(features, grid, padding_mode="border", align_corners=False)


def all_pairs(features1: Tensor, features2: Tensor) -> Tensor:
    """Cosine of each position of one grid (B, D, h, w) with each of the other: (B, h, w, h, w)."""
    height, width = features1.shape[2:]
    first = functional.normalize(features1.float(), dim=1).flatten(2).transpose(1, 2)
    second = functional.normalize(features2.float(), dim=1).flatten(2)
    return (first @ second).reshape(-1, height, width, height, width)


def global_match(volume: Tensor, temperature: Tensor, nearness: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax matching over the whole second frame, as in GMFlow (arXiv 2111.13680, section 3.2).

    `nearness` weighs the squared distance, in cells, against similarity: most things move little,
    and before anything is learned the expected motion is then about zero instead of towards the
    middle. Returns the expected displacement (B, 2, h, w), and the probability of the best match
    (B, 1, h, w).
    """
    batch, height, width = volume.shape[:3]
    centres = pixel_grid(height, width, volume).flatten(1)  # (2, T)
    distance = ((centres[:, :, None] - centres[:, None, :]) / CELL).square().sum(dim=0)
    logits = temperature * volume.reshape(batch, height * width, -1) - nearness * distance
    probability = torch.softmax(logits, dim=2)  # (B, T, T)
    expected = (probability @ centres.T).transpose(1, 2)  # (B, 2, T)
    flow = (expected - centres).reshape(batch, 2, height, width)
    return flow, probability.amax(dim=2).reshape(batch, 1, height, width)


def local_match(volume: Tensor, flow: Tensor, radius: int) -> Tensor:
    """The all-pairs `volume` (B, h, w, h, w) in a window of 2r+1 cells around where `flow` points.

    The look-up of RAFT (arXiv 2003.12039, section 3.2) at its finest level, zero outside the second
    frame. Returns (B, (2r+1)^2, h, w), the window row by row.
    """
    batch, height, width = volume.shape[:3]
    steps = torch.arange(-radius, radius + 1, device=flow.device, dtype=torch.float32)
    around = torch.stack(
        [
            (steps / width)[None].expand(len(steps), -1),
            (steps / height)[:, None].expand(-1, len(steps)),
        ],
        dim=2,
    )  # (2r+1, 2r+1, 2) as (x, y) fractions
    centre = (pixel_grid(height, width, flow) + flow).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = functional.grid_sample(
        volume.reshape(-1, 1, height, width), 2 * (centre + around) - 1, align_corners=False
    )
    return found.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
