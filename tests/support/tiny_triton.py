"""The tiny model on real Triton servers, and the gateway before them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.support.tiny_repository import build_tiny_repository
from tests.support.triton_server import TritonServer, triton_server

READY_S = 60.0
_POLL_S = 0.05
_FIGURE = re.compile(r'^percept_worker_(\w+)\{worker="([^"]+)"\} (\S+)$', re.MULTILINE)


@contextmanager
def tiny_servers(folder: Path, count: int, *, faulty: bool = False) -> Iterator[list[TritonServer]]:
    """Servers that are ready, of one repository in `folder`; those that are left die at the end."""
    repository = folder / "repository"
    repository.mkdir(parents=True, exist_ok=True)
    if not any(repository.iterdir()):
        build_tiny_repository(repository)
    with ExitStack() as stack:
        yield [
            stack.enter_context(triton_server(repository, folder, faulty=faulty))
            for _ in range(count)
        ]


@asynccontextmanager
async def tiny_gateway(*urls: str, **settings: object) -> AsyncIterator[httpx.AsyncClient]:
    """Asks an application in this process, which uses all of these servers and keeps no answer."""
    options = {"backend": "triton", "triton_urls": ",".join(urls), "cache_bytes": 0, **settings}
    application: FastAPI = create_app(Settings.model_validate(options))
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://percept", timeout=None
        ) as client:
            await until_used(client, *urls)
            yield client


@dataclass(frozen=True)
class WorkerFigures:
    """What the gateway's metrics say of a worker."""

    up: bool = False
    batches: float = 0
    errors: float = 0


async def worker_figures(client: httpx.AsyncClient) -> Mapping[str, WorkerFigures]:
    """The figures of every worker by its server's "address:port"."""
    text = (await client.get("/metrics")).text
    found: dict[str, dict[str, float]] = {}
    for figure, worker, value in _FIGURE.findall(text):
        found.setdefault(worker.removeprefix("triton:"), {})[figure] = float(value)
    return {
        url: WorkerFigures(
            bool(figures.get("up")), figures.get("batches_total", 0), figures.get("errors_total", 0)
        )
        for url, figures in found.items()
    }


async def until(
    client: httpx.AsyncClient,
    happened: Callable[[Mapping[str, WorkerFigures]], bool],
    *,
    timeout_s: float = READY_S,
) -> float:
    """Seconds until the workers' figures are as wanted; fails after `timeout_s`."""
    begun = time.monotonic()
    while not happened(figures := await worker_figures(client)):
        waited = time.monotonic() - begun
        assert waited < timeout_s, f"after {waited:.0f} s: {figures}"
        await asyncio.sleep(_POLL_S)  # metrics have no event
    return time.monotonic() - begun


async def until_used(client: httpx.AsyncClient, *urls: str, timeout_s: float = READY_S) -> float:
    """Seconds until the gateway is ready and has all of these servers up."""
    begun = time.monotonic()
    await until(
        client,
        lambda figures: all(figures.get(url, WorkerFigures()).up for url in urls),
        timeout_s=timeout_s,
    )
    while (answer := await client.get("/readyz")).status_code != 200:
        assert time.monotonic() - begun < timeout_s, answer.text
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - begun
