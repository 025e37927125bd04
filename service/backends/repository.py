"""Finds the models of a repository folder and checks that they are the files that were exported."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from service.backends.base import model_tensors
from service.core.artifact import Artifact, ArtifactError, load_artifact

ARTIFACT_FORMAT = 1


class RepositoryError(Exception):
    """A model repository cannot be served; the message names the file and says what to do."""


@dataclass(frozen=True)
class ServedModel:
    """One model ready to load: its artifact, and the repository folder that its networks lie in."""

    artifact: Artifact
    folder: Path

    @property
    def key(self) -> str:
        """ "name:version", by which requests name the model."""
        return f"{self.artifact.name}:{self.artifact.version}"

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the model's networks: encoders, denoiser, decoder."""
        return tuple(model_tensors(self.artifact))

    def onnx_file(self, network: str) -> Path:
        """Return the newest version's `model.onnx` of a network. RepositoryError if none."""
        return onnx_file(self.folder, network)


def load_repository(folder: Path) -> dict[str, ServedModel]:
    """Every model under `folder` by its key, in the order of folder names.

    A model is a `*_denoiser/artifact.json`. Every file it lists must have the listed sha256, and
    every network it names must be among them. Raises RepositoryError.
    """
    models: dict[str, ServedModel] = {}
    for path in sorted(folder.glob("*_denoiser/artifact.json")):
        model = ServedModel(_read_artifact(path), folder)
        if model.artifact.denoiser != path.parent.name:
            raise RepositoryError(
                f"{path} describes the denoiser {model.artifact.denoiser!r}: it must lie in the "
                "folder of that name"
            )
        if model.key in models:
            raise RepositoryError(f"{path} is a second {model.key}: give it another version")
        _check_files(model)
        models[model.key] = model
    if not models:
        raise RepositoryError(
            f"no *_denoiser/artifact.json in {folder.absolute()}: point the model repository "
            "setting at a folder that the exporter wrote"
        )
    return models


def onnx_file(folder: Path, network: str) -> Path:
    """Return `folder/network/V/model.onnx` of the highest V, which is the one that Triton serves.

    Raises RepositoryError if there is none.
    """
    versions = [
        version
        for version in (folder / network).glob("*/model.onnx")
        if version.parent.name.isdecimal()
    ]
    if not versions:
        raise RepositoryError(
            f"{folder / network} has no 1/model.onnx: copy the whole repository, or export it again"
        )
    return max(versions, key=lambda version: int(version.parent.name))


def _read_artifact(path: Path) -> Artifact:
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text)
    except (OSError, ValueError) as error:
        raise RepositoryError(f"{path} cannot be read: {error}") from error
    stated = record.get("format") if isinstance(record, dict) else None
    if stated != ARTIFACT_FORMAT:  # asked first: a later format may differ in every other key
        raise RepositoryError(
            f"{path} has format {stated!r} and this service reads format {ARTIFACT_FORMAT}: "
            "export the model again with this version, or install the version that exported it"
        )
    try:
        return load_artifact(text)
    except ArtifactError as error:
        raise RepositoryError(f"{path}: {error}") from error


def _check_files(model: ServedModel) -> None:
    for name, expected in model.artifact.files.items():
        path = model.folder / name
        if not path.is_file():
            raise RepositoryError(f"{path} of {model.key} is missing: copy the whole repository")
        if _sha256(path) != expected:
            raise RepositoryError(
                f"{path} is not the file that {model.key} was exported with (its sha256 differs): "
                "copy the repository again, or fetch large files if it is a Git LFS pointer"
            )
    for network in model.networks:
        listed = model.onnx_file(network).relative_to(model.folder).as_posix()
        if listed not in model.artifact.files:
            raise RepositoryError(
                f"{listed} is not among the files that {model.key} lists: remove it or export again"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
