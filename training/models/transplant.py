"""Moving trained weights into a network of another shape: pure functions between state dicts.

Names and layouts are those of `training.models.dit.DiT`; `training.models.foreign` reads others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from training.models.dit import DiTConfig
from training.models.moe import ExpertsConfig

State = Mapping[str, Tensor]
_GATE_STD = 0.02


class TransplantError(Exception):
    """Weights that have no place in the network they are meant for; the message says why."""


def perception_state(
    weights: State, source: DiTConfig, target: DiTConfig, seed: int
) -> dict[str, Tensor]:
    """The state of a perception denoiser from that of a class-conditional one.

    The input embedding is tiled over [noisy, condition] for every task, the half of the output that
    says the variance is left out, the label table is kept and extended, and dense blocks are
    upcycled where the target has experts. Raises TransplantError where the shapes forbid it.
    """
    _check_shapes(source, target)
    latents, extra = divmod(target.in_channels, source.in_channels)
    if extra or latents < 1:
        raise TransplantError(
            f"{target.in_channels} input channels are no multiple of {source.in_channels}"
        )
    first = target.first_task_label
    if first != source.num_labels - 1:
        raise TransplantError(
            f"task labels start at {first}, but {source.num_labels - 1} classes were pre-trained"
        )
    state = tile_input(weights, latents, target.routes)
    state = _without_variance(state, source, target)
    table = state["y_embedder.weight"]
    state["y_embedder.weight"] = extend_labels(table, target.num_labels - source.num_labels)
    if target.experts is not None and source.experts is None:
        state = upcycle(state, target.experts, seed)
    return state


def upcycle(dense: State, experts: ExpertsConfig, seed: int) -> dict[str, Tensor]:
    """A dense denoiser's state with its MLPs copied into every expert.

    Gates are drawn from N(0, 0.02), as in DiT-MoE's upcycling. Raises TransplantError unless the
    experts are of the MLP's form.
    """
    if experts.kind != "gelu" or experts.shared:
        raise TransplantError("an MLP fits into gelu experts without a shared one, and no others")
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for key, value in dense.items():
        block, fed, inside = key.partition(".mlp.")
        if not (fed and block.startswith("blocks.")):
            state[key] = value
            continue
        layer, kind = inside.split(".")
        if inside == "fc1.weight":
            gate = torch.randn(experts.num, value.shape[1], generator=generator) * _GATE_STD
            state[f"{block}.mlp.gate.weight"] = gate.to(value.device, value.dtype)
        name = f"{block}.mlp.experts.{kind}_{'in' if layer == 'fc1' else 'out'}"
        state[name] = torch.stack([value.mT if kind == "weight" else value] * experts.num)
    return state


def tile_input(weights: State, latents: int, routes: int) -> dict[str, Tensor]:
    """The state with an embedding of `latents` times the channels, given to every route.

    Tiled and divided, so that the response to equal latents is what it was to one. Raises
    TransplantError where the weights already tell routes apart.
    """
    weight, bias = weights["embed.weight"], weights["embed.bias"]
    if len(weight) != 1:
        raise TransplantError(f"the input embedding has {len(weight)} routes, not one to copy")
    tiled = weight.repeat(routes, latents, 1) / latents
    return {**weights, "embed.weight": tiled, "embed.bias": bias.repeat(routes, 1)}


def extend_labels(table: Tensor, num_tasks: int) -> Tensor:
    """A label table (classes + 1, D) with rows for tasks before its last: (classes + n + 1, D).

    A task's row starts as the mean of its part of the classes, in order; the label of no class
    stays the last.
    """
    classes, none = table[:-1], table[-1:]
    if not 1 <= num_tasks <= len(classes):
        raise TransplantError(f"{len(classes)} classes cannot give {num_tasks} tasks a start")
    means = [part.mean(dim=0) for part in torch.tensor_split(classes, num_tasks)]
    return torch.cat([classes, torch.stack(means), none])


def _check_shapes(source: DiTConfig, target: DiTConfig) -> None:
    """Whether all but the ends of two networks agree."""
    dense = source.experts is None
    ends = {
        "in_channels": source.in_channels,
        "out_channels": source.out_channels,
        "num_labels": source.num_labels,
        "num_routes": source.num_routes,
        "first_task_label": source.first_task_label,
        "experts": None if dense else target.experts,
    }
    same = replace(target, **ends)  # type: ignore[arg-type]
    if same != source:
        raise TransplantError(f"a network of {source} does not fit into one of {target}")


def _without_variance(state: State, source: DiTConfig, target: DiTConfig) -> dict[str, Tensor]:
    if source.out_channels not in (target.out_channels, 2 * target.out_channels):
        raise TransplantError(
            f"{source.out_channels} output channels are neither {target.out_channels} nor, with "
            "the variance, twice as many"
        )
    kept = target.out_channels * target.patch**2  # channels come first in the head's rows
    head = {f"head.{kind}": state[f"head.{kind}"][:kept] for kind in ("weight", "bias")}
    return {**state, **head}
