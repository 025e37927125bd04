"""The tiny model, found in its repository."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.backends.repository import ServedModel, load_repository
from tests.support.triton_server import TritonServer, triton_server


@pytest.fixture(scope="session")
def model(tiny_repository: Path) -> ServedModel:
    return load_repository(tiny_repository)["tiny:1"]


@pytest.fixture(scope="session")
def tiny_triton(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """Return a real server of the tiny repository, for tests that leave it as it is."""
    with triton_server(tiny_repository, tmp_path_factory.mktemp("triton")) as server:
        yield server


@pytest.fixture
def own_repository(tiny_repository: Path, tmp_path: Path) -> Path:
    """Return a copy of the repository that a test may damage."""
    return shutil.copytree(tiny_repository, tmp_path / "repository")
