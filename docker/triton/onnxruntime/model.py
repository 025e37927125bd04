"""A Triton backend named `onnxruntime`, in Python: the stand-in on machines without NVIDIA's.

Triton takes a folder `onnxruntime/model.py` among its backends for the backend of that name, so the
repository that NVIDIA's container serves is served unchanged. Every instance is a process with a
session of its own. The requests that Triton hands over together run as one batch: without that,
dynamic batching would gain nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

THREADS = "PERCEPT_TRITON_THREADS"  # of every instance; beats the parameter
_PARAMETER = "intra_op_thread_count"  # as NVIDIA's backend calls it
_LOG_ERRORS_ONLY = 3

Arrays = Mapping[str, np.ndarray]


class TritonPythonModel:
    """One instance of one version of a model: its `model.onnx` in an onnxruntime session."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the version's file by its path, so that weights beside it are found."""
        config = json.loads(args["model_config"])
        name = config.get("default_model_filename") or "model.onnx"
        path = Path(args["model_repository"]) / args["model_version"] / name
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        self._session = ort.InferenceSession(
            path, _options(_num_threads(config)), providers=["CPUExecutionProvider"]
        )

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """Answer every request, in order; those of equal row shapes share a session run."""
        arrays = [self._arrays(request) for request in requests]
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for index, inputs in enumerate(arrays):
            shapes = tuple(inputs[name].shape[1:] for name in self._inputs)
            groups.setdefault(shapes, []).append(index)
        answers: dict[int, Arrays | str] = {}
        for members in groups.values():
            found = self._answers([arrays[index] for index in members])
            answers.update(zip(members, found, strict=True))
        return [
            _response(answers[index], request.requested_output_names())
            for index, request in enumerate(requests)
        ]

    def _arrays(self, request: pb_utils.InferenceRequest) -> Arrays:
        return {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self._inputs
        }

    def _answers(self, batch: Sequence[Arrays]) -> list[Arrays | str]:
        """The outputs of each of the inputs, or what went wrong with them."""
        try:
            return list(self._run(batch))
        except Exception as error:  # noqa: BLE001  # the runtime's errors share no other base
            if len(batch) == 1:
                return [str(error)]
        # One of them is at fault: alone, only that one is told.
        return [answer for inputs in batch for answer in self._answers([inputs])]

    def _run(self, batch: Sequence[Arrays]) -> Iterable[Arrays]:
        """One session run for inputs of equal row shapes, split again into theirs."""
        if len(batch) == 1:
            together = dict(batch[0])
        else:
            together = {
                name: np.concatenate([inputs[name] for inputs in batch]) for name in self._inputs
            }
        outputs = self._session.run(self._outputs, together)
        first = self._inputs[0]
        ends = np.cumsum([len(inputs[first]) for inputs in batch])[:-1]
        parts = [np.split(output, ends) for output in outputs]
        return [dict(zip(self._outputs, part, strict=True)) for part in zip(*parts, strict=True)]


def _response(answer: Arrays | str, wanted: Iterable[str]) -> pb_utils.InferenceResponse:
    if isinstance(answer, str):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(answer))
    tensors = [pb_utils.Tensor(name, np.ascontiguousarray(answer[name])) for name in wanted]
    return pb_utils.InferenceResponse(tensors)


def _num_threads(config: Mapping[str, object]) -> int:
    """The stated number, else the available cores divided among the model's instances."""
    parameters = config.get("parameters") or {}
    stated = os.environ.get(THREADS) or parameters.get(_PARAMETER, {}).get("string_value")
    if stated and int(stated) > 0:
        return int(stated)
    groups = config.get("instance_group") or []
    instances = sum(int(group.get("count") or 1) for group in groups)
    return max(1, len(os.sched_getaffinity(0)) // max(1, instances))


def _options(threads: int) -> ort.SessionOptions:
    """As the service's in-process backend has them, so that both answer alike."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    # a spinning pool would keep the cores from the other models' instances
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
