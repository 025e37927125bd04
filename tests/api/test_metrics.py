"""What the service counts beside requests: refusals, plans, and how busy its workers are."""

import re

import pytest

from tests.support.pictures import task_files

FILES = task_files("depth")


async def metrics(client) -> str:
    return (await client.get("/metrics")).text


def value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


async def test_refusals_by_reason(client, monkeypatch):
    await client.post("/depth", files={"image": b"no picture"})
    await client.post("/depth", files=FILES, data={"steps": "0"})
    await client.post("/depth", files=FILES, data={"steps": "0"})
    await client.get("/nowhere")

    def broken(*_):
        raise RuntimeError

    monkeypatch.setattr("service.api.finish.make_answer", broken)
    await client.post("/depth", files=FILES)
    text = await metrics(client)
    for reason, status, times in (
        ("unsupported_type", 415, 1),
        ("invalid_field", 422, 2),
        ("not_found", 404, 1),
        ("fault", 500, 1),
    ):
        name = f'percept_refusals_total{{reason="{reason}",status="{status}"}}'
        assert value(text, name) == times


async def test_a_good_answer_is_no_refusal(client):
    await client.post("/depth", files=FILES)
    assert "percept_refusals_total{" not in await metrics(client)


@pytest.mark.parametrize(
    ("knobs", "chosen_by"),
    [
        ({}, "model"),
        ({"steps": "2"}, "caller"),
        ({"ensemble": "2"}, "caller"),
        ({"budget_evals": "4"}, "budget_evals"),
        ({"budget_ms": "60000"}, "budget_ms"),
        ({"quality": "draft"}, "quality"),
        ({"ensemble": "auto", "budget_evals": "6"}, "auto"),
    ],
)
async def test_plans_by_who_chose_them(client, knobs, chosen_by):
    answer = await client.post("/depth", files=FILES, data=knobs)
    assert answer.status_code == 200, answer.text
    text = await metrics(client)
    labels = f'{{chosen_by="{chosen_by}",task="depth"}}'
    assert value(text, f"percept_plan_steps_count{labels}") == 1
    assert value(text, f"percept_plan_steps_sum{labels}") == int(answer.headers["x-percept-steps"])
    members = int(answer.headers["x-percept-ensemble"])
    assert value(text, f"percept_plan_members_sum{labels}") >= members


async def test_workers_busy_seconds_are_those_of_their_calls(client):
    await client.post("/depth", files=FILES)
    text = await metrics(client)
    stages = ("encode", "denoise", "decode")
    calls = [value(text, f'percept_model_call_seconds_sum{{stage="{s}"}}') for s in stages]
    busy = [float(x) for x in re.findall(r"percept_worker_busy_seconds_total\{[^}]*\} (\S+)", text)]
    assert sum(busy) == pytest.approx(sum(calls))
    assert sum(busy) > 0
