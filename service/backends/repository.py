"""Finds the models of a repository folder and checks that they are the files that were exported."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from service.core.artifact import Artifact, ArtifactError, load_artifact
from service.core.tensors import model_tensors

ARTIFACT_FORMAT = 1
_ARTIFACTS = "*_denoiser/*/artifact.json"


class RepositoryError(Exception):
    """A model cannot be served; the message says which, and what to do."""


@dataclass(frozen=True)
class ServedModel:
    """One version of a model, and the repository folder that its networks lie in."""

    artifact: Artifact
    folder: Path

    @property
    def networks(self) -> tuple[str, ...]:
        """The model's networks ("folder:version"): encoders, denoiser, decoder."""
        return tuple(model_tensors(self.artifact))

    def onnx_file(self, network: str) -> Path:
        """Return the file of a network ("folder:version")."""
        return self.folder / _onnx_file(network)


def load_repository(folder: Path, name: str | None = None) -> dict[str, ServedModel]:
    """Every version of every model under `folder` by "name:version", in the order of paths.

    A model is a `*_denoiser/V/artifact.json`. Every file it lists must have the listed sha256, and
    every network it names must be among them. With a `name`, only that model's versions are looked
    at, which may be none. Raises RepositoryError.
    """
    models: dict[str, ServedModel] = {}
    for path in sorted(folder.glob(_ARTIFACTS)):
        model = ServedModel(_read_artifact(path), folder)
        if name not in (None, model.artifact.name):
            continue
        key = model.artifact.key
        if key in models:
            raise RepositoryError(f"{path} is a second {key}: give it another version")
        _check_files(model)
        models[key] = model
    if not models and name is None:
        raise RepositoryError(
            f"no {_ARTIFACTS} in {folder.absolute()}: point the model repository "
            "setting at a folder that the exporter wrote"
        )
    return models


def parse_artifact(text: str, source: object) -> Artifact:
    """Read an artifact; RepositoryError names its `source` and says what to do."""
    try:
        record = json.loads(text)
    except ValueError as error:
        raise RepositoryError(f"{source} is not JSON ({error}): export the model again") from error
    stated = record.get("format") if isinstance(record, dict) else None
    if stated != ARTIFACT_FORMAT:  # asked first: a later format may differ in every other key
        raise RepositoryError(
            f"{source} has format {stated!r} and this service reads format {ARTIFACT_FORMAT}: "
            "export the model again with this version, or install the version that exported it"
        )
    try:
        return load_artifact(text)
    except ArtifactError as error:
        raise RepositoryError(f"{source}: {error}: export the model again") from error


def _read_artifact(path: Path) -> Artifact:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RepositoryError(f"{path} cannot be read: {error}") from error
    artifact = parse_artifact(text, path)
    place = (path.parents[1].name, path.parent.name)
    if place != (artifact.denoiser, str(artifact.version)):
        raise RepositoryError(
            f"{path} describes version {artifact.version} of {artifact.denoiser!r}: it must lie in "
            "the folder of that name and version"
        )
    return artifact


def _check_files(model: ServedModel) -> None:
    key, files = model.artifact.key, model.artifact.files
    for network in model.networks:
        if _onnx_file(network) not in files:
            raise RepositoryError(
                f"{_onnx_file(network)} is not among the files that {key} lists: export it again"
            )
    for name, expected in files.items():
        path = model.folder / name
        if not path.is_file():
            raise RepositoryError(f"{path} of {key} is missing: copy the whole repository")
        if _sha256(path) != expected:
            raise RepositoryError(
                f"{path} is not the file that {key} was exported with (its sha256 differs): "
                "copy the repository again, or fetch large files if it is a Git LFS pointer"
            )


def _onnx_file(network: str) -> str:
    folder, _, version = network.rpartition(":")
    return f"{folder}/{version}/model.onnx"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
