"""Tracing a network takes seconds, and most converted here differ in their numbers alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from training.onnx_network import Network, trace
from training.onnx_storage import save_graph

Weights = Mapping[str, np.ndarray]
_PLAIN = (bool, int, float, str, tuple, type(None))


@dataclass(frozen=True)
class _Place:
    """A tensor of the state dict, the other way round where `transposed`."""

    key: str
    transposed: bool

    def numbers(self, weights: Weights) -> np.ndarray:
        found = weights[self.key]
        return found.T if self.transposed else found


def remembering(folder: Path) -> Callable[[Network], ir.Model]:
    """`trace`, but networks of the very same modules are traced once.

    The graph is given the numbers of each. Where it cannot be told which are which, the network is
    traced again. A conversion holds every graph against torch, whichever way it came.
    """
    places: dict[str, dict[str, list[_Place]]] = {}

    def remembered(network: Network) -> ir.Model:
        digest = _digest(network)
        path = folder / f"{digest}.onnx"
        weights = {key: value.numpy() for key, value in network.module.state_dict().items()}
        if digest not in places:
            save_graph(trace(network), path, "fp32")
            places[digest] = _places(ir.load(path), weights)
        model = ir.load(path)
        return model if _refill(model, places[digest], weights) else trace(network)

    return remembered


def _digest(network: Network) -> str:
    """Of everything but numbers: what modules print, and what they leave out then."""
    told: list[object] = [network.module, sorted(network.inputs), network.any_size]
    told += [(key, value.dtype, value.shape[1:]) for key, value in network.inputs.items()]
    for name, module in network.module.named_modules():
        kept = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        told.append((name, {k: v for k, v in kept.items() if isinstance(v, _PLAIN)}))
        told.append({k: v.__qualname__ for k, v in kept.items() if hasattr(v, "__qualname__")})
    shapes = {key: tuple(value.shape) for key, value in network.module.state_dict().items()}
    return hashlib.sha256(repr((told, shapes)).encode()).hexdigest()


def _places(model: ir.Model, weights: Weights) -> dict[str, list[_Place]]:
    """Where every initializer's numbers may have come from; constants are from nowhere."""
    by_bytes: dict[bytes, list[_Place]] = {}
    for key, value in weights.items():
        by_bytes.setdefault(value.tobytes(), []).append(_Place(key, transposed=False))
        if value.ndim == 2:
            by_bytes.setdefault(value.T.tobytes(), []).append(_Place(key, transposed=True))
    found: dict[str, list[_Place]] = {}
    for name, initializer in model.graph.initializers.items():
        assert initializer.const_value is not None
        if same := by_bytes.get(initializer.const_value.numpy().tobytes()):
            found[name] = same
    return found


def _refill(model: ir.Model, places: Mapping[str, list[_Place]], weights: Weights) -> bool:
    """Puts other numbers into a graph; False where those that were the same are so no more."""
    for name, candidates in places.items():
        value = model.graph.initializers[name]
        assert value.const_value is not None
        old = value.const_value.numpy()
        first, *rest = (place.numbers(weights).reshape(old.shape) for place in candidates)
        if not all(np.array_equal(first, other) for other in rest):
            return False
        value.const_value = ir.Tensor(np.ascontiguousarray(first), name=name)
    return True
