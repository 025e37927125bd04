"""A model in shards over the processes of a run, by torch's own FSDP.

Every transformer block of the denoiser is gathered when its turn comes, the denoiser's other
parameters while it runs, and what remains, such as condition encoders, for the whole pass. What is
not trained stays whole everywhere.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from training.distributed import LossOf
from training.models.dit import DiT, DiTBlock

T = TypeVar("T")

_UNITS = (DiTBlock, DiT)  # innermost first


class Sharded(Generic[T]):
    """Parameters, gradients, moments and the moving average are each spread over all processes.

    Shards `model` and `ema` in place.
    """

    def __init__(self, model: nn.Module, ema: nn.Module, loss_of: LossOf[T], size: int) -> None:
        device = next(model.parameters()).device
        mesh = init_device_mesh(device.type, (size,))
        self._device, self._model = device, model
        self._shell = copy.deepcopy(ema).cpu()
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        self._pass = _Pass(model, loss_of)
        for root, network in ((self._pass, model), (ema, ema)):
            _shard(root, network, trained, mesh)
        self._used: dict[str, bool] = {}

    def backward(self, index: int, last: bool) -> T:
        cast(FSDPModule, self._pass).set_requires_gradient_sync(last)
        self._pass.completes = last
        loss, found, used = self._pass(index)
        self._used = {name: hit or self._used.get(name, False) for name, hit in used.items()}
        torch.autograd.backward(loss)
        if last:
            self._drop_unused()
        return found

    def whole(self, ema: nn.Module) -> nn.Module:
        """`ema` as one process would have it."""
        parameters = dict(ema.named_parameters())
        with torch.no_grad():
            for name, value in self._shell.named_parameters():
                source = parameters[name]
                value.copy_(source.full_tensor() if isinstance(source, DTensor) else source)
        return self._shell.to(self._device)

    def _drop_unused(self) -> None:
        """Takes the zeros away again from what no process used: one process would have none."""
        used = torch.tensor(list(self._used.values()), dtype=torch.int32, device=self._device)
        if len(used):
            distributed.all_reduce(used, distributed.ReduceOp.MAX)
        parameters = dict(self._model.named_parameters())
        for name, hit in zip(self._used, used.tolist(), strict=True):
            if not hit:
                parameters[name].grad = None
        self._used = {}


class _Pass(nn.Module, Generic[T]):
    """A closure that calls parts of `model`, as one forward pass.

    The one that `completes` a step gives every gathered parameter a gradient, since all processes
    must send the same ones.
    """

    def __init__(self, model: nn.Module, loss_of: LossOf[T]) -> None:
        super().__init__()
        self.model, self.loss_of = model, loss_of
        self.completes = True

    def forward(self, index: int) -> tuple[Tensor, T, dict[str, bool]]:
        loss, found = self.loss_of(index)
        # Units have returned their parameters by now; what remains belongs to the whole pass.
        loose = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and not isinstance(parameter, DTensor)
        }
        leaves = _leaves(loss) if loose else set()
        used = {name: id(parameter) in leaves for name, parameter in loose.items()}
        if self.completes:
            for name, parameter in loose.items():
                if not used[name]:
                    loss = loss + 0.0 * parameter.sum()
        return loss, found, used


def _shard(root: nn.Module, network: nn.Module, trained: set[str], mesh: DeviceMesh) -> None:
    """`fully_shard` on every unit in `network`, then on `root`."""
    fixed = {p for name, p in network.named_parameters() if name not in trained}
    for kind in _UNITS:
        for module in network.modules():
            if isinstance(module, kind):
                fully_shard(module, mesh=mesh, ignored_params=fixed)
    if not isinstance(root, _UNITS):
        fully_shard(root, mesh=mesh, ignored_params=fixed)


def _leaves(loss: Tensor) -> set[int]:
    """Identities of the parameters that `loss` depends on."""
    seen, leaves, ahead = set(), set(), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        ahead.extend(following for following, _ in node.next_functions)
    return leaves
