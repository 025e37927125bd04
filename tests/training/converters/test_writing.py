"""How networks are written: their weights, one at a time, all or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.training.converters.conftest import small
from training.converters import writing
from training.converters.record import Conversion
from training.converters.writing import Weights, convert

TENSOR = onnx.TensorProto


@pytest.mark.parametrize(
    ("weights", "kinds", "bound"),
    [
        (Weights("fp32"), set(), 1e-5),
        (Weights("fp16"), {TENSOR.FLOAT16}, 1e-3),
        (Weights("bf16"), {TENSOR.BFLOAT16}, 1e-2),
        (Weights("fp32", "int8"), {TENSOR.INT8}, 3e-2),
        (Weights("fp16", "int8"), {TENSOR.INT8, TENSOR.FLOAT16}, 3e-2),
        (Weights("fp32", external_from=1000), set(), 1e-5),
        (Weights("fp16", external_from=1000), {TENSOR.FLOAT16}, 1e-3),
        (Weights("fp16", "int8", external_from=1000), {TENSOR.INT8, TENSOR.FLOAT16}, 3e-2),
        # too large in single precision and not in integers
        (Weights("fp16", "int8", external_from=9000), {TENSOR.INT8, TENSOR.FLOAT16}, 3e-2),
    ],
    ids=str,
)
def test_weights_are_stored_as_asked_and_answer_nearly_the_same(
    weights: Weights, kinds: set[int], bound: float, conversion: Conversion, tmp_path: Path
):
    artifact = convert(conversion, tmp_path, "m", 2, weights)
    path = tmp_path / "m_decoder" / "2" / "model.onnx"
    outside = path.with_name("model.onnx.data")
    assert outside.is_file() == (weights.external_from == 1000)
    listed = {str(file.relative_to(tmp_path)) for file in path.parent.iterdir()}
    assert artifact.files.keys() == listed
    found = {tensor.data_type for tensor in onnx.load(path).graph.initializer if tensor.dims}
    assert found & {TENSOR.FLOAT16, TENSOR.BFLOAT16, TENSOR.INT8} == kinds
    session = onnxruntime.InferenceSession(path)
    for height, width in ((5, 7), (16, 8)):
        latent = torch.randn(3, 4, height, width)
        with torch.no_grad():
            expected = small()(latent).numpy()
        (got,) = session.run(None, {"latent": latent.numpy()})
        off = np.abs(got - expected).max() / max(1, np.abs(expected).max())
        assert off < bound
        if kinds:
            assert off > 0


def test_a_model_is_replaced_as_a_whole_or_not_at_all(
    conversion: Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    convert(conversion, tmp_path, "m", 1, Weights())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(writing, "TOLERANCES", {"none": -1.0})
    with pytest.raises(Exception, match="differs from torch"):
        convert(conversion, tmp_path, "m", 2, Weights())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_one_network_is_in_memory_at_a_time(conversion: Conversion, tmp_path: Path):
    import weakref

    alive: list[weakref.ref[nn.Module]] = []

    def load() -> nn.Module:
        assert all(reference() is None for reference in alive)
        module = small()
        alive.append(weakref.ref(module))
        return module

    parts = tuple(replace(conversion.parts[0], name=f"m_{i}", load=load) for i in range(3))
    convert(replace(conversion, parts=parts), tmp_path, "m", 1, Weights())
    assert len(alive) == 3


def test_weights_are_in_memory_once(tmp_path: Path):
    """Beside them are the largest of them a few times over, and rows on their way through."""
    if not Path("/proc/self/clear_refs").is_file():
        pytest.skip("only Linux tells how much memory was in use at most")
    command = [sys.executable, "-m", "tests.support.conversion_memory", str(tmp_path)]
    # Large blocks go back to the system as soon as they are freed, so that no others are counted.
    environ = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    weights = found.pop("weights")
    assert weights > 100e6
    peaks = {name: peak / weights for name, peak in found.items()}
    assert peaks.keys() == {"fp32", "fp16", "bf16", "int8"}
    assert max(peaks.values()) < 1.3, peaks
