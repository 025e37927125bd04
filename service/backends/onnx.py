"""In-process onnxruntime on the CPU: one session per network, called from a pool of threads.

The only home of onnxruntime in the service.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from service.backends.base import BackendError, Signature, Tensor, model_tensors
from service.backends.repository import ServedModel

_TENSOR_TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}
_LOG_ERRORS_ONLY = 3


def available_cores() -> int:
    """CPU cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OnnxBackend:
    """Loads every network of the given models and checks its tensors against the artifact.

    `instances` calls run at once, each on `threads` cores (None: the available cores divided among
    the instances). Instances share a session, so they cost threads and scratch memory but no second
    copy of the weights. Raises BackendError for a file that does not load or does not match its
    artifact.
    """

    def __init__(
        self, models: Iterable[ServedModel], *, instances: int = 1, threads: int | None = None
    ) -> None:
        if instances < 1 or (threads is not None and threads < 1):
            raise ValueError("instances and threads must be at least 1")
        options = _session_options(threads or max(1, available_cores() // instances))
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._outputs: dict[str, str] = {}
        for model in models:
            for network, signature in model_tensors(model.artifact).items():
                session = _load(model.onnx_file(network), options)
                _check_signature(network, session, signature)
                self._sessions[network] = session
                self._outputs[network] = signature.output.name
        self._num_workers = instances
        self._threads = ThreadPoolExecutor(instances, thread_name_prefix="onnx")

    @property
    def num_workers(self) -> int:
        """Calls that run at once."""
        return self._num_workers

    async def run(self, model: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Call a network in a thread; see Backend.run."""
        if model not in self._sessions:
            raise BackendError(f"no model {model!r} is loaded")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._call, model, dict(inputs))

    async def close(self) -> None:
        """Wait for the calls in flight, then free threads and weights."""
        await asyncio.to_thread(self._threads.shutdown)
        self._sessions.clear()

    def _call(self, model: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        try:
            (output,) = self._sessions[model].run([self._outputs[model]], inputs)
        except Exception as error:  # the runtime's errors share no base class but this one
            raise BackendError(f"{model} failed: {error}") from error
        return output


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    # a spinning pool keeps every core busy between calls, which the rest of the service needs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _load(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base class but this one
        raise BackendError(f"{path} does not load: {error}") from error


def _check_signature(network: str, session: ort.InferenceSession, signature: Signature) -> None:
    inputs = {node.name: node for node in session.get_inputs()}
    expected = {tensor.name for tensor in signature.inputs}
    if inputs.keys() != expected:
        raise BackendError(
            f"{network} takes {sorted(inputs)} and its artifact says {sorted(expected)}: "
            "export the model again"
        )
    outputs = {node.name: node for node in session.get_outputs()}
    if signature.output.name not in outputs:
        raise BackendError(f"{network} has no output {signature.output.name!r}: export again")
    for tensor in signature.inputs:
        _check_tensor(network, inputs[tensor.name], tensor)
    _check_tensor(network, outputs[signature.output.name], signature.output)


def _check_tensor(network: str, node: ort.NodeArg, tensor: Tensor) -> None:
    dtype = _TENSOR_TYPES.get(node.type, node.type)
    if dtype != tensor.dtype:
        raise BackendError(
            f"{network}: {tensor.name} is {dtype} and its artifact says {tensor.dtype}"
        )
    if node.shape and isinstance(node.shape[0], int):
        raise BackendError(
            f"{network}: {tensor.name} has a fixed batch of {node.shape[0]}: export it with a "
            "dynamic batch axis"
        )
    if not _fits(node.shape, (None, *tensor.shape)):
        raise BackendError(
            f"{network}: {tensor.name} has shape {node.shape} and its artifact says "
            f"[batch, {', '.join(map(str, tensor.shape))}]"
        )


def _fits(shape: Sequence[int | str | None], expected: Sequence[int | None]) -> bool:
    if not shape:  # an exporter that lost the shape: the first call will tell
        return True
    return len(shape) == len(expected) and all(
        want is None or not isinstance(size, int) or size == want
        for size, want in zip(shape, expected, strict=True)
    )
