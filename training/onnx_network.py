"""One network as a `model.onnx`, held against torch.

It does not know what the networks of a model are, nor what they are for.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.onnx_storage import EXTERNAL_BYTES, Storage, save_graph
from training.onnx_storage import round_weights as round_weights  # its callers export as well
from training.routing import recorded_margins
from training.served_model import ExportError as ExportError

OPSET = 20
TOLERANCE = 2e-4  # of the largest output: what may differ between torch and onnxruntime
# Experts whose scores differ by less, which is some eighty roundings of single precision, may be
# picked one for the other. What a token's other expert answers is then off, yet not by everything.
TIE, TIED_TOLERANCE = 1e-5, 0.2


@dataclass(frozen=True)
class Network:
    """One network: example inputs by name (a batch of two) and the name of its only output.

    Of `any_size` the height and width of every picture and latent are free, and `others` are inputs
    of other sizes that it is checked with.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    output: str
    any_size: bool = False
    others: Sequence[Mapping[str, Tensor]] = ()


@dataclass(frozen=True)
class Case:
    """Inputs of a network, what torch answers, and in which rows (B,) experts were all but tied."""

    inputs: Mapping[str, np.ndarray]
    expected: NDArray[np.float32]
    tied: NDArray[np.bool_]


def write_onnx(
    network: Network, path: Path, storage: Storage = "fp16", external_from: int = EXTERNAL_BYTES
) -> None:
    """Exports a network with a free batch dimension; large weights are stored as `storage`.

    From `external_from` bytes of weights on, they lie beside the graph in `model.onnx.data`.
    """
    save_graph(trace(network), path, storage, external_from)


def trace(network: Network) -> ir.Model:
    """The network as a graph that shares its weights with the torch module."""
    with torch.no_grad(), quietly():
        program = torch.onnx.export(
            network.module.eval(),
            kwargs=dict(network.inputs),
            input_names=list(network.inputs),
            output_names=[network.output],
            dynamic_shapes=_free_axes(network),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        model = program.model
        weights = list(model.graph.initializers.values())
        program.optimize()
    # The exporter's rewriting rules remember their last graph, and with it what they replaced.
    kept = {id(value) for value in model.graph.initializers.values()}
    for value in weights:
        if id(value) not in kept:
            value.const_value = None
    found = [value.name for value in model.graph.inputs]
    if found != list(network.inputs):
        raise ExportError(f"{network.name} was exported with the inputs {found}")
    return model


@contextmanager
def quietly() -> Iterator[None]:
    """Without the remarks of exporting libraries about themselves; errors are raised as ever."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _free_axes(network: Network) -> dict[str, dict[int, object]]:
    if not network.any_size:
        batch = torch.export.Dim("batch", min=1, max=4096)
        return {key: {0: batch} for key in network.inputs}
    # Without a range, since tracing may learn one from how torch picks its kernels. `others` show
    # that the graph itself holds for any size.
    free = torch.export.Dim.DYNAMIC
    return {
        key: {axis: free for axis in range(value.ndim) if axis != 1}
        for key, value in network.inputs.items()
    }


def evaluate(network: Network) -> list[Case]:
    """What torch answers to batches of one and two, and to the network's other inputs."""
    module = network.module.eval()
    first = {key: value[:1] for key, value in network.inputs.items()}
    cases = []
    for inputs in (first, network.inputs, *network.others):
        with torch.no_grad(), recorded_margins(module) as margins:
            expected = module(**inputs).numpy()
        tied = np.zeros(len(expected), np.bool_)
        for margin in margins:
            tied |= margin.numpy() < TIE
        cases.append(Case({key: value.numpy() for key, value in inputs.items()}, expected, tied))
    return cases


def check_onnx(network: Network, path: Path) -> float:
    """Runs a written network on the inputs of `evaluate`.

    Returns the largest difference to torch, relative to the largest output; raises ExportError
    beyond TOLERANCE.
    """
    return check_cases(path, network.output, evaluate(network), TOLERANCE)


def check_cases(
    path: Path,
    output: str,
    cases: Sequence[Case],
    tolerance: float,
    exact: Sequence[Case] | None = None,
) -> float:
    """The same for answers that torch gave before, so that its weights need not be kept.

    A row where experts were all but tied may be off by TIED_TOLERANCE, since attention takes a
    token's other expert to all of its row; but one row at least must be within `tolerance`. Returns
    the difference to `exact` instead, where those are given.
    """
    session = _open(path)
    rows = [_differences(session, path, output, case) for case in cases]
    worst = float(np.concatenate(rows).max())
    if not _same(np.concatenate(rows), np.concatenate([case.tied for case in cases]), tolerance):
        raise ExportError(f"{path} differs from torch by {worst:.2e}, more than {tolerance:.0e}")
    if exact is None or exact is cases:
        return worst
    return max(float(_differences(session, path, output, case).max()) for case in exact)


def _same(rows: NDArray[np.float32], tied: NDArray[np.bool_], tolerance: float) -> bool:
    """Whether differences (N,) of rows are what rounding makes of them."""
    allowed = np.where(tied, max(tolerance, TIED_TOLERANCE), tolerance)
    return bool((rows <= allowed).all() and (rows <= tolerance).any())


def _open(path: Path) -> onnxruntime.InferenceSession:
    """A session that runs the graph as it is written, and leaves weights where they are mapped.

    Optimisations keep weights in a second order, and all those stored in half in single precision
    at once. So does the usual order of execution, which begins with all that needs no input.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _differences(
    session: onnxruntime.InferenceSession, path: Path, output: str, case: Case
) -> NDArray[np.float32]:
    """The largest of every row (B,), relative to the largest output."""
    got: NDArray[np.float32] = session.run([output], dict(case.inputs))[0]
    if got.shape != case.expected.shape:
        raise ExportError(f"{path} answers {got.shape} where torch has {case.expected.shape}")
    scale = max(1.0, float(np.abs(case.expected).max()))
    off: NDArray[np.float32] = np.abs(got - case.expected) / scale
    return off.max(axis=tuple(range(1, off.ndim)))
