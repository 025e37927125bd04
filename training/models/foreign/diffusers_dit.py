"""The layout of diffusers' `DiTTransformer2DModel`, which carries weights of the original DiT.

It computes what DiT does, but for two things that its weights do not say: its timestep frequencies
end one step earlier (it divides by 127 where DiT divides by 128), and its second norm takes
`norm_eps`, 1e-5 unless told otherwise, where DiT has 1e-6. diffusers' converter copies the weights
as they are, so its pipelines evaluate the published ones differently from how they were trained: on
random weights the frequencies change the answers altogether, and the norm the sixth digit. Every
block holds a copy of the embeddings of timestep and label.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from training.checkpoint import CheckpointError
from training.models.dit import DiTConfig
from training.models.foreign.foreign import Foreign
from training.models.foreign.layout import (
    FREQUENCIES,
    Layout,
    Place,
    channels_first,
    check_positions,
    embeds,
    linear,
    rebuilt,
)
from training.models.foreign.tensors import read_folder

_CONFIG, _INSIDE = "config.json", "transformer"
_POSITIONS = "pos_embed.pos_embed"  # which earlier versions saved
_CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # the second is the published one's
_SPAN, _NORM_EPS = 127, 1e-5
_REQUIRED: Mapping[str, object] = MappingProxyType(
    {
        "norm_type": "ada_norm_zero",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_elementwise_affine": False,
    }
)


def is_diffusers(path: Path) -> bool:
    """Whether a folder is meant as a transformer of diffusers, or a pipeline around one."""
    return any((folder / _CONFIG).is_file() for folder in (path, path / _INSIDE))


def read_diffusers(folder: Path, original: bool = False) -> Foreign:
    """A folder of a `DiTTransformer2DModel`, or of a pipeline that has one.

    The network computes what diffusers computes; with `original`, what the original DiT does, whose
    weights the published folders hold. Raises CheckpointError where the folder is not one.
    """
    folder = folder / _INSIDE if (folder / _INSIDE / _CONFIG).is_file() else folder
    plain = _read_config(folder / _CONFIG)
    config = _shape(plain, folder / _CONFIG)
    found = read_folder(folder)
    size = _whole(plain, "sample_size", folder / _CONFIG)
    positions = found.weights.pop(_POSITIONS, None)
    if positions is not None and check_positions(positions, config, found.source) != size:
        raise CheckpointError(f"{folder}: {_POSITIONS} is not of sample_size {size}")
    state = from_diffusers(found.weights, config, found.source)
    if original:
        config = replace(config, timestep_span=128, mlp_norm_eps=1e-6)
        how = "timestep frequencies and norms as the original DiT has them"
    else:
        how = (
            f"timestep frequencies over {_SPAN} and the second norm's {config.mlp_norm_eps:g}, as "
        )
        how += (
            "diffusers computes; the original DiT, if it trained these weights, has 128 and 1e-06"
        )
    return Foreign("dit-diffusers", config, state, size, (*found.notes, how))


def from_diffusers(weights: dict[str, Tensor], config: DiTConfig, source: str) -> dict[str, Tensor]:
    """The state of our denoiser, with one route, from that of a `DiTTransformer2DModel`.

    `weights` is emptied. Raises CheckpointError where they are not of the layout, and where blocks
    embed timesteps or labels differently.
    """
    return rebuilt(weights, _layout(config), config, source)


def _layout(config: DiTConfig) -> Layout:
    width, area = config.width, config.patch**2
    head = partial(channels_first, patch=config.patch)
    rows = {
        **embeds(["pos_embed.proj"], config),
        **linear("proj_out_1", "modulation", width, 2 * width),
        **linear("proj_out_2", "head", width, config.out_channels * area, head),
    }
    for number in range(config.depth):
        rows |= _block(config, f"transformer_blocks.{number}.", f"blocks.{number}.")
    return rows


def _block(config: DiTConfig, theirs: str, ours: str) -> Layout:
    width, hidden, labels = config.width, config.hidden, config.num_labels
    emb = f"{theirs}norm1.emb."
    table = Place((labels, width), "y_embedder.weight")
    rows = {
        **linear(f"{emb}timestep_embedder.linear_1", "t_embedder.mlp.0", FREQUENCIES, width),
        **linear(f"{emb}timestep_embedder.linear_2", "t_embedder.mlp.2", width, width),
        f"{emb}class_embedder.embedding_table.weight": table,
        **linear(f"{theirs}norm1.linear", f"{ours}modulation", width, 6 * width),
        **linear(f"{theirs}attn1.to_out.0", f"{ours}attn.proj", width, width),
        **linear(f"{theirs}ff.net.0.proj", f"{ours}mlp.fc1", width, hidden),
        **linear(f"{theirs}ff.net.2", f"{ours}mlp.fc2", hidden, width),
    }
    for third, part in enumerate("qkv"):
        at = (slice(third * width, (third + 1) * width),)
        for kind, shape in (("weight", (width, width)), ("bias", (width,))):
            packed = Place(shape, f"{ours}attn.qkv.{kind}", at=at)
            rows[f"{theirs}attn1.to_{part}.{kind}"] = packed
    return rows


def _read_config(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a model's configuration: {error}") from error
    if not isinstance(plain, dict) or plain.get("_class_name") not in _CLASSES:
        raise CheckpointError(f"{path} does not describe a {_CLASSES[0]}")
    for name, value in _REQUIRED.items():
        if plain.get(name) != value:
            raise CheckpointError(f"{path}: {name} is {plain.get(name)!r}, and DiT's is {value!r}")
    return plain


def _shape(plain: Mapping[str, Any], path: Path) -> DiTConfig:
    heads = _whole(plain, "num_attention_heads", path)
    channels = _whole(plain, "in_channels", path)
    told = plain.get("out_channels")
    eps = plain.get("norm_eps", _NORM_EPS)
    if not isinstance(eps, float) or eps <= 0:
        raise CheckpointError(f"{path}: norm_eps is {eps!r}, not a positive number")
    return DiTConfig(
        in_channels=channels,
        out_channels=channels if told is None else _whole(plain, "out_channels", path),
        num_labels=_whole(plain, "num_embeds_ada_norm", path) + 1,
        width=heads * _whole(plain, "attention_head_dim", path),
        depth=_whole(plain, "num_layers", path),
        heads=heads,
        patch=_whole(plain, "patch_size", path),
        num_routes=1,
        first_axis="columns",
        timestep_span=_SPAN,
        mlp_norm_eps=eps,
    )


def _whole(plain: Mapping[str, Any], name: str, path: Path) -> int:
    value = plain.get(name)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{path}: {name} is {value!r}, not a positive whole number")
    return value
