"""Versions of a model that come, fail to come and go while requests run: in process, on Triton."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest

from service.app import create_app
from service.backends.onnx import OnnxWorker
from service.backends.servers import ServerWorker
from service.settings import Settings
from tests.support.pictures import task_files
from tests.support.served import read_npz
from tests.support.tiny_repository import build_tiny_repository
from tests.support.triton_server import triton_server
from training.served_model import network_files, read_artifacts, write_artifact, write_configs

KEY = "the-key-of-the-admin"
ADMIN = {"Authorization": f"Bearer {KEY}"}
PATIENCE_S = 120.0


@dataclass
class Gate:
    """Holds calls of the first version's denoiser while it is closed."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Queue[str] = field(default_factory=asyncio.Queue)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    made.open.set()
    for kind in (OnnxWorker, ServerWorker):

        async def held(self, network, inputs, run=kind.run):
            if network == "tiny_denoiser:1" and not made.open.is_set():
                made.arrived.put_nowait(network)
                await made.open.wait()
            return await run(self, network, inputs)

        monkeypatch.setattr(kind, "run", held)
    return made


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_repository, tmp_path / "repository")


@contextmanager
def onnx_settings(repository: Path):
    yield {"backend": "onnx", "model_repo": repository, "threads": 1, "instances": 2}


@contextmanager
def triton_settings(repository: Path):
    with triton_server(repository, repository.parent) as server:
        yield {"backend": "triton", "triton_urls": server.url}


@pytest.fixture(params=[onnx_settings, triton_settings], ids=["onnx", "triton"])
async def client(
    request: pytest.FixtureRequest, repository: Path, gate: Gate
) -> AsyncIterator[httpx.AsyncClient]:
    with request.param(repository) as settings:
        # Equal questions at once would share one computation.
        own = Settings(admin_key=KEY, watchdog_s=PATIENCE_S, cache_bytes=0, **settings)
        async with serving(own) as client:
            yield client


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The application, ready."""
    app = create_app(settings)
    async with app.router.lifespan_context(app), asyncio.timeout(PATIENCE_S):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://percept", timeout=PATIENCE_S
        ) as client:
            await answers(client, "/readyz", 200)
            yield client


async def answers(client: httpx.AsyncClient, path: str, status: int) -> None:
    """Return when a page has a status."""
    async with asyncio.timeout(PATIENCE_S):
        while (await client.get(path)).status_code != status:  # noqa: ASYNC110  # a page tells not
            await asyncio.sleep(0.05)


async def predict(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    # One member is one row: a held call leaves the other worker free.
    data = {"output": "npz", "seed": "5", "steps": "3", "ensemble": "1", **fields}
    return await client.post("/depth", files=task_files("depth"), data=data)


async def control(client: httpx.AsyncClient, what: str, name: str = "tiny") -> httpx.Response:
    return await client.post(f"/models/{name}/{what}", headers=ADMIN)


def model_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.headers["x-percept-model"]


async def served(client: httpx.AsyncClient) -> list[str]:
    models = (await client.get("/models")).json()["models"]
    return [f"{model['name']}:{model['version']}" for model in models]


async def test_a_new_version_serves_what_comes_and_the_old_one_ends_what_it_began(
    client: httpx.AsyncClient, repository: Path, gate: Gate
) -> None:
    gate.open.clear()
    running = asyncio.create_task(predict(client))
    await gate.arrived.get()
    build_tiny_repository(repository, version=2)
    loaded = await control(client, "load")
    assert (loaded.status_code, loaded.json()) == (200, {"name": "tiny", "versions": [2, 1]})
    assert await served(client) == ["tiny:2", "tiny:1"]
    fresh = await predict(client)
    assert model_of(fresh) == "tiny:2"
    pinned = asyncio.create_task(predict(client, model="tiny:1"))
    await gate.arrived.get()
    assert not running.done()
    gate.open.set()
    assert [model_of(await running), model_of(await pinned)] == ["tiny:1", "tiny:1"]
    assert model_of(await predict(client, model="tiny:2")) == "tiny:2"
    for other in (running.result(), pinned.result()):  # the same weights: the same answer
        np.testing.assert_allclose(
            read_npz(other.content)["prediction"],
            read_npz(fresh.content)["prediction"],
            atol=1e-4,
        )


async def test_unloading_waits_for_what_runs_and_loading_brings_it_back(
    client: httpx.AsyncClient, gate: Gate
) -> None:
    gate.open.clear()
    running = asyncio.create_task(predict(client))
    await gate.arrived.get()
    unloading = asyncio.create_task(control(client, "unload"))
    await answers(client, "/readyz", 503)  # nothing else is served here
    refused = await predict(client)
    assert (refused.status_code, int(refused.headers["retry-after"])) == (503, 1)
    assert not running.done()
    assert not unloading.done()
    gate.open.set()
    assert model_of(await running) == "tiny:1"
    assert (await unloading).json() == {"name": "tiny", "versions": [1]}
    assert await served(client) == []
    assert (await control(client, "unload")).status_code == 404
    assert (await control(client, "load")).json() == {"name": "tiny", "versions": [1]}
    assert model_of(await predict(client)) == "tiny:1"
    assert (await client.get("/readyz")).status_code == 200


async def test_loading_what_is_loaded_changes_nothing_for_those_who_ask(
    client: httpx.AsyncClient,
) -> None:
    asking = [asyncio.create_task(predict(client, steps="50")) for _ in range(8)]
    assert (await control(client, "load")).json() == {"name": "tiny", "versions": [1]}
    assert {model_of(answer) for answer in await asyncio.gather(*asking)} == {"tiny:1"}


def truncated(repository: Path) -> None:
    """A file that no runtime reads, exported so."""
    build_tiny_repository(repository, version=2)
    path = repository / "tiny_decoder/2/model.onnx"
    path.write_bytes(path.read_bytes()[:100])
    (artifact,) = (a for a in read_artifacts(repository) if a.version == 2)
    digest = network_files(repository)["tiny_decoder/2/model.onnx"]
    files = {**artifact.files, "tiny_decoder/2/model.onnx": digest}
    write_artifact(replace(artifact, files=files), repository)
    write_configs(repository)


def of_another_export(repository: Path) -> None:
    """A network that works, and is not the one that belongs there."""
    build_tiny_repository(repository, version=2)
    path = repository / "tiny_decoder/2/model.onnx"
    network = onnx.load(path)
    network.doc_string = "exported again"
    onnx.save(network, path)
    config = repository / "tiny_decoder/config.pbtxt"
    text = config.read_text()
    (line,) = (line for line in text.splitlines() if '"checksum.2"' in line)
    digest = line.rpartition('string_value: "')[2][:64]
    config.write_text(text.replace(line, line.replace(digest, "0" * 64)))


def of_another_time(repository: Path) -> None:
    """An artifact of a format that is not known yet."""
    build_tiny_repository(repository, version=2)
    path = repository / "tiny_denoiser/2/artifact.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    config = repository / "tiny_denoiser/config.pbtxt"
    known = r"\"format\":1,\"name\":\"tiny\",\"version\":2"
    text = config.read_text()
    assert known in text
    config.write_text(text.replace(known, known.replace(":1,", ":99,")))


def mend(repository: Path) -> None:
    for path in repository.glob("*/2"):
        shutil.rmtree(path)
    build_tiny_repository(repository, version=2)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, "tiny_decoder"),
        (of_another_export, "copy the"),
        (of_another_time, "has format 99 and this service reads format 1"),
    ],
)
async def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(
    client: httpx.AsyncClient, repository: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(repository)
    asking = [asyncio.create_task(predict(client, steps="50")) for _ in range(4)]
    failed = await control(client, "load")
    assert failed.status_code == 502
    assert failed.headers["content-type"] == "application/problem+json"
    assert says in failed.json()["detail"]
    assert {model_of(answer) for answer in await asyncio.gather(*asking)} == {"tiny:1"}
    assert await served(client) == ["tiny:1"]
    assert model_of(await predict(client)) == "tiny:1"
    assert (await predict(client, model="tiny:2")).status_code == 422
    mend(repository)
    assert (await control(client, "load")).json() == {"name": "tiny", "versions": [2, 1]}
    assert model_of(await predict(client)) == "tiny:2"


async def test_who_may_load_and_what(client: httpx.AsyncClient) -> None:
    for what in ("load", "unload"):
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": KEY}):
            refused = await client.post(f"/models/tiny/{what}", headers=headers)
            assert (refused.status_code, refused.json()["field"]) == (401, "Authorization")
        unknown = await control(client, what, "nonesuch")
        assert unknown.status_code == 404
        assert "nonesuch" in unknown.json()["detail"]
    assert model_of(await predict(client)) == "tiny:1"


async def test_without_a_key_nobody_may(repository: Path) -> None:
    async with serving(Settings(model_repo=repository, threads=1)) as client:
        for headers in ({}, ADMIN, {"Authorization": "Bearer "}):
            refused = await client.post("/models/tiny/load", headers=headers)
            assert (refused.status_code, refused.json()["limit"]) == (403, "PERCEPT_ADMIN_KEY")
