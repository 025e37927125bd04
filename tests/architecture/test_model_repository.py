"""What Triton would load is what the service loads: `config.pbtxt` against `artifact.json`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.backends.repository import load_repository
from service.core.artifact import Artifact
from service.core.tensors import Signature, Tensor, model_tensors
from tests.support.tiny_repository import tiny_artifact
from training.served_model import triton_configs

REPOSITORY = Path(__file__).parents[2] / "model_repo"
TRITON_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}

Message = dict[str, list[Any]]


def parse_text_proto(text: str) -> Message:
    """Protocol buffers' text format, as far as `config.pbtxt` needs it: every field is a list."""
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|#.*|[\w.+-]+|[{}\[\]:,;]', text)
    return _message(token for token in tokens if not token.startswith("#"))


def _message(tokens: Iterator[str]) -> Message:
    message: Message = {}
    for name in tokens:
        if name == "}":
            break
        if name in ",;":
            continue
        value = next(tokens)
        if value == ":":
            value = next(tokens)
        message.setdefault(name, []).extend(_values(value, tokens))
    return message


def _values(value: str, tokens: Iterator[str]) -> list[Any]:
    if value == "{":
        return [_message(tokens)]
    if value != "[":
        return [json.loads(value) if value.startswith('"') else value]
    values: list[Any] = []
    for item in tokens:
        if item == "]":
            break
        if item != ",":
            values += _values(item, tokens)
    return values


def disagreements(config: Message, network: str, signature: Signature) -> list[str]:
    """Everything that Triton would see differently from the service."""
    wrong = []
    folder = network.partition(":")[0]
    if config.get("name", [folder]) != [folder]:
        wrong.append(f"name {config['name']}")
    if config.get("backend") != ["onnxruntime"]:
        wrong.append(f"backend {config.get('backend')}")
    if int(config.get("max_batch_size", ["0"])[0]) < 1:
        wrong.append("no batch dimension")
    for kind, tensors in (("input", signature.inputs), ("output", (signature.output,))):
        stated = {item["name"][0]: item for item in config.get(kind, [])}
        if stated.keys() != {tensor.name for tensor in tensors}:
            wrong.append(f"{kind}s {sorted(stated)}")
            continue
        wrong += [
            f"{kind} {tensor.name}" for tensor in tensors if not agrees(stated[tensor.name], tensor)
        ]
    return wrong


def agrees(stated: Message, tensor: Tensor) -> bool:
    """Whether one input or output has the artifact's type and shape; a scalar is a reshaped [1]."""
    dims = [int(size) for size in stated.get("dims", [])]
    if stated.get("data_type") != [TRITON_TYPES[tensor.dtype]]:
        return False
    if not tensor.shape:
        return dims == [1] and stated.get("reshape") in ([{"shape": []}], [{}])
    return len(dims) == len(tensor.shape) and all(
        have == want or (want is None and (have == -1 or have > 0))
        for have, want in zip(dims, tensor.shape, strict=True)
    )


def shipped() -> list[Artifact]:
    if not list(REPOSITORY.glob("*_denoiser/*/artifact.json")):
        return []
    return [model.artifact for model in load_repository(REPOSITORY).values()]


def test_shipped_configurations_agree_with_their_artifact():
    artifacts = shipped()
    if not artifacts:
        pytest.skip("no model is exported to model_repo/")
    for artifact in artifacts:
        for network, signature in model_tensors(artifact).items():
            config = parse_text_proto(
                (REPOSITORY / network.rpartition(":")[0] / "config.pbtxt").read_text()
            )
            assert disagreements(config, network, signature) == [], network


def test_shipped_configurations_are_those_that_the_exporter_writes():
    written = triton_configs(shipped())
    found = {path.parent.name: path.read_text() for path in REPOSITORY.glob("*/config.pbtxt")}
    assert found == written


def test_the_shipped_repository_is_small():
    if not shipped():
        pytest.skip("no model is exported to model_repo/")
    num_bytes = sum(path.stat().st_size for path in REPOSITORY.rglob("*") if path.is_file())
    assert num_bytes <= 40_000_000


GOOD = """
name: "tiny_denoiser"  # a comment
backend: "onnxruntime"
max_batch_size: 16
input [
  { name: "noisy" data_type: TYPE_FP32 dims: [ 4, 8, 8 ] },
  { name: "condition", data_type: TYPE_FP32, dims: [ 6, 8, 8 ] },
  { name: "timestep" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } }
]
input { name: "task" data_type: TYPE_INT64 dims: 1 reshape { shape: [] } }
output [ { name: "prediction" data_type: TYPE_FP32 dims: [ 4, 8, 8 ] } ]
dynamic_batching { max_queue_delay_microseconds: 100 }
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tiny_denoiser", "other"),
        ("onnxruntime", "pytorch"),
        ("max_batch_size: 16", "max_batch_size: 0"),
        ("[ 6, 8, 8 ]", "[ 6, 8, 4 ]"),
        ("TYPE_INT64", "TYPE_FP32"),
        ("reshape: { shape: [ ] }", ""),
        ('"condition"', '"conditioning"'),
    ],
)
def test_a_disagreement_is_noticed(old, new):
    signature = model_tensors(tiny_artifact("tiny", 1, {}))["tiny_denoiser:1"]
    assert disagreements(parse_text_proto(GOOD), "tiny_denoiser:1", signature) == []
    changed = parse_text_proto(GOOD.replace(old, new))
    assert disagreements(changed, "tiny_denoiser:1", signature) != []
