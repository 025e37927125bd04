"""A repository is served only if it is whole, unchanged and of a known format."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.backends.repository import RepositoryError, load_repository
from tests.support.tiny_repository import build_tiny_repository

ARTIFACT = "tiny_denoiser/1/artifact.json"


def edit(repository: Path, **changes: Any) -> None:
    path = repository / ARTIFACT
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_finds_every_model_and_its_networks(own_repository: Path) -> None:
    build_tiny_repository(own_repository, name="other", version=3)
    (own_repository / "README.md").write_text("the model card")
    models = load_repository(own_repository)
    assert list(models) == ["other:3", "tiny:1"]
    tiny = models["tiny:1"]
    assert tiny.folder == own_repository
    assert set(tiny.networks) == {
        "tiny_depth_encoder:1",
        "tiny_flow_encoder:1",
        "tiny_amodal_encoder:1",
        "tiny_denoiser:1",
        "tiny_decoder:1",
    }
    assert tiny.onnx_file("tiny_decoder:1") == own_repository / "tiny_decoder/1/model.onnx"


def test_the_same_repository_is_built_every_time(own_repository: Path, tmp_path: Path) -> None:
    again = build_tiny_repository(tmp_path / "again")
    assert (again / ARTIFACT).read_text() == (own_repository / ARTIFACT).read_text()


@pytest.mark.parametrize("folder", [".", "missing"])
def test_an_empty_or_missing_folder_says_what_to_do(tmp_path: Path, folder: str) -> None:
    with pytest.raises(
        RepositoryError, match=r"no \*_denoiser/\*/artifact.json in .*point the model"
    ):
        load_repository(tmp_path / folder)


def test_a_changed_file_is_refused(own_repository: Path) -> None:
    path = own_repository / "tiny_decoder/1/model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(RepositoryError, match=r"tiny_decoder/1/model.onnx is not the file"):
        load_repository(own_repository)


def test_a_missing_file_is_refused(own_repository: Path) -> None:
    (own_repository / "tiny_flow_encoder/1/model.onnx").unlink()
    with pytest.raises(RepositoryError, match=r"tiny_flow_encoder/1/model.onnx .*is missing"):
        load_repository(own_repository)


def test_a_network_that_nobody_vouches_for_is_refused(own_repository: Path) -> None:
    artifact = json.loads((own_repository / ARTIFACT).read_text())
    del artifact["files"]["tiny_decoder/1/model.onnx"]
    edit(own_repository, files=artifact["files"])
    with pytest.raises(RepositoryError, match=r"tiny_decoder/1/model.onnx is not among the files"):
        load_repository(own_repository)


def test_versions_lie_side_by_side_and_strangers_are_passed_over(own_repository: Path) -> None:
    build_tiny_repository(own_repository, version=2)
    decoder = own_repository / "tiny_decoder"
    shutil.copytree(decoder / "1", decoder / "10")  # half of a copy: no artifact names it
    models = load_repository(own_repository)
    assert list(models) == ["tiny:1", "tiny:2"]
    assert models["tiny:2"].onnx_file("tiny_decoder:2") == decoder / "2/model.onnx"


def test_a_network_without_files_is_refused(own_repository: Path) -> None:
    shutil.rmtree(own_repository / "tiny_decoder")
    with pytest.raises(RepositoryError, match=r"tiny_decoder/1/model.onnx .*copy the whole"):
        load_repository(own_repository)


@pytest.mark.parametrize("stated", [2, "1", None])
def test_an_unknown_format_says_what_to_do(own_repository: Path, stated: object) -> None:
    edit(own_repository, format=stated, something_new={})
    with pytest.raises(RepositoryError, match=r"this service reads format 1: export .* or install"):
        load_repository(own_repository)


def test_a_wrong_field_is_named_with_its_file(own_repository: Path) -> None:
    edit(own_repository, condition_channels=0)
    with pytest.raises(RepositoryError, match=r"artifact.json: condition_channels"):
        load_repository(own_repository)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe"])
def test_an_artifact_that_is_no_record_is_refused(own_repository: Path, text: bytes) -> None:
    (own_repository / ARTIFACT).write_bytes(text)
    with pytest.raises(RepositoryError, match=r"artifact.json"):
        load_repository(own_repository)


def test_an_artifact_in_a_foreign_folder_is_refused(own_repository: Path) -> None:
    (own_repository / "tiny_denoiser").rename(own_repository / "new_denoiser")
    with pytest.raises(RepositoryError, match=r"must lie in the folder of that name"):
        load_repository(own_repository)


def test_an_artifact_in_a_foreign_version_is_refused(own_repository: Path) -> None:
    denoiser = own_repository / "tiny_denoiser"
    shutil.copytree(denoiser / "1", denoiser / "2")
    with pytest.raises(RepositoryError, match=r"2/artifact.json describes version 1"):
        load_repository(own_repository)


def test_two_models_of_one_name_and_version_are_refused(own_repository: Path) -> None:
    build_tiny_repository(own_repository, name="other")
    path = own_repository / "other_denoiser/1/artifact.json"
    path.write_text(path.read_text().replace('"name": "other"', '"name": "tiny"'))
    with pytest.raises(RepositoryError, match=r"second tiny:1"):
        load_repository(own_repository)
