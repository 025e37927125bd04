"""Many requests at once: the answers of each alone, bounded, nothing left behind by the gone."""

import asyncio
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.types import Message

from service.app import create_app
from service.backends.base import BackendError
from service.backends.onnx import OnnxWorker
from service.settings import Settings
from tests.support.pictures import encode, gradient, task_files

MIX = [
    (task, {"output": "npz", "seed": seed, "steps": steps, "ensemble": members})
    for seed, (task, steps, members) in enumerate(
        [
            ("depth", 1, 1),
            ("depth", 50, 2),
            ("flow", 3, 5),
            ("flow", 20, 1),
            ("amodal", 2, 2),
            ("amodal", 7, 3),
            ("depth", 5, 10),
        ]
        * 3
    )
]
BOUND = 1e-3  # engine.py's bound on encoded fields, through each task's units


async def predict(client: httpx.AsyncClient, task: str, knobs: dict[str, object]) -> np.ndarray:
    data = {name: str(value) for name, value in knobs.items()}
    answer = await client.post(f"/{task}", files=task_files(task), data=data)
    assert answer.status_code == 200, answer.text
    return np.load(BytesIO(answer.content))["prediction"]


async def test_mixed_requests_at_once_equal_each_alone(client):
    together = await asyncio.gather(*(predict(client, *one) for one in MIX))
    for (task, knobs), got in zip(MIX, together, strict=True):
        alone = await predict(client, task, knobs)
        np.testing.assert_allclose(got, alone, atol=BOUND * max(1, np.abs(alone).max()))


async def test_one_bad_request_harms_no_other(client):
    async def wrong() -> int:
        files = {"image": encode(gradient())[:-40]}
        return (await client.post("/depth", files=files)).status_code

    refused = asyncio.create_task(wrong())
    good = await asyncio.gather(*(predict(client, *one) for one in MIX[:6]))
    assert await refused == 422
    np.testing.assert_allclose(good[0], await predict(client, *MIX[0]), atol=BOUND)


async def test_beyond_the_limit_is_429_with_retry_after(tiny_repository: Path):
    app = create_app(Settings(model_repo=tiny_repository, threads=1, max_concurrent_requests=2))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://percept") as client,
    ):
        data = {"steps": "200", "ensemble": "20"}

        async def ask() -> httpx.Response:
            return await client.post("/depth", files=task_files("depth"), data=data)

        answers = await asyncio.gather(*(ask() for _ in range(6)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 4
        for answer in refused:
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
        assert (await ask()).status_code == 200


class Caller:
    """Speaks ASGI to the application, so that it can hang up when it likes."""

    def __init__(self, app) -> None:
        self._app = app
        self._gone = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()
        self.answering = asyncio.Event()
        self.messages: list[Message] = []

    def hang_up(self) -> None:
        self._gone.set()

    def stop_reading(self) -> None:
        self._reading.clear()

    def read_on(self) -> None:
        self._reading.set()

    async def post(self, path: str, files: dict[str, bytes], data: dict[str, str]) -> None:
        request = httpx.Request("POST", f"http://percept{path}", files=files, data=data)
        body = [request.read()]

        async def receive() -> dict[str, object]:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.answering.set()
            await self._reading.wait()
            self.messages.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "server": ("percept", 80),
            "client": ("caller", 1),
            "headers": [(k.lower(), v) for k, v in request.headers.raw],
        }
        await self._app(scope, receive, send)


def metric(text: str, name: str) -> float:
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


async def test_a_client_that_hangs_up_frees_everything(app, client):
    caller = Caller(app)
    data = {"steps": "200", "ensemble": "20"}
    asking = asyncio.create_task(caller.post("/depth", task_files("depth"), data))
    # a request that shares batches with the long one, so the long one is under way
    await predict(client, *MIX[2])
    caller.hang_up()
    await asyncio.wait_for(asking, 30)
    text = (await client.get("/metrics")).text
    assert metric(text, 'percept_http_requests_total{route="/depth",status="499"}') == 1
    assert metric(text, "percept_requests_in_flight") == 0
    assert metric(text, "percept_buffered_bytes") == 0
    rows = metric(text, 'percept_model_call_rows_sum{stage="denoise"}')
    assert rows < 200 * 20
    await predict(client, *MIX[0])
    later = (await client.get("/metrics")).text
    added = metric(later, 'percept_model_call_rows_sum{stage="denoise"}') - rows
    assert added <= 1 + 64  # one step of one member, and one call that was under way


async def test_an_answer_in_time_is_sent_and_counted(app, client):
    caller = Caller(app)
    await caller.post("/depth", task_files("depth"), {"seed": "1"})
    assert caller.messages[0]["status"] == 200


async def test_an_unread_answer_is_still_held(app, client):
    """Else a client that never reads makes the server pile up answers without end."""
    caller = Caller(app)
    caller.stop_reading()
    data = {"steps": "1", "output": "npz", "seed": "1"}
    asking = asyncio.create_task(caller.post("/depth", task_files("depth"), data))
    await asyncio.wait_for(caller.answering.wait(), 30)
    text = (await client.get("/metrics")).text
    assert metric(text, "percept_requests_in_flight") == 1
    assert metric(text, "percept_buffered_bytes") > 96 * 80 * 4
    caller.read_on()
    await asyncio.wait_for(asking, 30)
    text = (await client.get("/metrics")).text
    assert metric(text, "percept_requests_in_flight") == 0
    assert metric(text, "percept_buffered_bytes") == 0
    assert len(b"".join(message.get("body", b"") for message in caller.messages)) > 96 * 80 * 4


async def test_a_request_that_the_server_gives_up_is_told_so(app, client):
    caller = Caller(app)
    data = {"steps": "200", "ensemble": "20"}
    asking = asyncio.create_task(caller.post("/depth", task_files("depth"), data))
    # a request that shares batches with the long one, so the long one is under way
    await predict(client, *MIX[2])
    asking.cancel()  # as uvicorn does when the grace is over
    await asking
    assert caller.messages[0]["status"] == 503
    assert (b"retry-after", b"1") in caller.messages[0]["headers"]
    text = (await client.get("/metrics")).text
    assert metric(text, "percept_requests_in_flight") == 0
    assert metric(text, 'percept_http_requests_total{route="/depth",status="503"}') == 1


@pytest.mark.parametrize("failure", ["not finite", "raises"])
async def test_a_model_that_fails_on_a_picture_is_a_502(app, client, monkeypatch, failure):
    run = OnnxWorker.run

    async def failing(self, model, inputs):
        pictured = "image" in inputs and np.abs(inputs["image"]).max() <= 1  # a probe goes beyond
        if pictured and failure == "raises":
            raise BackendError("the worker is on fire")
        output = await run(self, model, inputs)
        return np.full_like(output, np.nan) if pictured else output

    monkeypatch.setattr(OnnxWorker, "run", failing)
    answer = await client.post("/depth", files=task_files("depth"))
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/problem+json"
    assert "fire" not in answer.text
    monkeypatch.undo()
    assert (await client.post("/depth", files=task_files("depth"))).status_code == 200


@pytest.mark.parametrize("failure", ["not finite", "raises"])
async def test_workers_that_stay_away_are_a_503_and_are_used_when_they_return(
    settings, monkeypatch, failure
):
    run = OnnxWorker.run

    async def broken(self, model, inputs):
        if failure == "raises":
            raise BackendError("the worker is on fire")
        return np.full_like(await run(self, model, inputs), np.nan)

    application = create_app(settings.model_copy(update={"outage_s": 0.05}))
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
            monkeypatch.setattr(OnnxWorker, "run", broken)
            answer = await client.post("/depth", files=task_files("depth"))
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert "fire" not in answer.text
            monkeypatch.undo()
            status = 503
            while status == 503:  # until the next probe of the worker
                status = (await client.post("/depth", files=task_files("depth"))).status_code
            assert status == 200
