"""Fixtures that several packages of tests share."""

from pathlib import Path

import pytest

from tests.support.tiny_repository import build_tiny_repository


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small but real model repository with the model "tiny:1". Copy it to change it."""
    return build_tiny_repository(tmp_path_factory.mktemp("tiny_repository"))
