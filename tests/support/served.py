"""Asking a repository's model over HTTP, in this process."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from service.app import create_app
from service.settings import Settings
from tests.support.pictures import encode

Arrays = Mapping[str, np.ndarray]


@asynccontextmanager
async def client_of(repository: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The whole application over the models of a repository."""
    application = create_app(Settings(model_repo=repository, threads=1))
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
            yield client


async def ask(
    client: httpx.AsyncClient, picture: Image.Image, *, task: str = "depth", **fields: object
) -> Arrays:
    """The arrays of an `npz` answer."""
    answer = await client.post(
        f"/{task}",
        files={"image": encode(picture)},
        data={"output": "npz", **{key: str(value) for key, value in fields.items()}},
    )
    assert answer.status_code == 200, answer.text
    return read_npz(answer.content)


def read_npz(content: bytes) -> Arrays:
    """The arrays of a file."""
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)
