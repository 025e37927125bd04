"""Callers that do all that callers do, well and badly, each thing by chance, as long as they may.

They come from addresses without end (127.0.0.0/8): what a server keeps by caller would grow.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from service.core.tasks import TASKS, Task
from tests.chaos.fuzz_forms import broken_form
from tests.chaos.fuzz_images import broken_picture
from tests.chaos.gate import Gate
from tests.support.pictures import task_files

PATIENCE_S = 120.0
CALLS_FROM_ONE_ADDRESS = 100
ASYNC = {"Prefer": "respond-async"}
NO_LINGERING = struct.pack("ii", 1, 0)  # closing resets the connection
SIZES = ((96, 80), (64, 64), (120, 90), (300, 200))
QUESTIONS_ASKED_AGAIN = 60
ASKED_AGAIN_SHARE = 0.3
GETS = ("/models", "/readyz", "/healthz", "/metrics", f"/jobs/{'0' * 32}", "/jobs/none")
FILES = {(task, size): task_files(task, *size) for task in TASKS for size in SIZES}
Documented = Mapping[tuple[str, str], frozenset[int]]


@dataclass
class Seen:
    """What callers got; `faults` are answers that no document promises, or that never came."""

    documented: Documented
    answers: Counter[str] = field(default_factory=Counter)  # by what was done, and the status
    cache: Counter[str] = field(default_factory=Counter)  # by X-Percept-Cache
    faults: list[str] = field(default_factory=list)

    def note(self, what: str, route: str, answer: httpx.Response) -> None:
        """Count one answer and hold it against the OpenAPI document."""
        status = answer.status_code
        self.answers[f"{what} {status}"] += 1
        self.cache[answer.headers.get("X-Percept-Cache", "none")] += 1
        if status not in self.documented[answer.request.method, route]:
            self.faults.append(f"{what}: {route} gave {status} {answer.text[:500]}")


async def documented(url: str) -> Documented:
    """Return the statuses that a server's OpenAPI document names, by method and route."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        paths = (await client.get("/openapi.json")).raise_for_status().json()["paths"]
    return {
        (method.upper(), route): frozenset(map(int, operation["responses"]))
        for route, operations in paths.items()
        for method, operation in operations.items()
    }


class Caller:
    """One of several; `dice` decide what it does and how."""

    def __init__(self, port: int, seen: Seen, dice: random.Random) -> None:
        self._port = port
        self._seen = seen
        self._dice = dice
        self._client = httpx.AsyncClient()
        self._host = ""
        self._num_forms = 0
        self._deeds: Mapping[Callable[[], Awaitable[None]], int] = {
            self._predict: 50,
            self._hang_up_sending: 8,
            self._hang_up_waiting: 12,
            self._send_a_broken_form: 5,
            self._send_a_broken_picture: 5,
            self._run_a_job: 12,
            self._look_around: 8,
        }

    async def call(self, gate: Gate) -> None:
        """Do one thing after another, until the gate's end."""
        deeds, weights = zip(*self._deeds.items(), strict=True)
        while not gate.ended():
            await self._client.aclose()
            self._host = ".".join(["127", *(str(self._dice.randrange(1, 255)) for _ in range(3))])
            self._client = self._new_client()
            for _ in range(CALLS_FROM_ONE_ADDRESS):
                if gate.ended():
                    break
                (deed,) = self._dice.choices(deeds, weights)
                try:
                    async with gate.passing():
                        await deed()
                except httpx.LocalProtocolError:  # a header that the client does not send
                    self._seen.answers["not sent"] += 1
                except httpx.HTTPError as error:
                    self._seen.faults.append(f"{deed.__name__}: {error!r}")
        await self._client.aclose()

    def _new_client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(local_address=self._host, verify=False)
        url = f"http://127.0.0.1:{self._port}"
        return httpx.AsyncClient(transport=transport, base_url=url, timeout=PATIENCE_S)

    def _question(self, dice: random.Random) -> tuple[Task, dict[str, str]]:
        """Draw a task, and a form that the service accepts."""
        task = dice.choice(list(TASKS.values()))
        fields = {"output": dice.choice(list(task.outputs))}
        if dice.random() < 0.7:
            fields["steps"] = str(dice.choice((1, 2, 3, 5, 8, 20)))
            fields["ensemble"] = dice.choice(("1", "2", "4", "auto"))
        elif dice.random() < 0.8:
            kind = dice.choice(("budget_evals", "budget_ms", "quality"))
            choices = {"budget_evals": "12", "budget_ms": "400", "quality": "standard"}
            fields[kind] = choices[kind]
        if dice.random() < 0.7:
            fields["seed"] = str(dice.getrandbits(64))
        if dice.random() < 0.3:
            fields["reduction"] = dice.choice(task.reductions)
        if dice.random() < 0.2:
            fields["uncertainty"] = "true"
        if fields["output"] == "npz" and dice.random() < 0.2:
            fields["all_members"] = "true"
        return task, fields

    def _request(self, headers: Mapping[str, str] | None = None) -> httpx.Request:
        dice = self._dice
        if dice.random() < ASKED_AGAIN_SHARE:
            dice = random.Random(dice.randrange(QUESTIONS_ASKED_AGAIN))
        task, fields = self._question(dice)
        files = FILES[task.name, dice.choice(SIZES)]
        chosen = dict(headers or {})
        if self._dice.random() < 0.1:
            chosen["X-Deadline-Ms"] = str(self._dice.choice((5, 50, 5000)))
        if self._dice.random() < 0.2:
            chosen["X-Priority"] = self._dice.choice(("high", "low"))
        return self._client.build_request(
            "POST", f"/{task.name}", files=files, data=fields, headers=chosen
        )

    async def _predict(self) -> None:
        request = self._request()
        self._seen.note("prediction", request.url.path, await self._client.send(request))

    async def _hang_up_sending(self) -> None:
        content = _written(self._request())
        kept = self._dice.randrange(1, len(content))
        await self._exchange(content[:kept], wait_s=self._dice.choice((0.0, 0.0, 0.02, 0.3)))
        self._seen.answers["upload broken off"] += 1

    async def _hang_up_waiting(self) -> None:
        await self._exchange(_written(self._request()), wait_s=self._dice.expovariate(1 / 0.05))
        self._seen.answers["answer broken off"] += 1

    async def _exchange(self, content: bytes, wait_s: float) -> None:
        """Send, wait, read a little or nothing, and hang up: politely, or by a reset."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=(self._host, 0)
        )
        with suppress(ConnectionError, TimeoutError):
            writer.write(content)
            await writer.drain()
            if self._dice.random() < 0.3:
                await asyncio.wait_for(reader.read(self._dice.randrange(1, 3000)), wait_s)
            else:
                await asyncio.sleep(wait_s)
        if self._dice.random() < 0.5:
            options = (socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGERING)
            writer.get_extra_info("socket").setsockopt(*options)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _send_a_broken_form(self) -> None:
        self._num_forms += 1
        form = broken_form(self._dice.getrandbits(32), self._num_forms)
        if form.content_type.strip() != form.content_type:  # no header at all
            return
        headers = {b"content-type": form.content_type}
        content = b"".join(form.pieces)
        answer = await self._client.post("/depth", content=content, headers=headers)
        self._seen.note("broken form", "/depth", answer)

    async def _send_a_broken_picture(self) -> None:
        self._num_forms += 1
        files = {"image": broken_picture(self._dice.getrandbits(32), self._num_forms)}
        route = self._dice.choice(("/depth", "/normals"))
        answer = await self._client.post(route, files=files, data={"steps": "1"})
        self._seen.note("broken picture", route, answer)

    async def _run_a_job(self) -> None:
        """Submit; then read the events and the answer, or stop reading, or cancel, or go away."""
        headers = dict(ASYNC)
        if self._dice.random() < 0.5:
            headers["Idempotency-Key"] = str(self._dice.getrandbits(64))
        request = self._request(headers)
        answer = await self._client.send(request)
        self._seen.note("job", request.url.path, answer)
        if answer.status_code != 202:
            return
        job = answer.headers["location"]
        match self._dice.randrange(4):
            case 0:
                await self._follow(job, most=10_000)
                result = await self._client.get(f"{job}/result")
                self._seen.note("result", "/jobs/{job_id}/result", result)
            case 1:
                await self._follow(job, most=self._dice.randrange(3))
                self._seen.answers["events broken off"] += 1
            case 2:
                await asyncio.sleep(self._dice.choice((0.0, 0.01, 0.1)))
                cancelled = await self._client.delete(job)
                self._seen.note("cancelling", "/jobs/{job_id}", cancelled)
            case _:
                state = await self._client.get(job)
                self._seen.note("state", "/jobs/{job_id}", state)

    async def _follow(self, job: str, most: int) -> None:
        num_events = 0
        async with self._client.stream("GET", f"{job}/events") as answer:
            if answer.status_code != 200:
                await answer.aread()
            self._seen.note("events", "/jobs/{job_id}/events", answer)
            async for line in answer.aiter_lines():
                num_events += line.startswith("data: ")
                if num_events > most:
                    return

    async def _look_around(self) -> None:
        path = self._dice.choice(GETS)
        route = "/jobs/{job_id}" if path.startswith("/jobs") else path
        self._seen.note(path, route, await self._client.get(path))


def _written(request: httpx.Request) -> bytes:
    """Write a request as HTTP/1.1."""
    content = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"{request.method} {request.url.path} HTTP/1.1\r\n{head}\r\n".encode() + content
