"""Where a network's weights go: half precision, and a file of their own for the largest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import DTypeLike
from torch import nn

# Weights inside the graph's own file are copied twice on the way, and twice on the way back: small
# networks stay one file, and of larger ones the weights are written and mapped where they lie.
EXTERNAL_BYTES = 2**26
_STORED_WHOLE = 256  # tensors up to this size (biases, norms) stay in single precision

Storage = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class _Half:
    torch: torch.dtype
    numpy: DTypeLike
    onnx: ir.DataType


_HALVES: Mapping[str, _Half] = {
    "fp16": _Half(torch.float16, np.float16, ir.DataType.FLOAT16),
    "bf16": _Half(torch.bfloat16, ml_dtypes.bfloat16, ir.DataType.BFLOAT16),
}


@torch.no_grad()
def round_weights(model: nn.Module, storage: Storage = "fp16") -> None:
    """Rounds large weights to what will be stored, so that torch computes with the same."""
    if storage == "fp32":
        return
    for parameter in model.parameters():
        if parameter.numel() > _STORED_WHOLE:
            parameter.copy_(parameter.to(_HALVES[storage].torch).float())


def save_graph(
    model: ir.Model, path: Path, storage: Storage, external_from: int = EXTERNAL_BYTES
) -> None:
    """Writes a graph, one weight after the other: no second copy of them is made in memory.

    The graph is used up by it. It lets go of its weights, since the exporter's rewriting rules
    remember the last graph that they saw.
    """
    if storage != "fp32":
        _store_half(model.graph, _HALVES[storage])
    _forget(model)
    weights = model.graph.initializers.values()
    size = sum(weight.const_value.nbytes for weight in weights if weight.const_value is not None)
    path.parent.mkdir(parents=True, exist_ok=True)
    external = f"{path.name}.data" if size >= external_from else None
    if external is None:
        ir.external_data.load_to_model(model)  # a graph that was read may have weights elsewhere
    ir.save(model, path, external_data=external)
    onnx.checker.check_model(path)
    for weight in model.graph.initializers.values():
        weight.const_value = None


def _store_half(graph: ir.Graph, half: _Half) -> None:
    """Large tensors that lose nothing by it are stored in half, each with a Cast of its own.

    Those are the weights, after `round_weights`; constants such as positions stay as they are. A
    Cast comes right before the first that uses it: at the start, onnxruntime would run them all
    there, and hold every weight in single precision at once.
    """
    places = {node: place for place, node in enumerate(graph)}
    first = graph[0]
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size <= _STORED_WHOLE:
            continue
        if not _keeps(tensor, half):
            continue
        assert value.name is not None
        stored = ir.Value(
            name=f"{value.name}_half",
            type=ir.TensorType(half.onnx),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=_halved(tensor, half, f"{value.name}_half"),
        )
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        users = [user for user, _ in value.uses()]
        before = min(users, key=lambda user: places.get(user, 0), default=first)
        graph.insert_before(before if before in places else first, cast)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[value.name]
        cast.outputs[0].name = value.name
        graph.register_initializer(stored)
        value.const_value = None  # see `save_graph`


def _keeps(tensor: ir.TensorProtocol, half: _Half) -> bool:
    values = tensor.numpy()
    with np.errstate(over="ignore"):
        return np.array_equal(values.astype(half.numpy).astype(np.float32), values)


def _halved(tensor: ir.TensorProtocol, half: _Half, name: str) -> ir.LazyTensor:
    """The tensor in half precision, which exists only while it is written."""
    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype(half.numpy), dtype=half.onnx, name=name),
        dtype=half.onnx,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
    )


def _forget(model: ir.Model) -> None:
    """Drops what describes the exporting machine, and shapes that follow from the inputs."""
    model.producer_version = ""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    outputs = set(model.graph.outputs)
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in outputs:
                value.shape, value.type = None, None
