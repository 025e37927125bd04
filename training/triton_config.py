"""A network's `config.pbtxt`, as Triton and the gateway read it; it covers every version there is.

A gateway that only has the server's address learns all else from the parameters: `checksum.V` of
each network and, with the denoiser, `artifact.V`, the whole artifact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from service.core.artifact import Artifact, dump_artifact
from service.core.tensors import Signature, Tensor, model_tensors

_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}

# The measured numbers are of `tests/benchmarks/triton_batching.py`.
_SERVING = """\
# The gateway's own largest batch (PERCEPT_MAX_BATCH_ROWS).
max_batch_size: 64
# A new version, and the one that requests in work began with.
version_policy { latest { num_versions: 2 } }
# What was measured, was with the percept model on a CPU: see tests/benchmarks/RESULTS.md.
dynamic_batching {
  # Measured: a preferred size of 8 gained nothing over these.
  preferred_batch_size: [ 16, 32, 64 ]
  # Measured: calls merge while the model is busy, 2 as one of four callers, 4 of eight. Waiting
  # longer merges few more, and takes from a lone caller of one row: 18 % at 500, 24 % at 2000.
  max_queue_delay_microseconds: 100
}
# As in process, a call has all cores. Measured: two instances do 1.3 times the rows of two callers
# on busy cores; but they hold the weights twice, and leave a lone call half of the cores.
instance_group [ { count: 1 } ]
"""


def triton_config(folder: str, versions: Sequence[Artifact]) -> str:
    """The config.pbtxt of the network in `folder`.

    `versions` are the artifacts of its versions, which agree about its tensors.
    """
    newest = max(versions, key=lambda artifact: artifact.version)
    signature = model_tensors(newest)[newest.network(folder)]
    lines = [
        f'name: "{folder}"',
        'backend: "onnxruntime"',
        *(_tensor("input", tensor) for tensor in signature.inputs),
        _tensor("output", signature.output),
    ]
    return "\n".join([*lines, _SERVING + _warm_up(signature) + _parameters(folder, versions)])


def _tensor(kind: str, tensor: Tensor) -> str:
    # Triton has no scalar per row: it is declared as one number and reshaped to none.
    reshape = "" if tensor.shape else " reshape: { shape: [ ] }"
    sizes = (-1 if size is None else size for size in tensor.shape or (1,))
    dims = ", ".join(map(str, sizes))
    type_ = _TYPES[tensor.dtype]
    return f'{kind} [ {{ name: "{tensor.name}" data_type: {type_} dims: [ {dims} ]{reshape} }} ]'


def _warm_up(signature: Signature) -> str:
    """A call before the first request's; of one row, since a large model's batch takes minutes."""
    inputs = "".join(
        f'  inputs {{ key: "{tensor.name}" value {{ data_type: {_TYPES[tensor.dtype]} '
        f"dims: [ {', '.join(map(str, tensor.example or (1,)))} ] zero_data: true }} }}\n"
        for tensor in signature.inputs
    )
    return f'model_warmup {{\n  name: "one row"\n  batch_size: 1\n{inputs}}}\n'


def _parameters(folder: str, versions: Sequence[Artifact]) -> str:
    stated: dict[str, str] = {}
    for artifact in sorted(versions, key=lambda artifact: artifact.version):
        stated[f"checksum.{artifact.version}"] = artifact.checksum(folder)
        if folder == artifact.denoiser:
            stated[f"artifact.{artifact.version}"] = _compact(artifact)
    return "".join(
        # A JSON string of ASCII is a string of the text format, too.
        f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}\n'
        for key, value in stated.items()
    )


def _compact(artifact: Artifact) -> str:
    return json.dumps(json.loads(dump_artifact(artifact)), separators=(",", ":"))
