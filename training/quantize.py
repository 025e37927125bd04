"""Integer weights for the CPU: dynamic quantisation to 8 bits, per output channel.

Only matrix products are quantised. Convolutions keep their weights: onnxruntime runs integer ones
slower than single precision on most CPUs.
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
    _forget_shapes(path)
    external = path.with_name(f"{path.name}.data").is_file()
    with quietly():  # onnxruntime advises to optimise first
        quantize_dynamic(
            path,
            target,
            op_types_to_quantize=_TYPES,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=external,
        )
    return ir.load(target)


def _forget_shapes(path: Path) -> None:
    """Weights are transposed on the way, and shapes written down before would contradict them."""
    graph = onnx.load(path, load_external_data=False)
    del graph.graph.value_info[:]
    onnx.save(graph, path)
