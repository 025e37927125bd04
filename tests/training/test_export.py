"""Exported networks answer as torch does, and their descriptions agree with them."""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from service.backends.repository import ServedModel, load_repository
from service.core.artifact import CalibrationPoint
from service.core.tasks import TASKS
from service.core.tensors import model_tensors
from tests.architecture.test_model_repository import disagreements, parse_text_proto
from tests.training.conftest import Build
from training import onnx_network, onnx_storage
from training.export import default_budget, export, served_tasks
from training.export import main as export_command
from training.finetuned import load_model
from training.judges import JUDGES
from training.models.perception import MODELS
from training.onnx_network import ExportError, round_weights
from training.report import CALIBRATION, read_reports
from training.served_networks import networks
from training.targets import COMPONENTS, DEPTH

FORMS = ("tiny", "tiny-concatenated")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def served(exported: Build, form: str) -> ServedModel:
    return load_repository(exported(form))["small:1"]


@torch.no_grad()
def test_every_network_answers_as_torch_on_other_inputs_and_batches(
    served: ServedModel, measured: Build, form: str
):
    model = load_model(measured(form), torch.device("cpu"))
    round_weights(model)
    torch.manual_seed(11)
    found = networks(model, "small")
    assert {served.artifact.network(network.name) for network in found} == set(served.networks)
    for network in found:
        file = served.onnx_file(served.artifact.network(network.name))
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        inputs = {
            key: torch.cat([value, value.flip(0)[:1]]) for key, value in network.inputs.items()
        }
        expected = network.module(**inputs).numpy()
        arrays = {key: value.numpy() for key, value in inputs.items()}
        (got,) = session.run([network.output], arrays)
        assert got.shape == expected.shape
        scale = max(1.0, float(np.abs(expected).max()))
        assert np.abs(got - expected).max() < 2e-4 * scale


def test_triton_reads_what_the_service_reads(served: ServedModel):
    for network, signature in model_tensors(served.artifact).items():
        config = parse_text_proto(
            (served.folder / network.rpartition(":")[0] / "config.pbtxt").read_text()
        )
        assert disagreements(config, network, signature) == [], network


def test_large_weights_are_stored_in_half_precision_and_nothing_is_rounded(served: ServedModel):
    for network in served.networks:
        tensors = onnx.load(served.onnx_file(network)).graph.initializer
        stored = [tensor.data_type for tensor in tensors if tensor.name.endswith("_half")]
        assert stored
        assert set(stored) == {onnx.TensorProto.FLOAT16}
        for tensor in tensors:
            if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 256:
                values = onnx.numpy_helper.to_array(tensor)  # a constant such as positions
                assert (values.astype(np.float16) != values).any(), tensor.name


def test_the_artifact_carries_what_was_measured(served: ServedModel, measured: Build, form: str):
    reports = {report.task: report for report in read_reports(measured(form) / CALIBRATION)}
    artifact = served.artifact
    assert artifact.provenance["seed"] == "1"
    assert artifact.provenance["steps"] == "6"
    for task in COMPONENTS:
        row, entry, report = TASKS[task], artifact.served(task), reports[task]
        assert entry.calibration == tuple(
            CalibrationPoint(point.steps, point.members, point.error) for point in report.points
        )
        assert entry.error_metric == report.metric
        assert (entry.steps, entry.members) == default_budget(entry.calibration)
        assert entry.prompt == ("second" if len(row.images) > 1 else "none")
        assert entry.reduction == JUDGES[task].reduction
        assert entry.components == COMPONENTS[task]
        for output in row.outputs:
            assert entry.components_for(output)
    assert artifact.served("depth").encoding == DEPTH


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def test_networks_that_disagree_are_refused_and_nothing_changes(
    exported: Build, measured: Build, monkeypatch: pytest.MonkeyPatch
):
    repository = exported("tiny")
    before = dict(contents(repository))
    save_graph = onnx_storage.save_graph

    def save_wrong(model: ir.Model, path: Path, *how: Any) -> None:
        weights = max(
            (value for value in model.graph.initializers.values()),
            key=lambda value: np.prod(value.const_value.shape.numpy()),  # type: ignore[union-attr]
        )
        assert weights.const_value is not None
        wrong = (1.05 * weights.const_value.numpy()).astype(np.float32)
        weights.const_value = ir.Tensor(wrong, name=weights.name)
        save_graph(model, path, *how)

    monkeypatch.setattr(onnx_network, "save_graph", save_wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        with pytest.raises(ExportError, match=r"small_.*differs from torch"):
            export(measured("tiny"), repository, "small", 1, "Apache-2.0")
    assert dict(contents(repository)) == before


def test_a_second_version_lies_beside_the_first(exported: Build, measured: Build, tmp_path: Path):
    repository = shutil.copytree(exported("tiny"), tmp_path / "repository")
    before = dict(contents(repository))
    arguments = [str(measured("tiny")), "--repository", str(repository), "--name", "small"]
    export_command([*arguments, "--version", "2"])
    models = load_repository(repository)
    assert set(models) == {"small:1", "small:2"}
    after = dict(contents(repository))
    weights = {path for path in before if "/1/" in path}
    assert {path: after[path] for path in weights} == {path: before[path] for path in weights}
    for network in models["small:2"].networks:
        assert models["small:2"].onnx_file(network).parent.name == "2"


def test_a_version_of_another_form_is_refused_in_one_sentence(
    exported: Build, measured: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    repository = shutil.copytree(exported("tiny"), tmp_path / "repository")
    before = dict(contents(repository))
    run = str(measured("tiny-concatenated"))
    arguments = [run, "--repository", str(repository), "--name", "small", "--version", "2"]
    with pytest.raises(SystemExit) as ended:
        export_command(arguments)
    assert ended.value.code == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "of small:2 has other tensors than that of small:1" in said
    assert dict(contents(repository)) == before


def test_the_default_budget_is_the_cheapest_that_is_nearly_the_best():
    points = [
        CalibrationPoint(1, 1, 0.200),
        CalibrationPoint(1, 5, 0.102),
        CalibrationPoint(5, 1, 0.101),
        CalibrationPoint(10, 10, 0.100),
    ]
    assert default_budget(points) == (1, 5)  # as cheap as (5, 1), with one step
    assert default_budget(points[2:]) == (5, 1)
    assert default_budget([points[0], points[3]]) == (10, 10)
    assert default_budget([]) == (1, 1)


def test_a_run_that_was_not_measured_is_served_with_one_evaluation():
    for row in served_tasks("small", MODELS["tiny"], ()):
        assert (row.steps, row.members) == (1, 1)
        assert row.calibration == ()
