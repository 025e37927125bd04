"""The diffusion transformer: adaLN-Zero blocks over a grid of latent patches.

After Peebles and Xie, "Scalable Diffusion Models with Transformers", with two changes of "Scaling
Properties of Diffusion Models for Perceptual Tasks": every task label has its own input convolution
(`PatchEmbedRouter`), and the timestep and the label are given per row, so that rows of different
tasks and steps can share a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


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


def sincos_positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Fixed 2-D sine-cosine positions (height * width, channels), rows in the first half.

    Computed from the grid of the input, so that one set of weights serves any latent size.
    """
    quarter = channels // 4
    steps = torch.arange(quarter, device=like.device, dtype=torch.float32) / quarter
    omega = torch.exp(-math.log(10_000.0) * steps)
    rows = torch.arange(height, device=like.device, dtype=torch.float32)[:, None] * omega
    columns = torch.arange(width, device=like.device, dtype=torch.float32)[:, None] * omega
    row_part = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, width, -1)
    column_part = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(height, -1, -1)
    return torch.cat([row_part, column_part], dim=2).reshape(height * width, channels)


class TimestepEmbedder(nn.Module):
    """Timesteps (B,) to vectors (B, D): sinusoids through a two-layer network."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = self.frequencies // 2
        steps = torch.arange(half, device=t.device, dtype=torch.float32) / half
        angles = t.float()[:, None] * torch.exp(-math.log(10_000.0) * steps)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class PatchEmbedRouter(nn.Module):
    """Patches to tokens, by the convolution of each row's own task label."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        size = config.in_channels * config.patch**2
        self.patch = config.patch
        self.weight = nn.Parameter(torch.empty(config.num_labels, size, config.width))
        self.bias = nn.Parameter(torch.zeros(config.num_labels, config.width))
        for label in range(config.num_labels):
            nn.init.xavier_uniform_(self.weight.data[label])

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        # A convolution of stride = kernel is a matrix product on patches (B, T, size) and batches
        # over labels.
        patches = functional.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)
        return patches @ self.weight[label] + self.bias[label][:, None]  # (B, T, D)


class Attention(nn.Module):
    """Multi-head self-attention over (B, T, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, D / heads) each
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with tanh-GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class ViTBlock(nn.Module):
    """A plain pre-norm transformer block, for encoders: no timestep, no label."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def over_grid(x: Tensor, blocks: nn.ModuleList, norm: nn.LayerNorm) -> Tensor:
    """A grid (B, D, h, w) as tokens with positions through plain blocks and `norm`; same shape."""
    height, width = x.shape[2:]
    tokens = x.flatten(2).transpose(1, 2)  # (B, T, D)
    tokens = tokens + sincos_positions(height, width, tokens.shape[2], tokens)
    for block in blocks:
        tokens = block(tokens)
    return norm(tokens).transpose(1, 2).reshape(x.shape)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x` (B, T, D) scaled and shifted by vectors (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """Attention and MLP, each modulated and gated by the condition vector."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))
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
    """The denoiser: predicts epsilon, v or the sample, whichever it was trained for."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = PatchEmbedRouter(config)
        self.t_embedder = TimestepEmbedder(config.width)
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

    def forward(self, noisy: Tensor, condition: Tensor, timestep: Tensor, task: Tensor) -> Tensor:
        """Prediction (B, C, h, w) for `noisy` (B, C, h, w) and `condition` (B, K, h, w).

        `timestep` and `task`, its label, are (B,): every row may be of another task and step.
        """
        patch = self.config.patch
        height, width = noisy.shape[2] // patch, noisy.shape[3] // patch
        x = self.embed(torch.cat([noisy, condition], dim=1), task)  # (B, T, D)
        x = x + sincos_positions(height, width, self.config.width, x)
        c = self.t_embedder(timestep) + self.y_embedder(task)  # (B, D)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.modulation(functional.silu(c)).chunk(2, dim=1)
        x = self.head(modulate(self.norm(x), shift, scale))  # (B, T, C * patch^2)
        grid = x.transpose(1, 2).reshape(x.shape[0], -1, height, width)
        return functional.pixel_shuffle(grid, patch)
