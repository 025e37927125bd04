"""One network as Triton wants it: `model.onnx` held against torch, and its `config.pbtxt`.

It does not know what the networks of a model are, nor what they are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 20
TOLERANCE = 2e-4  # of the largest output: what may differ between torch and onnxruntime
_STORED_WHOLE = 256  # tensors up to this size (biases, norms) stay in single precision
_MAX_BATCH = 64
_TRITON_TYPES = {torch.float32: "TYPE_FP32", torch.int64: "TYPE_INT64"}


class ExportError(Exception):
    """An exported network does not answer as the torch one does; the message says which."""


@dataclass(frozen=True)
class Network:
    """One network: example inputs by name (a batch of two) and the name of its only output."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    output: str


@torch.no_grad()
def round_weights(model: nn.Module) -> None:
    """Rounds large weights to what half precision stores, so that torch computes with the same."""
    for parameter in model.parameters():
        if parameter.numel() > _STORED_WHOLE:
            parameter.copy_(parameter.half().float())


def write_onnx(network: Network, path: Path) -> None:
    """Exports a network with a free batch dimension; large weights are stored in half precision."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.no_grad():
        program = torch.onnx.export(
            network.module.eval(),
            kwargs=dict(network.inputs),
            input_names=list(network.inputs),
            output_names=[network.output],
            dynamic_shapes={key: {0: batch} for key in network.inputs},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _store_half(proto.graph)
    del proto.graph.value_info[:]
    for part in (proto, proto.graph, *proto.graph.node):  # source paths of the exporting machine
        del part.metadata_props[:]
    proto.producer_version = ""
    onnx.checker.check_model(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _store_half(graph: onnx.GraphProto) -> None:
    """Large tensors that lose nothing by it become float16 with a Cast, folded away on loading.

    Those are the weights, after `round_weights`; constants such as positions stay as they are.
    """
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size <= _STORED_WHOLE:
            continue
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name, stored = tensor.name, f"{tensor.name}_half"
        tensor.CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def check_onnx(network: Network, path: Path) -> float:
    """Runs a written network on batches of one and two.

    Returns the largest difference to torch, relative to the largest output; raises ExportError
    beyond TOLERANCE.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows in (1, 2):
        inputs = {key: value[:rows] for key, value in network.inputs.items()}
        with torch.no_grad():
            expected = network.module(**inputs).numpy()
        arrays = {key: value.numpy() for key, value in inputs.items()}
        got: NDArray[np.float32] = session.run([network.output], arrays)[0]
        difference = float(np.abs(got - expected).max() / max(1.0, np.abs(expected).max()))
        worst = max(worst, difference)
    if not worst <= TOLERANCE:
        raise ExportError(f"{path} differs from torch by {worst:.2e}, more than {TOLERANCE:.0e}")
    return worst


def triton_config(network: Network) -> str:
    """The network's config.pbtxt: any batch up to 64, calls of several gateways merged."""
    with torch.no_grad():
        output = network.module(**network.inputs)
    tensors = [_triton_tensor("input", key, value) for key, value in network.inputs.items()]
    return "\n".join(
        [
            f'name: "{network.name}"',
            'backend: "onnxruntime"',
            f"max_batch_size: {_MAX_BATCH}",
            *tensors,
            _triton_tensor("output", network.output, output),
            "dynamic_batching { }",
            "",
        ]
    )


def _triton_tensor(kind: str, name: str, value: Tensor) -> str:
    dims = ", ".join(str(size) for size in value.shape[1:])
    # Triton has no scalar per row: it is declared as one number and reshaped to none.
    shape = f"dims: [ {dims} ]" if dims else "dims: [ 1 ] reshape: { shape: [ ] }"
    return f'{kind} [ {{ name: "{name}" data_type: {_TRITON_TYPES[value.dtype]} {shape} }} ]'
