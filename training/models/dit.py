"""The diffusion transformer: adaLN-Zero blocks over a grid of latent patches.

After Peebles and Xie, "Scalable Diffusion Models with Transformers", with three changes of "Scaling
Properties of Diffusion Models for Perceptual Tasks": every task label has its own input convolution
(`PatchEmbedRouter`), the timestep and the label are given per row, so that rows of different tasks
and steps can share a batch, and experts may take the place of the MLP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from service.core.record import require
from training.models.moe import ExpertsConfig, MoE
from training.models.transformer import Attention, Axis, Mlp, sincos_positions


@dataclass(frozen=True)
class DiTConfig:
    """Shape of one denoiser. `in_channels` counts the noisy latent and the condition together."""

    in_channels: int
    out_channels: int
    num_labels: int
    width: int
    depth: int
    heads: int
    patch: int = 2
    mlp_ratio: float = 4.0
    num_routes: int | None = None  # input convolutions; None is one per label
    first_task_label: int = 0  # label l enters by convolution l - first_task_label, within range
    first_axis: Axis = "rows"  # of the positions' first half; public DiT checkpoints: columns
    experts: ExpertsConfig | None = None  # None is one MLP for every token
    qk_norm: bool = False  # whether queries and keys are normalised, head by head
    timestep_span: int = 128  # frequency k of 128 is 10000^(-k / span); diffusers' DiT: 127
    mlp_norm_eps: float = 1e-6  # of the norm before the MLP; diffusers' DiT: 1e-5

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "patch"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        whole = self.width % 4 == 0 and self.width % self.heads == 0
        reason = f"must be a multiple of 4, for positions, and of {self.heads} heads"
        require(whole, "width", f"{reason}, got {self.width}")

    @property
    def routes(self) -> int:
        """How many input convolutions there are."""
        return self.num_labels if self.num_routes is None else self.num_routes

    @property
    def hidden(self) -> int:
        """Width inside the MLP, and inside every expert."""
        return int(self.width * self.mlp_ratio)


class TimestepEmbedder(nn.Module):
    """Timesteps (B,) to vectors (B, D): sinusoids through a two-layer network.

    Frequency k is 10000^(-k / span).
    """

    def __init__(self, width: int, frequencies: int = 256, span: int = 128) -> None:
        super().__init__()
        self.frequencies, self.span = frequencies, span
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = self.frequencies // 2
        steps = torch.arange(half, device=t.device, dtype=torch.float32)
        angles = t.float()[:, None] * torch.exp(-math.log(10_000.0) * steps / self.span)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class PatchEmbedRouter(nn.Module):
    """Patches to tokens, by the convolution of each row's own task label."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        size = config.in_channels * config.patch**2
        self.patch = config.patch
        self.first_task_label = config.first_task_label
        self.routed = config.num_routes is not None or config.first_task_label != 0
        self.weight = nn.Parameter(torch.empty(config.routes, size, config.width))
        self.bias = nn.Parameter(torch.zeros(config.routes, config.width))
        for route in range(config.routes):
            nn.init.xavier_uniform_(self.weight.data[route])

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        route = label
        if self.routed:
            route = (label - self.first_task_label).clamp(0, len(self.weight) - 1)
        # A convolution of stride = kernel is a matrix product on patches (B, T, size) and batches
        # over labels.
        patches = functional.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)
        return patches @ self.weight[route] + self.bias[route][:, None]  # (B, T, D)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x` (B, T, D) scaled and shifted by vectors (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """Attention and MLP, each modulated and gated by the condition vector."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(width, config.heads, config.qk_norm)
        self.norm2 = nn.LayerNorm(width, eps=config.mlp_norm_eps, elementwise_affine=False)
        self.mlp = (
            Mlp(width, config.hidden)
            if config.experts is None
            else MoE(width, config.hidden, config.experts)
        )
        self.modulation = nn.Linear(width, 6 * width)
        # adaLN-Zero: every block starts as the identity.
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        parts = self.modulation(functional.silu(c)).chunk(6, dim=1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        x = x + gate_attn[:, None] * self.attn(modulate(self.norm1(x), shift_attn, scale_attn))
        return x + gate_mlp[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


class DiT(nn.Module):
    """The denoiser: predicts epsilon, v or the sample, whichever it was trained for.

    With `recompute` set, a training step keeps only what enters each block and computes the rest
    again on the way back: a third more work for a fraction of the memory.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.embed = PatchEmbedRouter(config)
        self.t_embedder = TimestepEmbedder(config.width, span=config.timestep_span)
        self.y_embedder = nn.Embedding(config.num_labels, config.width)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.head = nn.Linear(config.width, config.out_channels * config.patch**2)
        self._init_weights()

    def _init_weights(self) -> None:
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        nn.init.normal_(self.y_embedder.weight, std=0.02)
        # The first prediction is zero whatever the input, which keeps the first updates small.
        for linear in (self.modulation, self.head):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, noisy: Tensor, condition: Tensor | None, timestep: Tensor, task: Tensor
    ) -> Tensor:
        """Prediction (B, C, h, w) for `noisy` (B, C, h, w) and `condition` (B, K, h, w).

        `timestep` and `task`, its label, are (B,): every row may be of another task and step. A
        network of images by class alone takes no condition.
        """
        patch, width = self.config.patch, self.config.width
        rows, columns = noisy.shape[2] // patch, noisy.shape[3] // patch
        entered = noisy if condition is None else torch.cat([noisy, condition], dim=1)
        x = self.embed(entered, task)  # (B, T, D)
        x = x + sincos_positions(rows, columns, width, x, self.config.first_axis)
        c = self.t_embedder(timestep) + self.y_embedder(task)  # (B, D)
        for block in self.blocks:
            x = self._through(block, x, c)
        shift, scale = self.modulation(functional.silu(c)).chunk(2, dim=1)
        x = self.head(modulate(self.norm(x), shift, scale))  # (B, T, C * patch^2)
        grid = x.transpose(1, 2).reshape(x.shape[0], -1, rows, columns)
        return functional.pixel_shuffle(grid, patch)

    def _through(self, block: nn.Module, x: Tensor, c: Tensor) -> Tensor:
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return block(x, c)
        # Nothing in a block is random, and asking the generators of a GPU would wait for it.
        again: Tensor = checkpoint(block, x, c, use_reentrant=False, preserve_rng_state=False)
        return again
