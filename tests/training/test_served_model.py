"""Versions of a model in a repository: added, replaced and described, all or nothing."""

import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from service.backends.repository import load_repository
from service.core.artifact import Artifact, load_artifact
from tests.architecture.test_model_repository import Message, parse_text_proto
from tests.support.tiny_repository import tiny_artifact
from training.served_model import (
    ExportError,
    adding_version,
    network_files,
    write_artifact,
    write_configs,
)

ROOT = Path(__file__).parents[2]
OUTSIDE = "model.onnx.data"


def add(repository: Path, artifact: Artifact, *, outside: bool = False) -> Artifact:
    """Put files of a few bytes, which name their version, in the place of networks."""
    with adding_version(repository, artifact.name) as folder:
        for network in artifact.folders:
            place = folder / network / str(artifact.version)
            place.mkdir(parents=True)
            (place / "model.onnx").write_text(f"{network} {artifact.description}")
            if outside:
                (place / OUTSIDE).write_text("weights")
        whole = replace(artifact, files=network_files(folder))
        write_artifact(whole, folder)
    return whole


def tiny(version: int, description: str = "tiny") -> Artifact:
    return replace(tiny_artifact("tiny", version, {}), description=f"{description} {version}")


def without_amodal(artifact: Artifact) -> Artifact:
    return replace(artifact, encoders=artifact.encoders[:2], tasks=artifact.tasks[:2])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def parameters(repository: Path, network: str) -> dict[str, str]:
    config = parse_text_proto((repository / network / "config.pbtxt").read_text())
    return {entry["key"][0]: _string(entry["value"][0]) for entry in config["parameters"]}


def _string(value: Message) -> str:
    (text,) = value["string_value"]
    return str(text)


def test_versions_lie_side_by_side_and_every_configuration_tells_of_all(tmp_path: Path):
    first = add(tmp_path, tiny(1))
    before = contents(tmp_path)
    second = add(tmp_path, tiny(2))
    after = contents(tmp_path)
    kept = {path for path in before if not path.endswith("config.pbtxt")}
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    models = load_repository(tmp_path)
    assert {key: model.artifact for key, model in models.items()} == {
        "tiny:1": first,
        "tiny:2": second,
    }
    for network in first.folders:
        stated = parameters(tmp_path, network)
        assert stated.pop("checksum.1") == first.checksum(network)
        assert stated.pop("checksum.2") == second.checksum(network)
        if network == first.denoiser:
            assert load_artifact(stated.pop("artifact.1")) == first
            assert load_artifact(stated.pop("artifact.2")) == second
        assert not stated
    assert {path.name for path in tmp_path.iterdir()} == set(first.folders)  # no scratch is left


def test_only_the_version_that_is_written_again_changes(tmp_path: Path):
    add(tmp_path, tiny(1), outside=True)
    add(tmp_path, tiny(2), outside=True)
    before = contents(tmp_path)
    again = add(tmp_path, tiny(1, "better"))  # with its weights inside
    after = contents(tmp_path)
    others = {path for path in before if "/2/" in path}
    assert {path: after[path] for path in others} == {path: before[path] for path in others}
    assert not [path for path in after if path.endswith(f"/1/{OUTSIDE}")]
    assert load_repository(tmp_path)["tiny:1"].artifact == again
    assert parameters(tmp_path, "tiny_decoder")["checksum.1"] == again.checksum("tiny_decoder")


def test_models_of_other_names_are_not_touched(tmp_path: Path):
    add(tmp_path, tiny_artifact("other", 1, {}))
    before = contents(tmp_path)
    add(tmp_path, tiny(1))
    assert before.items() <= contents(tmp_path).items()
    assert set(load_repository(tmp_path)) == {"other:1", "tiny:1"}


def test_a_network_that_a_version_has_no_more_goes_with_its_last_version(tmp_path: Path):
    amodal = "tiny_amodal_encoder"
    add(tmp_path, tiny(1))
    add(tmp_path, tiny(2))
    add(tmp_path, without_amodal(tiny(1)))
    assert [path.name for path in sorted((tmp_path / amodal).iterdir())] == ["2", "config.pbtxt"]
    assert list(parameters(tmp_path, amodal)) == ["checksum.2"]
    add(tmp_path, without_amodal(tiny(2)))
    assert not (tmp_path / amodal).exists()
    assert set(load_repository(tmp_path)) == {"tiny:1", "tiny:2"}


def test_versions_with_other_tensors_need_another_name(tmp_path: Path):
    add(tmp_path, tiny(1))
    before = contents(tmp_path)
    with pytest.raises(ExportError, match=r"of tiny:2 has other tensors .* tiny:1.*--name"):
        add(tmp_path, replace(tiny(2), condition_channels=7))
    assert contents(tmp_path) == before
    add(tmp_path, replace(tiny(1), condition_channels=7))  # nothing else has its name
    assert load_repository(tmp_path)["tiny:1"].artifact.condition_channels == 7


def test_nothing_goes_beside_what_cannot_be_read(tmp_path: Path):
    add(tmp_path, tiny(1))
    (tmp_path / "tiny_denoiser" / "1" / "artifact.json").write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(ExportError, match=r"tiny_denoiser/1/artifact\.json cannot be read"):
        add(tmp_path, tiny(2))
    assert contents(tmp_path) == before


def fail_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the rename of that number fail, and those before and after it pass."""
    rename, counter = Path.rename, count()

    def fail(source: Path, target: Path) -> Path:
        if next(counter) == number:
            raise OSError("no space left on device")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail)


def test_a_failure_at_any_point_of_the_exchange_leaves_the_repository_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    add(tmp_path, tiny(1))
    add(tmp_path, tiny(2))
    before = contents(tmp_path)
    num_renames = 4 * len(tiny(2).folders)  # of weights and configuration, away and into place
    for number in range(num_renames):
        with monkeypatch.context() as patch:
            fail_rename(patch, number)
            with pytest.raises(OSError, match="no space"):
                add(tmp_path, tiny(2, "better"))
        assert contents(tmp_path) == before
    with monkeypatch.context() as patch:
        fail_rename(patch, num_renames)
        add(tmp_path, tiny(2, "better"))
    assert load_repository(tmp_path)["tiny:2"].artifact.description == "better 2"


def test_text_of_any_kind_reaches_a_gateway_through_the_configuration(tmp_path: Path):
    text = 'quotes " and \\ and # and\nlines, \u00fcml\u00e4ute, \U0001f600, \x7f { } [ ]'
    written = add(tmp_path, replace(tiny(1), description=text))
    config = (tmp_path / "tiny_denoiser" / "config.pbtxt").read_bytes()
    assert config.isascii()
    assert load_artifact(parameters(tmp_path, "tiny_denoiser")["artifact.1"]) == written


def test_configurations_are_the_same_when_written_again(tmp_path: Path):
    add(tmp_path, tiny(1))
    add(tmp_path, tiny(10))
    add(tmp_path, tiny(2))
    before = contents(tmp_path)
    write_configs(tmp_path)
    assert contents(tmp_path) == before
    assert list(parameters(tmp_path, "tiny_decoder")) == ["checksum.1", "checksum.2", "checksum.10"]


def test_configurations_are_written_without_torch():
    program = "import sys, training.served_model; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
