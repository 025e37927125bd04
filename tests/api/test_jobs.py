"""Asynchronous calls over HTTP, in one process."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.problems import Problem
from service.api.schemas import JobData
from service.core.tasks import TASKS
from tests.support.pictures import task_files
from tests.support.served import read_npz

ASYNC = {"Prefer": "respond-async"}


async def submit(client: httpx.AsyncClient, task: str = "depth", headers=None, **knobs) -> JobData:
    data = {name: str(value) for name, value in knobs.items()}
    answer = await client.post(
        f"/{task}", files=task_files(task), data=data, headers={**ASYNC, **(headers or {})}
    )
    assert answer.status_code == 202, answer.text
    job = JobData.model_validate_json(answer.content)
    assert answer.headers["location"] == f"/jobs/{job.id}"
    assert answer.headers["preference-applied"] == "respond-async"
    return job


async def events(
    client: httpx.AsyncClient, job: JobData, after: str = ""
) -> AsyncIterator[dict[str, Any]]:
    headers = {"Last-Event-ID": after} if after else {}
    async with client.stream("GET", job.events, headers=headers) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        event: dict[str, Any] = {}
        async for line in stream.aiter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event"):
                event[name] = value
            elif name == "data":
                event["data"] = json.loads(value)
            elif not line and event:
                yield event
                event = {}


async def finished(client: httpx.AsyncClient, job: JobData) -> JobData:
    async for event in events(client, job):
        if event["event"] == "end":
            break
    return JobData.model_validate_json((await client.get(f"/jobs/{job.id}")).content)


def problem(answer: httpx.Response, status: int) -> Problem:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return Problem.model_validate_json(answer.content)


@pytest.mark.parametrize("task", TASKS)
async def test_a_job_is_answered_as_the_call_would_be(client, task):
    knobs = {"seed": 5, "output": "npz", "steps": 2, "ensemble": 3}
    data = {name: str(value) for name, value in knobs.items()}
    at_once = await client.post(f"/{task}", files=task_files(task), data=data)
    job = await submit(client, task, **knobs)
    assert (job.task, job.model, job.state) == (task, "tiny:1", "queued")
    job = await finished(client, job)
    assert (job.state, job.done, job.total) == ("succeeded", job.total, job.total)
    assert job.started is not None
    assert job.finished is not None
    assert job.created <= job.started <= job.finished
    result = await client.get(job.result)
    assert result.status_code == 200
    for name in ("content-type", "x-percept-seed", "x-percept-model", "content-disposition"):
        assert result.headers[name] == at_once.headers[name]
    expected, got = read_npz(at_once.content), read_npz(result.content)
    assert expected.keys() == got.keys()
    np.testing.assert_allclose(got["prediction"], expected["prediction"], atol=1e-4)


async def test_the_course_of_a_job_can_be_followed_and_taken_up_again(client):
    job = await submit(client, steps=3, ensemble=8)
    course = [event async for event in events(client, job)]
    assert [int(event["id"]) for event in course] == sorted(int(e["id"]) for e in course)
    assert course[-1]["event"] == "end"
    assert course[-1]["data"]["state"] == "succeeded"
    assert course[-1]["data"]["done"] == course[-1]["data"]["total"] == 24
    again = [event async for event in events(client, job, after=course[0]["id"])]
    assert [event["id"] for event in again] == [event["id"] for event in course[1:]]
    problem(await client.get(job.events, headers={"Last-Event-ID": "x"}), 422)


async def test_a_job_without_a_seed_keeps_the_one_that_was_drawn(client):
    job = await finished(client, await submit(client))
    first = await client.get(job.result)
    data = {"seed": first.headers["x-percept-seed"]}
    again = await client.post("/depth", files=task_files("depth"), data=data)
    assert again.content == first.content


async def test_the_same_key_is_the_same_job(client):
    key = {"Idempotency-Key": "photo-17"}
    submitted = await asyncio.gather(*(submit(client, headers=key, steps=2) for _ in range(5)))
    assert len({job.id for job in submitted}) == 1
    other = await client.post(
        "/depth", files=task_files("depth"), data={"steps": "3"}, headers={**ASYNC, **key}
    )
    assert problem(other, 422).field == "Idempotency-Key"
    for wrong in ("", "x" * 256, "\t"):
        answer = await client.post(
            "/depth",
            files=task_files("depth"),
            headers={**ASYNC, "Idempotency-Key": wrong},
        )
        assert problem(answer, 422).field == "Idempotency-Key"


async def test_what_cannot_be_answered_is_refused_at_once(client):
    async def answer(**request) -> httpx.Response:
        headers = {**ASYNC, **request.pop("headers", {})}
        files = request.pop("files", task_files("depth"))
        return await client.post("/depth", files=files, headers=headers, **request)

    assert problem(await answer(data={"steps": "0"}), 422).field == "steps"
    assert problem(await answer(data={"model": "z"}), 422).field == "model"
    broken = {"image": ("a.png", b"\x89PNG\r\n\x1a\nnothing", "image/png")}
    assert problem(await answer(files=broken), 422).field == "image"
    assert problem(await answer(headers={"X-Deadline-Ms": "500"}), 422).field == "X-Deadline-Ms"
    called_back = await answer(headers={"X-Percept-Callback": "https://a.example/x"})
    assert problem(called_back, 422).field == "X-Percept-Callback"


@pytest.mark.parametrize("job_id", ["0" * 32, "nonsense", "..%2F..", "a" * 300, "é"])
@pytest.mark.parametrize("path", ["", "/result", "/events"])
async def test_unknown_jobs(client, job_id, path):
    problem(await client.get(f"/jobs/{job_id}{path}"), 404)
    assert (await client.delete(f"/jobs/{job_id}")).status_code == 404


async def test_a_cancelled_job_has_no_result(client):
    job = await submit(client, steps=200, ensemble=20)
    cancelled = JobData.model_validate_json((await client.delete(f"/jobs/{job.id}")).content)
    assert cancelled.state == "cancelled"
    problem(await client.get(job.result), 410)
    assert [event async for event in events(client, job)][-1]["data"]["state"] == "cancelled"


async def test_a_result_that_is_not_there_yet_says_when_to_come_back(client):
    job = await submit(client, steps=200, ensemble=20)
    unfinished = await client.get(job.result)
    problem(unfinished, 409)
    assert int(unfinished.headers["retry-after"]) >= 1
    await client.delete(f"/jobs/{job.id}")


async def test_previews_are_small_pictures_of_the_answer_so_far(client):
    job = await submit(client, steps=20, ensemble=20)
    previews = [e["data"]["preview"] async for e in events(client, job) if "preview" in e["data"]]
    for preview in previews:
        assert preview.startswith("data:image/png;base64,")
