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

# {preferred}: rows of the batches that Triton sends on at once.
_SERVING = """\
# The gateway's own largest batch (PERCEPT_MAX_BATCH_ROWS).
max_batch_size: {max_batch}
# A new version, and the one that requests in work began with.
version_policy {{ latest {{ num_versions: 2 }} }}
dynamic_batching {{
  preferred_batch_size: [ {preferred} ]
  max_queue_delay_microseconds: {delay_us}
}}
instance_group [ {{ count: {instances} }} ]
"""
_MAX_BATCH = 64
_PREFERRED = (16, 32, 64)
_DELAY_US = 500
_INSTANCES = 1


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
    serving = _SERVING.format(
        max_batch=_MAX_BATCH,
        preferred=", ".join(map(str, _PREFERRED)),
        delay_us=_DELAY_US,
        instances=_INSTANCES,
    )
    return "\n".join(lines) + "\n" + serving + _warm_up(signature) + _parameters(folder, versions)


def _tensor(kind: str, tensor: Tensor) -> str:
    # Triton has no scalar per row: it is declared as one number and reshaped to none.
    reshape = "" if tensor.shape else " reshape: { shape: [ ] }"
    sizes = (-1 if size is None else size for size in tensor.shape or (1,))
    dims = ", ".join(map(str, sizes))
    type_ = _TYPES[tensor.dtype]
    return f'{kind} [ {{ name: "{tensor.name}" data_type: {type_} dims: [ {dims} ]{reshape} }} ]'


def _warm_up(signature: Signature) -> str:
    """One row and a full batch, so that no request pays for a first call's memory."""
    return "".join(_sample(signature, rows) for rows in (1, _PREFERRED[0]))


def _sample(signature: Signature, rows: int) -> str:
    inputs = "".join(
        f'  inputs {{ key: "{tensor.name}" value {{ data_type: {_TYPES[tensor.dtype]} '
        f"dims: [ {', '.join(map(str, tensor.example or (1,)))} ] zero_data: true }} }}\n"
        for tensor in signature.inputs
    )
    return f'model_warmup {{\n  name: "rows_{rows}"\n  batch_size: {rows}\n{inputs}}}\n'


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
