"""What every transformer here is made of: positions, attention, MLP, and the plain block.

The denoiser and the condition encoders share these parts.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Axis = Literal["rows", "columns"]


def sincos_positions(
    height: int, width: int, channels: int, like: Tensor, first_axis: Axis = "rows"
) -> Tensor:
    """Fixed 2-D sine-cosine positions (height * width, channels), `first_axis` in the first half.

    Computed from the grid of the input, so that one set of weights serves any latent size.
    """
    quarter = channels // 4
    steps = torch.arange(quarter, device=like.device, dtype=torch.float32) / quarter
    omega = torch.exp(-math.log(10_000.0) * steps)
    rows = torch.arange(height, device=like.device, dtype=torch.float32)[:, None] * omega
    columns = torch.arange(width, device=like.device, dtype=torch.float32)[:, None] * omega
    row_part = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, width, -1)
    column_part = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(height, -1, -1)
    parts = {"rows": [row_part, column_part], "columns": [column_part, row_part]}[first_axis]
    return torch.cat(parts, dim=2).reshape(height * width, channels)


class Attention(nn.Module):
    """Multi-head self-attention over (B, T, D), on request with normalised queries and keys."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, D / heads) each
        query, key = self.q_norm(query), self.k_norm(key)
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
