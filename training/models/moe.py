"""Experts instead of one MLP: every token goes through the few that a gate picks for it.

After Fei et al., "Scaling Diffusion Transformers to 16 Billion Parameters" (DiT-MoE), and the
perception paper, which copies a trained MLP into every expert ("upcycling"). The routing is sparse,
and nothing in it makes the host wait for the device: tokens are sorted by expert on the device, and
one grouped matrix product serves all experts whatever their shares. (On CUDA that holds for
bfloat16, which is what training runs in; PyTorch's grouped product reads the group ends back in
single precision.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.core.record import require

ExpertKind = Literal["gelu", "swiglu"]
_ALIGNMENT = 8  # the grouped product wants rows of 16 bytes, which is 8 numbers of bfloat16


@dataclass(frozen=True)
class ExpertsConfig:
    """How tokens are shared among `num` experts, of which each token sees `active`.

    Upcycled models have `gelu` experts (two layers with bias, as the MLP they were copied from);
    models trained from scratch have `swiglu` ones without bias, and a SwiGLU of width
    `shared` x D that every token passes as well.
    """

    num: int = 8
    active: int = 2
    kind: ExpertKind = "gelu"
    shared: int = 0
    renormalise: bool = False  # whether the shares of the picked experts add up to one
    balance_weight: float = 0.01

    def __post_init__(self) -> None:
        require(self.num >= 1, "num", f"must be at least 1, got {self.num}")
        within = 1 <= self.active <= self.num
        require(within, "active", f"must be within 1 and {self.num}, got {self.active}")
        require(self.shared >= 0, "shared", f"must not be negative, got {self.shared}")


def _gelu(h: Tensor) -> Tensor:
    return functional.gelu(h, approximate="tanh")


def _swiglu(h: Tensor) -> Tensor:
    gate, value = h.chunk(2, dim=-1)
    return functional.silu(gate) * value


@dataclass(frozen=True)
class _Form:
    columns: int  # of the first layer, for one of the hidden width
    bias: bool
    activation: Callable[[Tensor], Tensor]


_FORMS: Mapping[ExpertKind, _Form] = MappingProxyType(
    {"gelu": _Form(1, True, _gelu), "swiglu": _Form(2, False, _swiglu)}
)


class Experts(nn.Module):
    """E networks of two layers, stacked: weights (E, in, out), biases (E, out) where there are."""

    def __init__(self, num: int, width: int, hidden: int, kind: ExpertKind) -> None:
        super().__init__()
        if width % _ALIGNMENT or hidden % _ALIGNMENT:
            raise ValueError(f"experts of widths {width} and {hidden}: not multiples of 8")
        self.form = _FORMS[kind]
        opened = self.form.columns * hidden
        self.weight_in = _uniform((num, width, opened), fan_in=width)
        self.weight_out = _uniform((num, hidden, width), fan_in=hidden)
        self.bias_in = _uniform((num, opened), fan_in=width) if self.form.bias else None
        self.bias_out = _uniform((num, width), fan_in=hidden) if self.form.bias else None

    def grouped(self, x: Tensor, ends: Tensor, owner: Tensor) -> Tensor:
        """Rows (N, D) sorted by expert, each through its own.

        `ends` (E,) int32 is where each expert's rows end; `owner` (N, E) is one where a row is an
        expert's, else zero.
        """
        h = self.form.activation(_grouped_linear(x, self.weight_in, self.bias_in, ends, owner))
        return _grouped_linear(h, self.weight_out, self.bias_out, ends, owner)

    def one(self, x: Tensor, expert: int) -> Tensor:
        """Rows (N, D) through one expert."""
        h = x @ self.weight_in[expert]
        h = self.form.activation(h if self.bias_in is None else h + self.bias_in[expert])
        y = h @ self.weight_out[expert]
        return y if self.bias_out is None else y + self.bias_out[expert]


def _uniform(shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
    """What `nn.Linear` starts from, for each expert."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def _grouped_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor, owner: Tensor
) -> Tensor:
    x = _for_products(x)
    y = functional.grouped_mm(x, weight.to(x.dtype), offs=ends)
    # A product with ones and zeros picks each row's bias, and its gradient needs no atomics.
    return y if bias is None else y + owner.to(x.dtype) @ bias.to(x.dtype)


def _for_products(x: Tensor) -> Tensor:
    """`x` as autocast would have it, which knows nothing of grouped products."""
    device = x.device.type
    enabled = torch.is_autocast_enabled(device)
    return x.to(torch.get_autocast_dtype(device)) if enabled else x


class _Take(torch.autograd.Function):
    """`x[index]`, whose gradient is a gather too: row n of `x` was read at `readers[n]`.

    The gradient of plain indexing adds up in no fixed order on a GPU, which would cost the bitwise
    resumption of runs, or sorts once more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, readers: Tensor) -> Tensor:
        ctx.save_for_backward(readers)
        return x[index]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (readers,) = ctx.saved_tensors
        return gradients[0][readers].sum(dim=1), None, None


def _take(x: Tensor, index: Tensor, readers: Tensor) -> Tensor:
    taken: Tensor = _Take.apply(x, index, readers)  # type: ignore[no-untyped-call]
    return taken


class SwiGlu(nn.Module):
    """A gated MLP without bias."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.opened = nn.Linear(width, 2 * hidden, bias=False)  # the gate, then the value
        self.closed = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.closed(_swiglu(self.opened(x)))


class MoE(nn.Module):
    """(B, T, D) to the same shape: sum of p_k expert_k(x) over the picked, and the shared SwiGLU.

    `balance` is the weighted balance loss of the last training pass, None where there was none.
    """

    def __init__(self, width: int, hidden: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = nn.Linear(width, config.num, bias=False)
        self.experts = Experts(config.num, width, hidden, config.kind)
        self.shared = SwiGlu(width, config.shared * width) if config.shared else None
        self.balance: Tensor | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "balance": None}  # what hangs on a graph cannot be copied

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)  # (N, D)
        exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
        probability, share, chosen = self.route(rows)
        if not exporting:
            self.balance = self._balance_loss(probability, chosen) if self.training else None
        mixed = (self.looped if exporting else self.sparse)(rows, share, chosen)
        mixed = mixed.view_as(x)
        return mixed if self.shared is None else mixed + self.shared(x)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows (N, D): all probabilities (N, E), the picked ones' shares (N, k), who they are.

        In single precision always: rounded scores would tie, and ties move tokens about.
        """
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.route(x)
        logits = functional.linear(x.float(), self.gate.weight.float())
        probability = logits.softmax(dim=1)
        share, chosen = probability.topk(self.config.active, dim=1)
        if self.config.renormalise:
            share = share / share.sum(dim=1, keepdim=True)
        return probability, share, chosen

    def sparse(self, x: Tensor, share: Tensor, chosen: Tensor) -> Tensor:
        """The mixture (N, D), each row through its own experts only."""
        active, num = self.config.active, self.config.num
        order = chosen.flatten().argsort(stable=True)  # (N * k,) pairs, by expert
        places = torch.empty_like(order)
        places.scatter_(0, order, torch.arange(len(order), device=x.device))
        owner = chosen.flatten()[order, None] == torch.arange(num, device=x.device)
        ends = owner.sum(dim=0).cumsum(dim=0).to(torch.int32)
        sent = _take(_for_products(x), order // active, places.view(-1, active))
        done = self.experts.grouped(sent, ends, owner)
        back = _take(done, places, order[:, None])  # pairs as they were
        parts = back.view(len(x), active, -1) * share.to(back.dtype)[..., None]
        return parts.sum(dim=1)

    def looped(self, x: Tensor, share: Tensor, chosen: Tensor) -> Tensor:
        """The same, expert by expert: what can be exported, and stays sparse there."""
        mixed = torch.zeros_like(x)
        for expert in range(self.config.num):
            hit = chosen == expert  # (N, k)
            row = hit.any(dim=1).nonzero()[:, 0]
            weight = (share * hit).sum(dim=1)[row, None]
            mixed = mixed.index_add(0, row, self.experts.one(x[row], expert) * weight)
        return mixed

    def dense(self, x: Tensor, share: Tensor, chosen: Tensor) -> Tensor:
        """The same by the definition: every row through every expert, most times zero."""
        weight = torch.zeros(len(x), self.config.num, device=x.device, dtype=share.dtype)
        weight = weight.scatter(1, chosen, share)
        parts = [self.experts.one(x, e) * weight[:, e, None] for e in range(self.config.num)]
        return torch.stack(parts).sum(dim=0)

    def _balance_loss(self, probability: Tensor, chosen: Tensor) -> Tensor:
        """alpha * sum_i P_i f_i (DiT-MoE, section 3.1): smallest, alpha, when all are used alike.

        P_i is the mean probability of expert i and f_i its fraction of all picks, times E.
        """
        num = self.config.num
        picks = chosen.flatten()[:, None] == torch.arange(num, device=chosen.device)
        fraction = picks.float().mean(dim=0) * num
        return self.config.balance_weight * (probability.mean(dim=0) * fraction).sum()


def expert_balance(module: nn.Module) -> Tensor | None:
    """Sum of the balance losses of the last training pass over all MoE layers; None without any."""
    found = [m.balance for m in module.modules() if isinstance(m, MoE) and m.balance is not None]
    return torch.stack(found).sum() if found else None
