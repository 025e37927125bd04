"""Checkpoints: safetensors for numbers, JSON for the rest; a kill at any moment leaves a whole one.

A checkpoint is a folder `NNNNNNNN` with `model.safetensors`, `ema.safetensors`,
`optimizer.safetensors` and `state.json`. It appears under its final name only when it is complete.
It always holds whole tensors, however many processes a run is spread over, so that any other number
of processes can go on from it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

_KEPT = 2

Tensors = dict[str, Tensor]


class CheckpointError(Exception):
    """A checkpoint that is missing or does not fit the model; the message names the file."""


@dataclass(frozen=True)
class TrainState:
    """What a run needs, beside its networks, to go on exactly where it stopped.

    There is no generator's state: all randomness is derived from the seed and the step.
    """

    step: int
    samples: int
    config: Mapping[str, object]
    passes: Mapping[str, int] = field(default_factory=dict)  # micro-batches of each group so far
    pass_macs: Mapping[str, int] = field(default_factory=dict)  # MACs of one, where measured
    smooth_loss: Mapping[str, float] = field(default_factory=dict)  # what spikes are told by

    @property
    def macs(self) -> int:
        """Multiply-accumulates spent so far, forward and backward, over all processes."""
        return sum(count * self.pass_macs.get(group, 0) for group, count in self.passes.items())


class CheckpointWriter:
    """Saves while training goes on: copies to CPU memory at once, writes in a thread.

    At most one checkpoint is being written; an error of the thread rises from the next `save` or
    from `wait`. Leaving the context waits. In a sharded run every process has one and calls `save`
    together with the others, but only the one that `writes` touches the disk.
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self._folder, self._writes = folder, writes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[Path] | None = None
        self._snapshot = _Snapshot()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self.wait()

    def save(
        self, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState
    ) -> None:
        """Begins to save; what is trained may change as soon as this returns."""
        self.wait()
        taken = self._snapshot.take(model, ema, optimizer, self._writes)
        if self._writes:
            self._under_way = self._thread.submit(_write, self._folder, taken, state)

    def wait(self) -> None:
        """Returns when nothing is being written; raises what the writing raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint below `folder`, if there is one."""
    complete = _complete(folder)
    return complete[-1] if complete else None


def load_networks(path: Path, model: nn.Module, ema: nn.Module) -> None:
    """Strictly loads both sets of weights of a checkpoint, before any sharding."""
    load_weights(model, path / "model.safetensors")
    load_weights(ema, path / "ema.safetensors")


def load_weights(model: nn.Module, path: Path) -> None:
    """Strictly loads one safetensors file into `model`."""
    try:
        load_model(model, str(path), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error


def read_tensors(path: Path) -> Tensors:
    """All tensors of a safetensors file by name. Raises CheckpointError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Restores the moments, whether the parameters are sharded or not. Raises CheckpointError."""
    file = path / "optimizer.safetensors"
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, Tensors] = {}
    for key, value in read_tensors(file).items():
        index, name = key.split(".", 1)
        if int(index) >= len(parameters):
            raise CheckpointError(f"{file} is of {index} parameters or more, not {len(parameters)}")
        parameter = parameters[int(index)]
        if value.ndim and value.shape != parameter.shape:
            shapes = f"{list(value.shape)}, not {list(parameter.shape)}"
            raise CheckpointError(f"{file} has a moment of parameter {index} of shape {shapes}")
        states.setdefault(int(index), {})[name] = _like(value, parameter)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def load_state(path: Path) -> TrainState:
    """What a checkpoint holds beside tensors. Raises CheckpointError."""
    file = path / "state.json"
    try:
        return TrainState(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} does not describe a run's state: {error}") from error


class _Snapshot:
    """Copies in CPU memory, which is allocated once and used again for every checkpoint."""

    def __init__(self) -> None:
        self._files: dict[str, Tensors] = {}

    def take(
        self,
        model: nn.Module,
        ema: nn.Module,
        optimizer: torch.optim.Optimizer,
        keep: bool = True,
    ) -> dict[str, Tensors]:
        """Whole tensors by file and name; not to `keep` them only serves the other processes."""
        sources = {
            "model": _named_once(model),
            "ema": _named_once(ema),
            "optimizer": _moments(optimizer),
        }
        for file, tensors in sources.items():
            copies = self._files.setdefault(file, {})
            for name, value in tensors:
                whole = value.full_tensor() if isinstance(value, DTensor) else value
                if not keep:
                    continue
                if name not in copies:
                    copies[name] = torch.empty(
                        whole.shape, dtype=whole.dtype, pin_memory=whole.is_cuda
                    )
                copies[name].copy_(whole, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self._files


def _named_once(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """State by name, where a tensor that several parts share comes once."""
    state = module.state_dict(keep_vars=True)
    once = {id(value): (name, value) for name, value in reversed(state.items())}
    return [(name, value.detach()) for name, value in once.values()]


def _moments(optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, Tensor]]:
    states = optimizer.state_dict()["state"]
    return [
        (f"{index}.{name}", torch.as_tensor(value))
        for index, entries in states.items()
        for name, value in entries.items()
    ]


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """`value` spread over processes as `parameter` is, if it is."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    # Every process has read the whole file, so that nothing has to be sent.
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)


def _write(folder: Path, files: Mapping[str, Tensors], state: TrainState) -> Path:
    final = folder / f"{state.step:08d}"
    for left_over in folder.glob(".[0-9]*"):
        shutil.rmtree(left_over)
    partial = folder / f".{final.name}.partial"
    partial.mkdir(parents=True)
    for name, tensors in files.items():
        save_file(tensors, partial / f"{name}.safetensors")
    (partial / "state.json").write_text(json.dumps(asdict(state), indent=2) + "\n")
    for path in (*partial.iterdir(), partial):
        _flush(path)
    if final.exists():
        _forget(final)
    partial.rename(final)
    _flush(folder)
    for old in _complete(folder)[:-_KEPT]:
        _forget(old)
    return final


def _forget(path: Path) -> None:
    """Removes a checkpoint; a kill meanwhile leaves nothing that looks like one."""
    gone = path.with_name(f".{path.name}.gone")
    path.rename(gone)
    shutil.rmtree(gone)


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdigit() and (p / "state.json").is_file())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
