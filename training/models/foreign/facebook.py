"""The layout of facebookresearch/DiT, and of the two families with experts that grew out of it.

Its attention, MLP, timestep embedder and modulation are ours but for their names. The output layer
has rows in the order (patch, patch, C), ours (C, patch, patch). Experts are layers of their own,
ours are stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from training.models.dit import DiTConfig
from training.models.foreign.layout import (
    FREQUENCIES,
    Layout,
    Place,
    channels_first,
    embeds,
    linear,
    transposed,
)
from training.models.moe import ExpertsConfig

POSITIONS = "pos_embed"
CONVOLUTION = ("x_embedder.proj",)
CONVOLUTIONS = tuple(f"x_embedder.proj.conv_in_{number}" for number in range(1, 5))


def layout(config: DiTConfig, convolutions: Sequence[str]) -> Layout:
    """Every tensor of a published network of this shape but its positions."""
    width, area = config.width, config.patch**2
    head = partial(channels_first, patch=config.patch)
    rows = {
        **embeds(convolutions, config),
        **linear("t_embedder.mlp.0", "t_embedder.mlp.0", FREQUENCIES, width),
        **linear("t_embedder.mlp.2", "t_embedder.mlp.2", width, width),
        "y_embedder.embedding_table.weight": Place((config.num_labels, width), "y_embedder.weight"),
        **linear("final_layer.adaLN_modulation.1", "modulation", width, 2 * width),
        **linear("final_layer.linear", "head", width, config.out_channels * area, head),
    }
    for number in range(config.depth):
        rows |= _block(config, f"blocks.{number}.")
    return rows


def _block(config: DiTConfig, block: str) -> Layout:
    width, hidden = config.width, config.hidden
    rows = {
        **_attention(config, f"{block}attn."),
        **linear(f"{block}adaLN_modulation.1", f"{block}modulation", width, 6 * width),
    }
    if config.experts is None:
        rows |= linear(f"{block}mlp.fc1", f"{block}mlp.fc1", width, hidden)
        rows |= linear(f"{block}mlp.fc2", f"{block}mlp.fc2", hidden, width)
        return rows
    return rows | _mixture(f"{block}moe.", f"{block}mlp.", width, hidden, config.experts)


def _attention(config: DiTConfig, attn: str) -> Layout:
    """Normalised queries and keys come with the names of the flash attention that has them."""
    width = config.width
    qkv, proj = ("Wqkv", "out_proj") if config.qk_norm else ("qkv", "proj")
    rows = {
        **linear(f"{attn}{qkv}", f"{attn}qkv", width, 3 * width),
        **linear(f"{attn}{proj}", f"{attn}proj", width, width),
    }
    if config.qk_norm:
        names = [f"{attn}{norm}.{kind}" for norm in ("q_norm", "k_norm") for kind in _NORM]
        rows |= {name: Place((width // config.heads,), name) for name in names}
    return rows


_NORM = ("weight", "bias")


def _mixture(theirs: str, ours: str, width: int, hidden: int, experts: ExpertsConfig) -> Layout:
    rows = {f"{theirs}gate.weight": Place((experts.num, width), f"{ours}gate.weight")}
    one = {"gelu": _gelu, "swiglu": _swiglu}[experts.kind]
    for number in range(experts.num):
        stacked = f"{ours}experts."
        rows |= one(f"{theirs}experts.{number}.", stacked, width, hidden, number)
    if experts.shared:
        inside = experts.shared * width
        names = f"{theirs}shared_experts.", f"{ours}shared."
        opened, halves = f"{names[1]}opened.weight", (slice(0, inside), slice(inside, None))
        rows[f"{names[0]}gate_proj.weight"] = Place((inside, width), opened, at=(halves[0],))
        rows[f"{names[0]}up_proj.weight"] = Place((inside, width), opened, at=(halves[1],))
        rows[f"{names[0]}down_proj.weight"] = Place((width, inside), f"{names[1]}closed.weight")
    return rows


def _gelu(theirs: str, ours: str, width: int, hidden: int, number: int) -> Layout:
    at = (number,)
    return {
        f"{theirs}fc1.weight": Place((hidden, width), f"{ours}weight_in", transposed, at),
        f"{theirs}fc1.bias": Place((hidden,), f"{ours}bias_in", at=at),
        f"{theirs}fc2.weight": Place((width, hidden), f"{ours}weight_out", transposed, at),
        f"{theirs}fc2.bias": Place((width,), f"{ours}bias_out", at=at),
    }


def _swiglu(theirs: str, ours: str, width: int, hidden: int, number: int) -> Layout:
    entered, left = f"{ours}weight_in", f"{ours}weight_out"
    first, second = (
        (number, slice(None), slice(0, hidden)),
        (number, slice(None), slice(hidden, None)),
    )
    return {
        f"{theirs}gate_proj.weight": Place((hidden, width), entered, transposed, first),
        f"{theirs}up_proj.weight": Place((hidden, width), entered, transposed, second),
        f"{theirs}down_proj.weight": Place((width, hidden), left, transposed, (number,)),
    }
