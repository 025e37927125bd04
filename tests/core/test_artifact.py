import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.artifact import (
    ArtifactError,
    Component,
    ScheduleSpec,
    ServedTask,
    dump_artifact,
    load_artifact,
)
from service.core.schedule import make_schedule
from tests.support.artifacts import RGB, small_artifact

MISSING = object()


def _edited(path, value):
    """Dump the sample artifact with one place changed, or taken out."""
    document = json.loads(dump_artifact(small_artifact()))
    *parents, last = path
    record = document
    for key in parents:
        record = record[key]
    if value is MISSING:
        del record[last]
    else:
        record[last] = value
    return json.dumps(document)


def _places(value, path=()):
    """Every key and index of a JSON document."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from _places(item, (*path, key))


PLACES = list(_places(json.loads(dump_artifact(small_artifact()))))
FREE_FORM = {"provenance", "files", "channels"}  # their keys are the model's own


def _dotted(path):
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def _error(text):
    with pytest.raises(ArtifactError) as caught:
        load_artifact(text)
    assert str(caught.value).startswith(caught.value.path)
    return caught.value


def test_an_artifact_survives_the_round_trip():
    artifact = small_artifact()
    assert load_artifact(dump_artifact(artifact)) == artifact
    assert dump_artifact(load_artifact(dump_artifact(artifact))) == dump_artifact(artifact)


@given(
    beta=st.floats(1e-12, 0.5), error=st.floats(0, 1e300), text=st.text(), version=st.integers(1)
)
def test_every_number_and_text_survives_exactly(beta, error, text, version):
    artifact = small_artifact()
    depth = artifact.tasks[0]
    point = dataclasses.replace(depth.calibration[0], error=error)
    artifact = dataclasses.replace(
        artifact,
        schedule=dataclasses.replace(artifact.schedule, beta_start=beta, beta_end=0.5),
        tasks=(dataclasses.replace(depth, calibration=(point,)),),
        description=text,
        provenance={text: text},
        version=version,
        files={f"small_encoder/{version}/model.onnx": "0" * 64},
    )
    assert load_artifact(dump_artifact(artifact)) == artifact


def test_a_checksum_is_of_one_networks_files_whatever_their_order():
    digests = {
        "a/3/model.onnx": "1" * 64,
        "a/3/model.onnx.data": "2" * 64,
        "b/3/model.onnx": "3" * 64,
    }
    artifact = dataclasses.replace(small_artifact(), files=digests)
    turned = dataclasses.replace(artifact, files=dict(reversed(digests.items())))
    assert artifact.checksum("a") == turned.checksum("a") != artifact.checksum("b")
    changed = dataclasses.replace(artifact, files=digests | {"a/3/model.onnx.data": "4" * 64})
    assert changed.checksum("a") != artifact.checksum("a")
    assert changed.checksum("b") == artifact.checksum("b")


def test_files_of_another_version_are_refused():
    with pytest.raises(ArtifactError, match="must lie under NETWORK/3/"):
        dataclasses.replace(small_artifact(), files={"a/1/model.onnx": "0" * 64})


def test_an_integer_does_for_a_float():
    artifact = load_artifact(_edited(("latent", "scale"), 2))
    assert artifact.latent.scale == 2.0
    assert type(artifact.latent.scale) is float


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in PLACES
        if isinstance(path[-1], str) and path[-2:-1] not in {(name,) for name in FREE_FORM}
    ],
    ids=_dotted,
)
def test_every_missing_field_is_named(path):
    error = _error(_edited(path, MISSING))
    assert error.path == _dotted(path)


@pytest.mark.parametrize("path", PLACES, ids=_dotted)
def test_no_field_may_be_null_or_of_another_type(path):
    wrongs: list[object] = [None, {"nested": []}, [[]]]
    for wrong in wrongs:
        error = _error(_edited(path, wrong))
        # A wrong record or list may be named by the first field that it lacks.
        assert error.path.startswith(_dotted(path))


@pytest.mark.parametrize(
    "path", [(), ("schedule",), ("encoders", 1), ("tasks", 0, "encoding")], ids=_dotted
)
def test_every_unknown_field_is_named(path):
    error = _error(_edited((*path, "extra"), 1))
    assert error.path == _dotted((*path, "extra"))
    assert "not a known field" in error.reason


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("format",), True),
        (("version",), 0),
        (("version",), 1.0),
        (("version",), True),
        (("name",), "../model"),
        (("name",), ""),
        (("denoiser",), "a/b"),
        (("condition_channels",), 0),
        (("has_labels",), 1),
        (("timestep_dtype",), "int32"),
        (("schedule", "betas"), "sigmoid"),
        (("schedule", "num_timesteps"), 199),
        (("schedule", "beta_start"), 0),
        (("schedule", "beta_end"), 1),
        (("schedule", "beta_end"), 10**400),
        (("schedule", "steps_offset"), 5),
        (("schedule", "prediction_type"), "epsilon"),
        (("latent", "scale"), 0),
        (("latent", "channels"), -4),
        (("encoders", 0, "size", "height"), 0),
        (("encoders", 0, "model"), "no encoder"),
        (("tasks", 0, "task"), "segments"),
        (("tasks", 0, "encoder"), "unknown_encoder"),
        (("tasks", 0, "prompt"), "second"),
        (("tasks", 0, "prompt"), "none"),
        (("tasks", 0, "steps"), 0),
        (("tasks", 0, "steps"), 201),
        (("tasks", 0, "members"), 21),
        (("tasks", 1, "reduction"), "aligned"),
        (("tasks", 0, "calibration", 1, "members"), 0),
        (("tasks", 0, "calibration", 1, "error"), -0.1),
        (("tasks", 0, "components", 0, "label"), -1),
        (("tasks", 0, "components", 0, "channels", "depth"), []),
        (("tasks", 0, "components", 0, "channels", "depth"), [0, 0]),
        (("tasks", 0, "components", 0, "channels", "depth"), [3]),
        (("tasks", 0, "encoding", "kind"), "segments"),
        (("tasks", 1, "encoding", "divisor_x"), 0),
        (("files", "small_encoder/3/model.onnx"), "abc"),
    ],
)
def test_impossible_values_are_named(path, value):
    assert _error(_edited(path, value)).path == _dotted(path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../x", "a//b", "./a", "a/", "", "a\\b"])
def test_files_outside_the_repository_are_refused(path):
    assert _error(_edited(("files", path), "0" * 64)).path.startswith("files")


@pytest.mark.parametrize(
    ("task", "components", "reason"),
    [
        (0, [], "too few fields"),
        (1, [{"name": "u", "label": 0, "channels": {"u": [0]}}], "too few fields"),
        (1, [{"name": "x", "label": 0, "channels": {"u": [0], "v": [1], "w": [2]}}], "no field w"),
        (0, [{"name": "depth", "label": 0, "channels": {"depth": [0]}}] * 2, "appears twice"),
        (
            0,
            [{"name": name, "label": 0, "channels": {"depth": [0]}} for name in "ab"],
            "depth appears twice",
        ),
    ],
)
def test_components_must_cover_the_tasks_fields_once(task, components, reason):
    error = _error(_edited(("tasks", task, "components"), components))
    assert error.path == f"tasks[{task}].components"
    assert reason in error.reason


def test_a_task_or_encoder_may_appear_only_once():
    document = json.loads(dump_artifact(small_artifact()))
    assert _error(_edited(("tasks",), document["tasks"][:1] * 2)).path == "tasks"
    assert _error(_edited(("encoders",), document["encoders"][:1] * 2)).path == "encoders"
    assert _error(_edited(("tasks",), [])).path == "tasks"


def test_an_encoding_must_be_its_tasks():
    document = json.loads(dump_artifact(small_artifact()))
    flow = document["tasks"][1]["encoding"]
    assert _error(_edited(("tasks", 0, "encoding"), flow)).path == "tasks[0].encoding.kind"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '{"format": NaN}', '{"format": 1, "format": 1}', "[" * 10**5],
    ids=["empty", "cut", "list", "null", "number", "nan", "duplicate", "deep"],
)
def test_text_that_is_no_json_object_is_refused(text):
    assert _error(text).path in ("", "artifact")


def test_nan_and_infinity_are_refused():
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        text = dump_artifact(small_artifact()).replace("0.00085", number)
        assert _error(text).path in ("", "schedule.beta_start")


def test_the_schedule_is_built_as_described():
    spec = small_artifact().schedule
    built = spec.build()
    expected = make_schedule("scaled_linear", 1000, 0.00085, 0.012, zero_terminal_snr=True)
    assert built.alpha_bar.tolist() == expected.alpha_bar.tolist()
    assert built.final_alpha_bar == 1
    assert spec.step_pairs(2) == ((999, 499), (499, -1))


@given(num_timesteps=st.integers(200, 4000), steps=st.integers(1, 200), data=st.data())
def test_no_accepted_offset_breaks_a_budget(num_timesteps, steps, data):
    offset = data.draw(st.integers(0, num_timesteps // 200 - 1))
    spec = ScheduleSpec(
        "linear",
        num_timesteps,
        1e-4,
        0.02,
        False,
        True,
        "leading",
        offset,
        "epsilon",
        "ddim",
        "noise",
    )
    assert len(spec.step_pairs(steps)) == steps


def _names(served: ServedTask, output: str):
    return [component.name for component in served.components_for(output)]


def test_outputs_run_only_the_components_they_need():
    artifact = small_artifact()
    amodal = artifact.served("amodal")
    assert _names(amodal, "mask") == ["mask"]
    assert _names(amodal, "overlay") == ["mask"]
    assert _names(amodal, "json") == ["mask"]
    assert _names(amodal, "rgb") == ["mask", "appearance"]
    assert _names(amodal, "npz") == ["mask", "appearance"]
    assert _names(artifact.served("depth"), "png16") == ["depth"]


def test_a_model_without_a_mask_component_takes_its_mask_from_the_appearance():
    amodal = small_artifact().served("amodal")
    papers = dataclasses.replace(amodal, components=(Component("appearance", 1001, RGB),))
    assert all(
        _names(papers, output) == ["appearance"]
        for output in ("mask", "overlay", "rgb", "npz", "json")
    )
    bare = dataclasses.replace(amodal, components=amodal.components[:1])
    assert _names(bare, "rgb") == []
    assert _names(bare, "npz") == ["mask"]


def test_the_papers_flow_is_two_runs():
    flow = small_artifact().served("flow")
    papers = dataclasses.replace(
        flow,
        components=(
            Component("u", 1002, {"u": (0, 1, 2)}),
            Component("v", 1003, {"v": (0, 1, 2)}),
        ),
    )
    assert _names(papers, "flo") == ["u", "v"]


def test_lookups():
    artifact = small_artifact()
    assert artifact.encoder(artifact.served("flow").encoder).label is False
    with pytest.raises(KeyError):
        artifact.encoder("unknown")
    with pytest.raises(KeyError):
        dataclasses.replace(artifact, tasks=artifact.tasks[:1]).served("flow")
