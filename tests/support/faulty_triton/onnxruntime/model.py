"""The stand-in for Triton's onnxruntime backend, with faults that a test switches on and off.

Environment: PERCEPT_TEST_BACKEND is the folder of the real one, PERCEPT_TEST_FAULT a control file.
The file is read at every `execute`, after the real answers were computed:

- empty, or no file: the real answers;
- `error`: every request is answered with an error;
- `nan`: every number of the answers is NaN;
- `slow 2.5`: the answers come 2.5 seconds late;
- `hang`: no answer, until the file says something else; meanwhile there is a file `....held`.

A second line holds the names of the models that are at fault; without it all are.
"""

import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

_spec = importlib.util.spec_from_file_location(
    "real_backend", Path(os.environ["PERCEPT_TEST_BACKEND"]) / "model.py"
)
assert _spec is not None
assert _spec.loader is not None
real: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(real)
pb_utils = real.pb_utils

_POLL_S = 0.02


def fault(model: str) -> list[str]:
    """The words of the fault that a model has now; none when it is well."""
    try:
        lines = Path(os.environ["PERCEPT_TEST_FAULT"]).read_text().splitlines()
    except FileNotFoundError:
        return []
    if not lines or (len(lines) > 1 and model not in lines[1].split()):
        return []
    return lines[0].split()


class TritonPythonModel(real.TritonPythonModel):  # type: ignore[misc]  # known at run time
    """The real instance, and what the control file asks for."""

    def initialize(self, args):
        """Open the model as the real one does."""
        self._name = args["model_name"]
        super().initialize(args)

    def execute(self, requests):
        """Answer with the fault of the moment."""
        responses = super().execute(requests)
        match fault(self._name):
            case ["error"]:
                error = pb_utils.TritonError("a fault that a test asked for")
                return [pb_utils.InferenceResponse(error=error) for _ in responses]
            case ["nan"]:
                return [_nan(response) for response in responses]
            case ["slow", seconds]:
                time.sleep(float(seconds))
            case ["hang"]:
                held = Path(os.environ["PERCEPT_TEST_FAULT"] + ".held")
                held.touch()
                while fault(self._name) == ["hang"]:
                    time.sleep(_POLL_S)
                held.unlink(missing_ok=True)
        return responses


def _nan(response):
    tensors = [
        pb_utils.Tensor(tensor.name(), np.full_like(tensor.as_numpy(), np.nan))
        for tensor in response.output_tensors()
    ]
    return pb_utils.InferenceResponse(tensors)
