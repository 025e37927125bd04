"""Integer weights for the CPU: dynamic quantisation to 8 bits, per output channel.

Only matrix products are quantised. Convolutions keep their weights: onnxruntime runs integer ones
slower than single precision on most CPUs. So do gates: they are small, and a score that is off by a
little sends a token to another expert altogether.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from onnxruntime.quantization import QuantType, quantize_dynamic

from training.onnx_network import quietly

_TYPES = ["MatMul", "Gemm"]


def quantize(path: Path, target: Path) -> ir.Model:
    """Quantise the network at `path`, stored in single precision; `target` is scratch space.

    The graph that is returned reads weights from `target` until it is saved elsewhere.
    """
    graph = _forget_shapes(path)
    external = path.with_name(f"{path.name}.data").is_file()
    with quietly():  # onnxruntime advises to optimise first
        quantize_dynamic(
            path,
            target,
            op_types_to_quantize=_TYPES,
            nodes_to_exclude=_gates(graph),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=external,
        )
    return ir.load(target)


def _forget_shapes(path: Path) -> onnx.GraphProto:
    """Weights are transposed on the way, and shapes written down before would contradict them."""
    model = onnx.load(path, load_external_data=False)
    del model.graph.value_info[:]
    onnx.save(model, path)
    return model.graph


def _gates(graph: onnx.GraphProto) -> list[str]:
    """Names of the products whose outcome, through functions of one input, decides a choice."""
    makers = {output: node for node in graph.node for output in node.output}
    found = []
    for choice in graph.node:
        if choice.op_type != "TopK":
            continue
        node = makers.get(choice.input[0])
        while node is not None and node.op_type not in _TYPES:
            node = makers.get(node.input[0])
        if node is not None:
            found.append(node.name)
    return found
