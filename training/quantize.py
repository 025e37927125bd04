"""Integer weights for the CPU: dynamic quantisation to 8 bits, per output channel.

Only matrix products are quantised. Convolutions keep their weights: onnxruntime runs integer ones
slower than single precision on most CPUs. So do gates: they are small, and a score that is off by a
little sends a token to another expert altogether.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

_PRODUCTS = ("MatMul", "Gemm")
_LARGEST = 127  # -128 is left out, so that zero is in the middle


def quantize(model: ir.Model) -> None:
    """Turns matrix products with weights in single precision into integer ones, in place.

    Every weight becomes integers when it is written, and not before: no second copy is made of
    them. The forms are those that onnxruntime's own quantisation writes and its CPU provider fuses.
    """
    gates = _gates(model.graph)
    rows: dict[ir.Value, _Rows] = {}
    for node in list(model.graph):
        if node not in gates and (weight := _weight_of(node)) is not None:
            _replace(model.graph, node, weight, rows)
    for value in list(model.graph.initializers.values()):
        if not value.uses() and not value.is_graph_output():
            assert value.name is not None
            del model.graph.initializers[value.name]


@dataclass(frozen=True)
class _Rows:
    """What enters a product as unsigned integers, (q - zero) * scale."""

    quantised: ir.Value
    scale: ir.Value
    zero: ir.Value


@dataclass(frozen=True)
class _Weight:
    """The right side (K, N) of a product, in single precision whenever it is asked for."""

    name: str
    read: Callable[[], NDArray[np.float32]]
    bias: ir.Value | None


def _weight_of(node: ir.Node) -> _Weight | None:
    """The weight of a product that can be quantised."""
    if node.op_type not in _PRODUCTS or node.inputs[1] is None:
        return None
    value = node.inputs[1]
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
        return None
    if any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return None
    if node.attributes.get_int("transA", 0):
        return None
    transposed = bool(node.attributes.get_int("transB", 0))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if transposed:
        return _Weight(f"{value.name}_transposed", lambda: tensor.numpy().T, bias)
    return _Weight(f"{value.name}", tensor.numpy, bias)


def _replace(graph: ir.Graph, node: ir.Node, weight: _Weight, rows: dict[ir.Value, _Rows]) -> None:
    """The product in integers, brought back to single precision, and its bias."""
    entered, (left,) = node.inputs[0], node.outputs
    assert entered is not None
    if entered not in rows:
        rows[entered] = _quantised_rows(graph, node, entered)
    row = rows[entered]
    quantised, scale, zero = _quantised_weight(graph, weight)

    def add(kind: str, inputs: list[ir.Value], **attributes: ir.DataType) -> ir.Value:
        made = ir.node(kind, inputs, attributes)
        graph.insert_before(node, made)
        return made.outputs[0]

    scales = add("Mul", [row.scale, scale])
    product = add("MatMulInteger", [row.quantised, quantised, row.zero, zero])
    whole = add("Mul", [add("Cast", [product], to=ir.DataType.FLOAT), scales])
    if weight.bias is not None:
        whole = add("Add", [whole, weight.bias])
    ir.convenience.replace_all_uses_with(left, whole, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _quantised_rows(graph: ir.Graph, before: ir.Node, value: ir.Value) -> _Rows:
    node = ir.node("DynamicQuantizeLinear", [value], num_outputs=3)
    graph.insert_before(before, node)
    return _Rows(*node.outputs)


def _quantised_weight(graph: ir.Graph, weight: _Weight) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Integers (K, N), and of every column its scale and its zero, which is 0."""
    names = [f"{weight.name}_{what}" for what in ("quantized", "scale", "zero_point")]
    if names[0] in graph.initializers:  # a weight of several products
        quantised, scales, zeros = (graph.initializers[name] for name in names)
        return quantised, scales, zeros
    values = weight.read()
    extent = np.maximum(values.max(axis=0), -values.min(axis=0)).astype(np.float64)
    scale = (extent / _LARGEST).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    integers = ir.LazyTensor(
        lambda: ir.Tensor(_integers(weight.read(), scale), name=names[0]),
        dtype=ir.DataType.INT8,
        shape=ir.Shape(values.shape),
        name=names[0],
    )
    return (
        _stored(graph, names[0], integers),
        _stored(graph, names[1], ir.Tensor(scale, name=names[1])),
        _stored(graph, names[2], ir.Tensor(np.zeros(scale.shape, np.int8), name=names[2])),
    )


def _integers(values: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    rounded = np.rint(values / scale)
    return np.clip(rounded, -_LARGEST, _LARGEST, out=rounded).astype(np.int8)


def _stored(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    kind, shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, type=kind, shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def _gates(graph: ir.Graph) -> set[ir.Node]:
    """The products whose outcome, through functions of one input, decides a choice."""
    found = set()
    for choice in graph:
        if choice.op_type != "TopK":
            continue
        node = _maker(choice)
        while node is not None and node.op_type not in _PRODUCTS:
            node = _maker(node)
        if node is not None:
            found.add(node)
    return found


def _maker(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0] if node.inputs else None
    return None if value is None else value.producer()
