"""The tiny model, found in its repository."""

import shutil
from pathlib import Path

import pytest

from service.backends.repository import ServedModel, load_repository


@pytest.fixture(scope="session")
def model(tiny_repository: Path) -> ServedModel:
    return load_repository(tiny_repository)["tiny:1"]


@pytest.fixture
def own_repository(tiny_repository: Path, tmp_path: Path) -> Path:
    """Return a copy of the repository that a test may damage."""
    return shutil.copytree(tiny_repository, tmp_path / "repository")
