"""Puts a version of a model into a repository folder: all of its networks, or none.

Versions lie side by side, `NETWORK/V/`; the `config.pbtxt` of a network speaks of all that it has.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from service.core.artifact import Artifact, ArtifactError, dump_artifact, load_artifact
from service.core.tensors import Signature, model_tensors
from training.triton_config import triton_config

CONFIG = "config.pbtxt"


class ExportError(Exception):
    """A model cannot be written; the message says why."""


@contextmanager
def adding_version(repository: Path, name: str) -> Iterator[Path]:
    """A folder to write `NETWORK/V/...` into, and the artifact with `write_artifact`.

    When the block ends well they take the places of version V of that model, and the configurations
    of its networks are written anew; other versions stay as they are. An error leaves the
    repository as it was. Raises ExportError for a version that cannot lie beside the others.
    """
    partial = repository / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    new = partial / "new"
    new.mkdir(parents=True)
    try:
        yield new
        _exchange(repository, new, partial / "old")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _exchange(repository: Path, new: Path, old: Path) -> None:
    """Take the place of a version; `old` is an empty place for what makes room."""
    (added,) = read_artifacts(new)
    replaced: list[Artifact] = []
    staying: list[Artifact] = []
    for artifact in read_artifacts(repository):
        same = (artifact.denoiser, artifact.version) == (added.denoiser, added.version)
        (replaced if same else staying).append(artifact)
    folders = {folder for artifact in (added, *replaced) for folder in artifact.folders}
    _write_configs(new, triton_configs([*staying, added]), folders)
    moved = [f"{folder}/{part}" for folder in sorted(folders) for part in (added.version, CONFIG)]
    with ExitStack() as undo:
        for path in moved:
            _move(repository / path, old / path, undo)
        for path in moved:
            _move(new / path, repository / path, undo)
        undo.pop_all()
    for folder in folders:  # of which that version was the only one, and the model has it no more
        if not any((repository / folder).iterdir()):
            (repository / folder).rmdir()


def _move(source: Path, target: Path, undo: ExitStack) -> None:
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        undo.callback(target.rename, source)


def write_configs(repository: Path) -> None:
    """Writes the config.pbtxt of every network of every model; raises ExportError."""
    configs = triton_configs(read_artifacts(repository))
    _write_configs(repository, configs, configs)


def _write_configs(target: Path, configs: dict[str, str], folders: Iterable[str]) -> None:
    for folder in folders:
        if folder in configs:
            (target / folder).mkdir(exist_ok=True)
            (target / folder / CONFIG).write_text(configs[folder], encoding="ascii")


def triton_configs(artifacts: Iterable[Artifact]) -> dict[str, str]:
    """The config.pbtxt of every network that the artifacts name, by its folder.

    Raises ExportError for versions of a network that differ in their tensors.
    """
    versions: dict[str, list[Artifact]] = defaultdict(list)
    for artifact in sorted(artifacts, key=lambda artifact: artifact.version):
        for folder in artifact.folders:
            versions[folder].append(artifact)
    for folder, (first, *others) in versions.items():
        for other in others:
            if _tensors(first, folder) != _tensors(other, folder):
                raise ExportError(
                    f"{folder} of {other.key} has other tensors than that of {first.key}, and "
                    "versions of a model share one configuration: give the model another --name"
                )
    return {folder: triton_config(folder, found) for folder, found in versions.items()}


def _tensors(artifact: Artifact, folder: str) -> list[tuple[object, ...]]:
    signature: Signature = model_tensors(artifact)[artifact.network(folder)]
    tensors = (*signature.inputs, signature.output)
    return [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]


def read_artifacts(repository: Path) -> list[Artifact]:
    """The artifacts of all versions of all models; raises ExportError for one that cannot be read.

    Their files are not looked at.
    """
    artifacts = []
    for path in sorted(repository.glob("*_denoiser/*/artifact.json")):
        try:
            artifacts.append(load_artifact(path.read_text(encoding="utf-8")))
        except (OSError, ArtifactError) as error:
            raise ExportError(
                f"{path} cannot be read, so nothing goes beside it: {error}"
            ) from error
    return artifacts


def network_files(folder: Path) -> dict[str, str]:
    """The sha256 of each network file, and of weights beside it, by path relative to `folder`."""
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.glob("*/*/model.onnx*"))
    }


def write_artifact(artifact: Artifact, folder: Path) -> None:
    """Writes `artifact.json` beside the weights of the denoiser."""
    place = folder / artifact.denoiser / str(artifact.version)
    place.mkdir(parents=True, exist_ok=True)
    (place / "artifact.json").write_text(dump_artifact(artifact), encoding="utf-8")


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
