"""The shape of a network of the DiT family, read off its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from training.checkpoint import CheckpointError
from training.models.dit import DiTConfig
from training.models.foreign.tensors import Tensors
from training.models.moe import ExpertKind, ExpertsConfig
from training.models.presets import PRESETS

# No tensor tells how many heads there are, but (depth, width) does for what was published.
_HEADS: Mapping[tuple[int, int], int] = MappingProxyType(
    {(40, 1408): 16, **{(c.depth, c.width): c.heads for c in PRESETS.values()}}  # the first: MoE-G
)
_FIRST_LAYERS: Mapping[str, ExpertKind] = MappingProxyType({"fc1": "gelu", "gate_proj": "swiglu"})


@dataclass(frozen=True)
class Told:
    """What no tensor says. Heads are known for published sizes."""

    heads: int | None = None
    active: int = 2  # experts per token


def read_shape(found: Tensors, convolutions: tuple[str, ...], told: Told) -> DiTConfig:
    """The configuration of the network as it was published.

    Raises CheckpointError naming the tensor that is missing or impossible, and where the number of
    heads is neither known nor told.
    """
    width, channels, patch, _ = _shape(found, f"{convolutions[0]}.weight", 4)
    numbers = {int(n[1]) for name in found.weights if (n := re.match(r"blocks\.(\d+)\.", name))}
    depth = max(numbers, default=-1) + 1
    if depth != len(numbers):
        raise CheckpointError(
            f"{found.source} has {len(numbers)} blocks, numbered up to {depth - 1}"
        )
    (rows,) = _shape(found, "final_layer.linear.bias", 1)
    out_channels = rows // patch**2
    if rows not in (channels * patch**2, 2 * channels * patch**2) and len(convolutions) == 1:
        raise CheckpointError(
            f"{found.source}: final_layer.linear has {rows} rows, which is not {channels} channels "
            f"of {patch} x {patch} pixels, once or twice"
        )
    experts, hidden = _feed(found, width, told.active)
    labels, _ = _shape(found, "y_embedder.embedding_table.weight", 2)
    qk_norm = any(name.startswith("blocks.0.attn.Wqkv.") for name in found.weights)
    return DiTConfig(
        in_channels=channels,
        out_channels=out_channels,
        num_labels=labels,
        width=width,
        depth=depth,
        heads=_heads(found, depth, width, told.heads, qk_norm),
        patch=patch,
        mlp_ratio=hidden / width,
        num_routes=len(convolutions),
        first_axis="columns",
        experts=experts,
        qk_norm=qk_norm,
    )


def _shape(found: Tensors, name: str, ndim: int) -> tuple[int, ...]:
    value: Tensor | None = found.weights.get(name)
    if value is None:
        raise CheckpointError(f"{found.source} has no {name}")
    if value.ndim != ndim or not value.numel():
        raise CheckpointError(f"{found.source}: {name} is {list(value.shape)}")
    return tuple(value.shape)


def _feed(found: Tensors, width: int, active: int) -> tuple[ExpertsConfig | None, int]:
    """The experts, if there are any, and the width inside one or inside the MLP."""
    if "blocks.0.moe.gate.weight" not in found.weights:
        return None, _shape(found, "blocks.0.mlp.fc1.weight", 2)[0]
    num, _ = _shape(found, "blocks.0.moe.gate.weight", 2)
    if not 1 <= active <= num:
        raise CheckpointError(
            f"{found.source} has {num} experts, of which {active} cannot be active"
        )
    expert = "blocks.0.moe.experts.0."
    kinds = [layer for layer in _FIRST_LAYERS if f"{expert}{layer}.weight" in found.weights]
    if not kinds:
        raise CheckpointError(f"{found.source} has no {expert}fc1 and no {expert}gate_proj")
    hidden, _ = _shape(found, f"{expert}{kinds[0]}.weight", 2)
    shared = "blocks.0.moe.shared_experts.gate_proj.weight"
    inside = _shape(found, shared, 2)[0] if shared in found.weights else 0
    if inside % width:
        raise CheckpointError(f"{found.source}: {shared} is {inside} wide, no multiple of {width}")
    config = ExpertsConfig(num, active, _FIRST_LAYERS[kinds[0]], inside // width)
    return config, hidden


def _heads(found: Tensors, depth: int, width: int, told: int | None, qk_norm: bool) -> int:
    known = _HEADS.get((depth, width))
    if qk_norm:
        known = width // _shape(found, "blocks.0.attn.q_norm.weight", 1)[0]
    size = f"{depth} blocks of width {width}"
    if known is None and told is None:
        raise CheckpointError(
            f"{found.source}: {size} are no published size, and no tensor tells how many heads "
            "there are: pass --heads"
        )
    if known is not None and told is not None and known != told:
        raise CheckpointError(f"{found.source}: {size} have {known} heads, not {told}")
    heads = told or known or 0
    if heads < 1 or width % heads:
        raise CheckpointError(
            f"{found.source}: {size} cannot have {heads} heads, which must divide the width"
        )
    return heads
