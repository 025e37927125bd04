"""In-process onnxruntime: a session per network and device, a thread per worker.

The only home of onnxruntime in the service.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from service.backends.base import BackendError, Listener, LoadError, UnknownModel
from service.backends.repository import RepositoryError, ServedModel, load_repository
from service.core.artifact import Artifact
from service.core.tensors import Signature, Tensor, model_tensors

_TENSOR_TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}
_LOG_ERRORS_ONLY = 3
_NVIDIA_CARDS = Path("/proc/driver/nvidia/gpus")


def available_cores() -> int:
    """CPU cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_devices() -> tuple[str, ...]:
    """`cuda:0`, `cuda:1`, ... where the installed runtime can use such, else `cpu`."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return ("cpu",)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        cards = len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    else:
        cards = len(list(_NVIDIA_CARDS.iterdir())) if _NVIDIA_CARDS.is_dir() else 0
    return tuple(f"cuda:{index}" for index in range(cards)) or ("cpu",)


@dataclass(frozen=True)
class Network:
    """A loaded network, with the name of its single output."""

    session: ort.InferenceSession
    output: str


class OnnxWorker:
    """A thread that calls the sessions of one device; an in-process call gains from no second.

    `networks` is shared with the device's other workers, and changes as models come and go.
    """

    max_calls = 1

    def __init__(self, name: str, device: str, networks: Mapping[str, Network]) -> None:
        self.name = name
        self.device = device
        self._networks = networks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def serves(self, network: str) -> bool:
        """Whether a network is loaded."""
        return network in self._networks

    async def run(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Call a network in the worker's thread; see Worker.run."""
        loaded = self._networks.get(network)
        if loaded is None:
            raise BackendError(f"no network {network!r} is loaded")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _call, network, loaded, dict(inputs))

    def close(self) -> None:
        """Wait for the call in flight, then free the thread."""
        self._thread.shutdown()


class OnnxBackend:
    """Loads every network of the given models and checks its tensors against the artifact.

    A model is loaded again from the folder that it came from. `devices` are `cpu` and `cuda:N`. On
    the CPU `instances` workers run at once, each on `threads` cores (None: the available cores
    divided among the instances); they share their sessions, so they cost threads and scratch
    memory but no second copy of the weights. Raises BackendError for a file that does not load or
    does not match its artifact, and for a device that is not there.
    """

    def __init__(
        self,
        models: Iterable[ServedModel],
        *,
        devices: Sequence[str] = ("cpu",),
        instances: int = 1,
        threads: int | None = None,
    ) -> None:
        if instances < 1 or (threads is not None and threads < 1):
            raise ValueError("instances and threads must be at least 1")
        if not devices or len(set(devices)) != len(devices):
            raise ValueError("devices must be one or more different ones")
        self._options = _session_options(threads or max(1, available_cores() // instances))
        self._served: dict[str, ServedModel] = {}
        self._networks: dict[str, dict[str, Network]] = {device: {} for device in devices}
        self._listener: Listener | None = None
        found = {model.artifact.key: model for model in models}
        self._folders = {model.folder for model in found.values()}
        self._add(found, self._read(found))
        workers: list[OnnxWorker] = []
        for device, networks in self._networks.items():
            names = [f"cpu:{i}" for i in range(instances)] if device == "cpu" else [device]
            workers.extend(OnnxWorker(name, device, networks) for name in names)
        self._workers = tuple(workers)

    @property
    def workers(self) -> Sequence[OnnxWorker]:
        """The CPU's instances and one worker for every other device."""
        return self._workers

    @property
    def artifacts(self) -> Sequence[Artifact]:
        """Of every version that is loaded."""
        return tuple(model.artifact for model in self._served.values())

    async def open(self, listener: Listener) -> None:
        """Workers and models are there already; tell of later changes."""
        self._listener = listener

    async def load(self, name: str) -> None:
        """Load the versions of a model that the repository has and this backend lacks."""
        found: dict[str, ServedModel] = {}
        try:
            for folder in self._folders:
                found |= await asyncio.to_thread(load_repository, folder, name)
            if not found:
                raise UnknownModel(f"there is no model {name!r} in the repository")
            fresh = {key: model for key, model in found.items() if not self._has(key, model)}
            sessions = await asyncio.to_thread(self._read, fresh)
        except UnknownModel:
            raise
        except (RepositoryError, BackendError) as error:
            raise LoadError(str(error)) from error
        self._add(fresh, sessions)
        if self._listener is not None:
            self._listener.models_changed()

    async def unload(self, artifacts: Sequence[Artifact]) -> None:
        """Drop the sessions of these versions."""
        for artifact in artifacts:
            self._served.pop(artifact.key, None)
            for networks in self._networks.values():
                for network in model_tensors(artifact):
                    networks.pop(network, None)
        if self._listener is not None:
            self._listener.models_changed()

    def _has(self, key: str, model: ServedModel) -> bool:
        """Whether this version is loaded. LoadError if its files are others by now."""
        served = self._served.get(key)
        if served is not None and served.artifact != model.artifact:
            raise LoadError(
                f"{key} is being served and has changed in the repository: give what is new a new "
                "version, or unload this one first"
            )
        return served is not None

    def _read(self, models: Mapping[str, ServedModel]) -> dict[str, dict[str, Network]]:
        """Sessions of all networks of these models, by device and network."""
        served = list(models.values())
        return {device: _load_networks(served, device, self._options) for device in self._networks}

    def _add(
        self, models: Mapping[str, ServedModel], sessions: Mapping[str, dict[str, Network]]
    ) -> None:
        for device, networks in sessions.items():
            self._networks[device].update(networks)
        self._served.update(models)

    async def close(self) -> None:
        """Wait for the calls in flight, then free threads and weights."""
        for worker in self._workers:
            await asyncio.to_thread(worker.close)
        self._workers = ()


def _call(model: str, network: Network, inputs: dict[str, np.ndarray]) -> np.ndarray:
    try:
        (output,) = network.session.run([network.output], inputs)
    except Exception as error:  # the runtime's errors share no base class but this one
        raise BackendError(f"{model} failed: {error}") from error
    return output


def _load_networks(
    models: Iterable[ServedModel], device: str, options: ort.SessionOptions
) -> dict[str, Network]:
    networks: dict[str, Network] = {}
    for model in models:
        for name, signature in model_tensors(model.artifact).items():
            session = _load(model.onnx_file(name), device, options)
            _check_signature(name, session, signature)
            networks[name] = Network(session, signature.output.name)
    return networks


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    # a spinning pool keeps every core busy between calls, which the rest of the service needs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _load(path: Path, device: str, options: ort.SessionOptions) -> ort.InferenceSession:
    provider, settings = _provider(device)
    if provider not in ort.get_available_providers():
        raise BackendError(f"the installed onnxruntime cannot use {device}: it has no {provider}")
    try:
        session = ort.InferenceSession(path, options, providers=[(provider, settings)])
    except Exception as error:  # the runtime's errors share no base class but this one
        raise BackendError(f"{path} does not load on {device}: {error}") from error
    if session.get_providers()[0] != provider:  # else it would serve from the CPU without a word
        raise BackendError(f"{device} cannot be used: the runtime could not start {provider}")
    return session


def _provider(device: str) -> tuple[str, dict[str, str]]:
    """The runtime's name of a device's provider, and which card it is to use."""
    kind, _, number = device.partition(":")
    if device == "cpu":
        return "CPUExecutionProvider", {}
    if kind == "cuda" and number.isdecimal():
        return "CUDAExecutionProvider", {"device_id": number}
    raise BackendError(f"a device is cpu or cuda:0, cuda:1, ..., not {device!r}")


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
