"""Several processes for one run: launched by `torchrun`, spread by torch's own DDP.

Of the micro-batches of a step, process r of W computes numbers r, r + W, ...; what is learned does
not depend on W. `training.sharding` is the other way to spread, where a model is too large for one
device. The run's folder must be one that all machines share.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

_RUNS = itertools.count()  # of this process; all processes of a run have had equally many

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# A micro-batch's number to its share of the loss, and what is to be remembered of it.
LossOf = Callable[[int], tuple[Tensor, T]]


class LaunchError(ValueError):
    """A run cannot be done as it was asked for, by the processes or the model that there are."""


@dataclass(frozen=True)
class World:
    """This process among those of a run; all processes make the same calls in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def own(self, count: int) -> range:
        """Which of `count` micro-batches this process computes; raises LaunchError."""
        if count % self.size:
            raise LaunchError(
                f"micro_batches is {count}, which {self.size} processes cannot share evenly"
            )
        return range(self.rank, count, self.size)

    def agreed(self, value: T) -> T:
        """What the first process says."""
        if self.size == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told)
        return told[0]

    def gathered(self, own: Sequence[T]) -> list[T]:
        """Equally many values of each process, in the order of `own`'s numbers."""
        if self.size == 1:
            return list(own)
        by_rank: list[Sequence[T]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(by_rank, own)
        return [value for values in zip(*by_rank, strict=True) for value in values]


def is_first_process() -> bool:
    """Whether this process writes and prints, known before and after the processes are joined."""
    return int(os.environ.get("RANK", "0")) == 0


def known_device(text: str) -> str:
    """The name of a device that this machine has, for a command line's option."""
    try:
        device = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no device, such as cuda or cpu") from None
    # Only asked, since on a GPU any tensor costs memory that another process may need.
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(
            f"{text}: PyTorch sees {torch.cuda.device_count()} GPUs on this machine"
        )
    return text


def own_device(name: str) -> torch.device:
    """The device `name`, which of several GPUs is this process's own where torchrun launched it."""
    if name != "cuda" or "LOCAL_RANK" not in os.environ:
        return torch.device(name)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Joins the processes that torchrun launched, if it did; at the end all have come to it.

    Uses a process group that is there already, and leaves it. After an exception the group stays,
    since the others may not come: torchrun ends them.
    """
    if distributed.is_initialized():
        yield World(distributed.get_rank(), distributed.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    # Objects travel through the CPU's backend, which does not make the host wait for the device.
    backends = {"cuda": "cpu:gloo,cuda:nccl"}
    store, rank, size = next(rendezvous("env://"))
    # What an earlier run of this process left in the store must not be taken for this one's.
    prefix = f"run {next(_RUNS)}"
    store = distributed.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    backend = backends.get(device.type, "gloo")
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    world = World(rank, size)
    yield world
    distributed.barrier()
    distributed.destroy_process_group()


class _Pass(nn.Module, Generic[T]):
    """A closure that calls parts of `model`, as the one forward pass that DDP looks at."""

    def __init__(self, model: nn.Module, loss_of: LossOf[T]) -> None:
        super().__init__()
        self.model = model
        self.loss_of = loss_of

    def forward(self, index: int) -> tuple[Tensor, T]:
        return self.loss_of(index)


class Spread(Protocol[T_co]):
    """Gradients of a step: `backward` for each own micro-batch, the `last` one completes them."""

    def backward(self, index: int, last: bool) -> T_co: ...

    def whole(self, ema: nn.Module) -> nn.Module:
        """`ema` as one process would have it."""
        ...


class Alone(Generic[T]):
    """One process."""

    def __init__(self, loss_of: LossOf[T]) -> None:
        self._loss_of = loss_of

    def backward(self, index: int, last: bool) -> T:
        del last
        loss, found = self._loss_of(index)
        torch.autograd.backward(loss)
        return found

    def whole(self, ema: nn.Module) -> nn.Module:
        return ema


class Replicated(Generic[T]):
    """The whole model on every process; gradients are averaged over them."""

    def __init__(self, model: nn.Module, loss_of: LossOf[T]) -> None:
        device = next(model.parameters()).device
        self._pass = DistributedDataParallel(
            _Pass(model, loss_of),
            device_ids=None if device.type == "cpu" else [device],
            # A task's own encoder has no gradient in another task's micro-batch.
            find_unused_parameters=True,
        )

    def backward(self, index: int, last: bool) -> T:
        with nullcontext() if last else self._pass.no_sync():
            loss, found = cast(tuple[Tensor, T], self._pass(index))
            torch.autograd.backward(loss)
        return found

    def whole(self, ema: nn.Module) -> nn.Module:
        return ema
