"""Tracing a network takes seconds, and checkpoints that differ in their JSON have the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from training.onnx_network import Network, trace
from training.onnx_storage import save_graph


def remembering(folder: Path) -> Callable[[Network], ir.Model]:
    """`trace`, but a network with the very same modules and numbers is traced once."""

    def remembered(network: Network) -> ir.Model:
        path = folder / f"{_digest(network)}.onnx"
        if not path.is_file():
            save_graph(trace(network), path, "fp32")
        return ir.load(path)

    return remembered


def _digest(network: Network) -> str:
    module = network.module
    plain = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    digest = hashlib.sha256(repr((module, plain, sorted(network.inputs))).encode())
    for key, value in module.state_dict().items():
        digest.update(key.encode() + value.numpy().tobytes())
    return digest.hexdigest()
