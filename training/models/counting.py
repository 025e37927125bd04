"""How large a denoiser is and what one evaluation costs, from its configuration alone.

Costs are multiply-adds (MACs) of matrix products for one row; twice that is floating point
operations. The DiT paper's "Gflops" are these MACs. DiT-MoE's leave out the two products inside
attention, which have no weights: see `attention_macs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.models.dit import DiTConfig
from training.models.moe import ExpertsConfig
from training.models.vae import FACTOR

_FREQUENCIES = 256  # of the timestep embedder


@dataclass(frozen=True)
class Counts:
    """Sizes and costs at one resolution.

    `parameters` counts the positions too, which public checkpoints store and ours compute;
    `active_parameters` those that one token meets; `attention_macs` is part of `macs`.
    """

    parameters: int
    active_parameters: int
    learned_parameters: int
    macs: int
    attention_macs: int


@dataclass(frozen=True)
class _Feed:
    """What stands in the place of the MLP of one block."""

    parameters: int
    active: int
    macs: int  # per token


def count(config: DiTConfig, size: int) -> Counts:
    """Counts of a denoiser on pictures of `size` px."""
    width = config.width
    tokens = (size // FACTOR // config.patch) ** 2
    feed = _feed(config)
    positions = tokens * width
    around = _around(config)
    beside_feed = _linear(width, 3 * width) + _linear(width, width) + _linear(width, 6 * width)
    beside_feed += 4 * (width // config.heads) if config.qk_norm else 0
    learned = around + config.depth * (beside_feed + feed.parameters)
    active = around + config.depth * (beside_feed + feed.active)
    attention = config.depth * 2 * tokens**2 * width
    return Counts(
        parameters=learned + positions,
        active_parameters=active + positions,
        learned_parameters=learned,
        macs=attention + _weight_macs(config, tokens, feed),
        attention_macs=attention,
    )


def _linear(entered: int, left: int, bias: bool = True) -> int:
    return entered * left + (left if bias else 0)


def _around(config: DiTConfig) -> int:
    """Parameters outside the blocks."""
    width, area = config.width, config.patch**2
    return (
        config.routes * _linear(config.in_channels * area, width)
        + _linear(_FREQUENCIES, width)
        + _linear(width, width)
        + config.num_labels * width
        + _linear(width, 2 * width)
        + _linear(width, config.out_channels * area)
    )


def _weight_macs(config: DiTConfig, tokens: int, feed: _Feed) -> int:
    width, area = config.width, config.patch**2
    per_token = (config.in_channels + config.out_channels) * area * width
    per_token += config.depth * (4 * width**2 + feed.macs)
    per_row = _FREQUENCIES * width + width**2 + 2 * width**2 + config.depth * 6 * width**2
    return tokens * per_token + per_row


def _feed(config: DiTConfig) -> _Feed:
    width, hidden = config.width, config.hidden
    if config.experts is None:
        parameters = _linear(width, hidden) + _linear(hidden, width)
        return _Feed(parameters, parameters, 2 * width * hidden)
    return _experts(width, hidden, config.experts)


def _experts(width: int, hidden: int, config: ExpertsConfig) -> _Feed:
    gated = config.kind == "swiglu"
    products = (3 if gated else 2) * width * hidden
    expert = products if gated else products + hidden + width
    shared = 3 * width * (config.shared * width)
    gate = width * config.num
    return _Feed(
        parameters=gate + config.num * expert + shared,
        active=gate + config.active * expert + shared,
        macs=gate + config.active * products + shared,
    )
