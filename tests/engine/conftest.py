"""The tiny model, loaded, and requests for it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.backends.onnx import OnnxBackend
from service.backends.repository import ServedModel, load_repository


@pytest.fixture(scope="session")
def model(tiny_repository: Path) -> ServedModel:
    return load_repository(tiny_repository)["tiny:1"]


@pytest.fixture
async def onnx(model: ServedModel) -> AsyncIterator[OnnxBackend]:
    backend = OnnxBackend([model], instances=2, threads=1)
    yield backend
    await backend.close()
