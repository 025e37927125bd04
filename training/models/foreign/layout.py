"""Tables from the names of a published layout to those of our denoiser, and how they are applied.

A layout names every tensor that a checkpoint must have, its shape there, and where it goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.checkpoint import CheckpointError
from training.models.dit import DiT, DiTConfig
from training.models.transformer import sincos_positions

FREQUENCIES = 256  # of the timestep embedder
_SHOWN = 20
_EXACT, _ROUNDED = 1e-3, 2e-2  # how far positions may be off: in float32, in what is coarser


def _unchanged(value: Tensor) -> Tensor:
    return value


def transposed(value: Tensor) -> Tensor:
    """(out, in) to (in, out)."""
    return value.mT


def as_rows(convolution: Tensor) -> Tensor:
    """A convolution (D, C, patch, patch) as a matrix (C * patch^2, D) on patches."""
    return convolution.flatten(1).T


def channels_first(head: Tensor, patch: int) -> Tensor:
    """Rows of an output layer in the order (patch, patch, C) put into (C, patch, patch)."""
    return head.reshape(patch * patch, -1, *head.shape[1:]).transpose(0, 1).flatten(0, 1)


@dataclass(frozen=True)
class Place:
    """Where a tensor goes: changed, to be all of `ours`, or the part of it that is `at`.

    Several tensors that are all of one of ours are copies, and must be equal.
    """

    shape: tuple[int, ...]  # as published
    ours: str
    change: Callable[[Tensor], Tensor] = _unchanged
    at: tuple[int | slice, ...] = ()


Layout = dict[str, Place]


def linear(
    theirs: str, ours: str, into: int, out: int, change: Callable[[Tensor], Tensor] = _unchanged
) -> Layout:
    """The two tensors of a layer with bias."""
    return {
        f"{theirs}.weight": Place((out, into), f"{ours}.weight", change),
        f"{theirs}.bias": Place((out,), f"{ours}.bias", change),
    }


def embeds(names: Iterable[str], config: DiTConfig) -> Layout:
    """The input convolutions, one per route."""
    shape = (config.width, config.in_channels, config.patch, config.patch)
    layout: Layout = {}
    for route, name in enumerate(names):
        layout[f"{name}.weight"] = Place(shape, "embed.weight", as_rows, (route,))
        layout[f"{name}.bias"] = Place(shape[:1], "embed.bias", at=(route,))
    return layout


def rebuilt(
    weights: dict[str, Tensor], layout: Layout, config: DiTConfig, source: str
) -> dict[str, Tensor]:
    """The state of our denoiser. `weights` is emptied on the way, so that memory can be given back.

    Raises CheckpointError, with all that is missing, unexpected or of another shape, where the
    weights are not those of the layout, and where copies differ.
    """
    _check(weights, layout, source)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DiT(config).state_dict().items()}
    state: dict[str, Tensor] = {}
    for name, place in layout.items():
        value = place.change(weights.pop(name))
        if place.at:
            if place.ours not in state:
                state[place.ours] = torch.empty(
                    shapes[place.ours], dtype=value.dtype, device=value.device
                )
            state[place.ours][place.at].copy_(value)
        elif place.ours not in state:
            state[place.ours] = value
        elif not torch.equal(state[place.ours], value):
            raise CheckpointError(f"{source}: {name} is not equal to the copies before it")
    return state


def _check(weights: Mapping[str, Tensor], layout: Layout, source: str) -> None:
    problems = _listed("missing", [name for name in layout if name not in weights])
    problems += _listed("unexpected", [name for name in weights if name not in layout])
    problems += [
        f"{name} is {list(value.shape)}, not {list(layout[name].shape)}"
        for name, value in weights.items()
        if name in layout and tuple(value.shape) != layout[name].shape
    ][:_SHOWN]
    if problems:
        raise CheckpointError(f"{source} does not have the published layout: {'; '.join(problems)}")


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what} {', '.join(names[:_SHOWN])}{more}"]


def check_positions(positions: Tensor, config: DiTConfig, source: str) -> int:
    """The side, in latent cells, of the grid that stored positions (1, T, D) are of.

    Raises CheckpointError unless they are those that our denoiser computes.
    """
    tokens = positions.shape[1] if positions.ndim == 3 else 0
    side = math.isqrt(tokens)
    if tuple(positions.shape) != (1, side**2, config.width) or not side:
        raise CheckpointError(
            f"{source}: positions are {list(positions.shape)}, not of a square grid and width "
            f"{config.width}"
        )
    expected = sincos_positions(side, side, config.width, torch.zeros(1), config.first_axis)
    off = float((positions[0].float() - expected).abs().max())
    if not off < (_EXACT if positions.dtype == torch.float32 else _ROUNDED):
        raise CheckpointError(
            f"{source}: positions are {off:.2g} off the fixed sines and cosines of a DiT"
        )
    return side * config.patch
