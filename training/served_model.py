"""Puts a model's networks into a repository folder: all of them, or none."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.core.artifact import Artifact, dump_artifact


@contextmanager
def replacing(repository: Path, name: str) -> Iterator[Path]:
    """A folder to write a model's networks into.

    They take the places of their namesakes in the repository when the block ends well; an error
    leaves the repository as it was.
    """
    partial = repository / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for folder in partial.iterdir():
            shutil.rmtree(repository / folder.name, ignore_errors=True)
            folder.rename(repository / folder.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def network_files(folder: Path) -> dict[str, str]:
    """The sha256 of each network file, and of weights beside it, by path relative to `folder`."""
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.glob("*/*/model.onnx*"))
    }


def write_artifact(artifact: Artifact, folder: Path) -> None:
    """Writes `artifact.json` beside the weights of the denoiser."""
    place = folder / artifact.denoiser / str(artifact.version)
    (place / "artifact.json").write_text(dump_artifact(artifact))


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
