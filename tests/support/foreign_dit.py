"""Checkpoints of the public DiT family with random weights, and their forward pass.

Written from the published sources' tables of names (facebookresearch/DiT, feizc/DiT-MoE, the
perception paper's release), for plain functions of torch: no part of it is ours. Experts are all
computed, and those that the gate did not pick are multiplied by zero.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """Shape of one network as its repository would build it."""

    width: int = 48
    depth: int = 2
    heads: int = 3
    patch: int = 2
    latent: int = 16  # side of the latents
    channels: int = 4  # of the input
    out_channels: int = 8
    labels: int = 1001
    experts: int = 0
    expert: str = "swiglu"
    shared: int = 0
    flash: bool = False
    routed: bool = False


DIT = Published()
DIT_MOE = Published(experts=4, shared=2)
DIT_MOE_FLASH = Published(experts=4, shared=2, flash=True)
GENERALIST = Published(channels=12, labels=1005, experts=8, expert="gelu", routed=True)


def positions(width: int, side: int) -> Tensor:
    """The fixed sines and cosines (1, side^2, width), columns first, in double precision."""
    columns, rows = np.meshgrid(np.arange(side, dtype=np.float64), np.arange(side))
    omega = 10_000.0 ** (-np.arange(width // 4) / (width / 4))
    parts = []
    for axis in (columns, rows):
        angles = axis.reshape(-1, 1) * omega
        parts += [np.sin(angles), np.cos(angles)]
    return torch.from_numpy(np.concatenate(parts, axis=1)).float()[None]


def shapes(of: Published) -> dict[str, tuple[int, ...]]:
    """Every name and shape of a checkpoint but its positions."""
    d, out = of.width, of.out_channels * of.patch**2
    layers = {
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "final_layer.adaLN_modulation.1": (2 * d, d),
        "final_layer.linear": (out, d),
    }
    names = [f"proj.conv_in_{n}" for n in (1, 2, 3, 4)] if of.routed else ["proj"]
    found: dict[str, tuple[int, ...]] = {"y_embedder.embedding_table.weight": (of.labels, d)}
    for name in names:
        found[f"x_embedder.{name}.weight"] = (d, of.channels, of.patch, of.patch)
        found[f"x_embedder.{name}.bias"] = (d,)
    for number in range(of.depth):
        block = f"blocks.{number}."
        qkv, proj = ("Wqkv", "out_proj") if of.flash else ("qkv", "proj")
        layers |= {
            f"{block}attn.{qkv}": (3 * d, d),
            f"{block}attn.{proj}": (d, d),
            f"{block}adaLN_modulation.1": (6 * d, d),
        }
        if of.flash:
            norms = [
                f"{block}attn.{n}.{k}" for n in ("q_norm", "k_norm") for k in ("weight", "bias")
            ]
            found |= dict.fromkeys(norms, (d // of.heads,))
        if not of.experts:
            layers |= {f"{block}mlp.fc1": (4 * d, d), f"{block}mlp.fc2": (d, 4 * d)}
            continue
        found[f"{block}moe.gate.weight"] = (of.experts, d)
        for expert in range(of.experts):
            one = f"{block}moe.experts.{expert}."
            if of.expert == "gelu":
                layers |= {f"{one}fc1": (4 * d, d), f"{one}fc2": (d, 4 * d)}
            else:
                found |= _gated(one, d, 4 * d)
        if of.shared:
            found |= _gated(f"{block}moe.shared_experts.", d, of.shared * d)
    for name, shape in layers.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def _gated(name: str, d: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}gate_proj.weight": (hidden, d),
        f"{name}up_proj.weight": (hidden, d),
        f"{name}down_proj.weight": (d, hidden),
    }


def random_weights(of: Published, seed: int = 1) -> Weights:
    """A checkpoint's state dict with no layer at zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"pos_embed": positions(of.width, of.latent // of.patch)}
    for name, shape in shapes(of).items():
        scale = 0.8 if name.endswith("gate.weight") else 0.15
        weights[name] = torch.randn(shape, generator=generator) * scale
    return weights


def forward(
    weights: Mapping[str, Tensor], of: Published, x: Tensor, t: Tensor, y: Tensor
) -> Tensor:
    """What the published network answers: (B, out_channels, H, W) of (B, channels, H, W)."""
    tokens = torch.cat([_patches(weights, of, x[n : n + 1], int(y[n])) for n in range(len(x))])
    tokens = tokens + weights["pos_embed"]
    half = 128
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half)
    angles = t[:, None].float() * frequencies
    c = _layer(weights, "t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1))
    c = _layer(weights, "t_embedder.mlp.2", c * torch.sigmoid(c))
    c = c + weights["y_embedder.embedding_table.weight"][y]
    c = c * torch.sigmoid(c)
    for number in range(of.depth):
        tokens = _block(weights, of, f"blocks.{number}.", tokens, c)
    shift, scale = _layer(weights, "final_layer.adaLN_modulation.1", c).split(of.width, dim=1)
    tokens = _layer(weights, "final_layer.linear", _modulated(tokens, shift, scale))
    side = x.shape[-1] // of.patch
    cells = tokens.reshape(len(x), side, side, of.patch, of.patch, of.out_channels)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(len(x), of.out_channels, *x.shape[2:])


def _layer(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def _patches(weights: Mapping[str, Tensor], of: Published, x: Tensor, label: int) -> Tensor:
    name = "x_embedder.proj" + (f".conv_in_{label - 999}" if of.routed else "")
    grid = functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=of.patch)
    return grid.flatten(2).transpose(1, 2)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    normed = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return normed * (1 + scale[:, None]) + shift[:, None]


def _block(
    weights: Mapping[str, Tensor], of: Published, block: str, x: Tensor, c: Tensor
) -> Tensor:
    parts = _layer(weights, f"{block}adaLN_modulation.1", c).split(of.width, dim=1)
    attended = _attention(weights, of, f"{block}attn.", _modulated(x, parts[0], parts[1]))
    x = x + parts[2][:, None] * attended
    entered = _modulated(x, parts[3], parts[4])
    if of.experts:
        fed = _mixture(weights, of, f"{block}moe.", entered)
    else:
        fed = _mlp(weights, f"{block}mlp.", entered)
    return x + parts[5][:, None] * fed


def _attention(weights: Mapping[str, Tensor], of: Published, name: str, x: Tensor) -> Tensor:
    qkv = _layer(weights, f"{name}{'Wqkv' if of.flash else 'qkv'}", x)
    parts = qkv.reshape(*x.shape[:2], 3, of.heads, -1).unbind(dim=2)  # (B, T, heads, size) each
    query, key, value = (part.transpose(1, 2) for part in parts)
    if of.flash:
        query, key = (
            functional.layer_norm(
                part,
                part.shape[-1:],
                weights[f"{name}{norm}.weight"],
                weights[f"{name}{norm}.bias"],
                eps=1e-6,
            )
            for part, norm in ((query, "q_norm"), (key, "k_norm"))
        )
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(x.shape)
    return _layer(weights, f"{name}{'out_proj' if of.flash else 'proj'}", mixed)


def _mlp(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    h = _layer(weights, f"{name}fc1", x)
    curve = math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)
    return _layer(weights, f"{name}fc2", 0.5 * h * (1 + curve.tanh()))


def _swiglu(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    gate, up = (_layer(weights, f"{name}{part}_proj", x) for part in ("gate", "up"))
    return _layer(weights, f"{name}down_proj", gate * torch.sigmoid(gate) * up)


def _mixture(weights: Mapping[str, Tensor], of: Published, name: str, x: Tensor) -> Tensor:
    probability = _layer(weights, f"{name}gate", x).softmax(dim=-1)
    second = probability.sort(dim=-1, descending=True).values[..., 1:2]
    share = torch.where(probability >= second, probability, 0)
    expert = _mlp if of.expert == "gelu" else _swiglu
    mixed = torch.zeros_like(x)
    for number in range(of.experts):
        mixed += share[..., number, None] * expert(weights, f"{name}experts.{number}.", x)
    return mixed + _swiglu(weights, f"{name}shared_experts.", x) if of.shared else mixed


def in_diffusers(weights: Mapping[str, Tensor], of: Published) -> Weights:
    """A dense network's weights under the names of diffusers' `DiTTransformer2DModel`."""
    names = {
        "x_embedder.proj": "pos_embed.proj",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    for number in range(of.depth):
        ours, theirs = f"blocks.{number}.", f"transformer_blocks.{number}."
        names |= {
            f"{ours}attn.proj": f"{theirs}attn1.to_out.0",
            f"{ours}adaLN_modulation.1": f"{theirs}norm1.linear",
            f"{ours}mlp.fc1": f"{theirs}ff.net.0.proj",
            f"{ours}mlp.fc2": f"{theirs}ff.net.2",
        }
    found: Weights = {}
    for name, new in names.items():
        found |= {f"{new}.{kind}": weights[f"{name}.{kind}"] for kind in ("weight", "bias")}
    for number in range(of.depth):
        theirs = f"transformer_blocks.{number}."
        emb = f"{theirs}norm1.emb."
        for kind in ("weight", "bias"):
            thirds = weights[f"blocks.{number}.attn.qkv.{kind}"].chunk(3)
            found |= {
                f"{theirs}attn1.to_{part}.{kind}": third.clone()
                for part, third in zip("qkv", thirds, strict=True)
            }
            for first, layer in enumerate(("linear_1", "linear_2")):
                embedder = weights[f"t_embedder.mlp.{2 * first}.{kind}"]
                found[f"{emb}timestep_embedder.{layer}.{kind}"] = embedder
        table = weights["y_embedder.embedding_table.weight"]
        found[f"{emb}class_embedder.embedding_table.weight"] = table
    return found
