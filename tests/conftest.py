"""Fixtures that several packages of tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.tiny_repository import build_tiny_repository

if TYPE_CHECKING:
    import onnx_ir as ir

    from training.onnx_network import Network


@pytest.fixture(scope="session")
def remembered_traces(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Network], ir.Model]:
    """In place of `trace` where conversions are many and networks few."""
    from tests.support.remembered_traces import remembering

    return remembering(tmp_path_factory.mktemp("traces"))


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small but real model repository with the model "tiny:1". Copy it to change it."""
    return build_tiny_repository(tmp_path_factory.mktemp("tiny_repository"))
