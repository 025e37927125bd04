"""Answers that were given before: which questions are the same, and what a client may keep."""

import asyncio

import httpx
import pytest
from PIL import Image

from service.api.keys import new_key
from service.app import create_app
from service.core.tasks import TASKS
from service.engine.engine import Engine
from service.settings import Settings
from tests.support.pictures import disc, encode, gradient, task_files

SEEDED = {"seed": "7", "steps": "1", "ensemble": "2"}


@pytest.fixture
def num_calls(monkeypatch):
    """Requests that reached the engine."""
    seen: list[str] = []
    predict = Engine.predict

    async def watched(self, request, follow=None):
        seen.append(request.task.task)
        return await predict(self, request, follow)

    monkeypatch.setattr(Engine, "predict", watched)
    return lambda: len(seen)


async def ask(client, task="depth", files=None, headers=None, **fields) -> httpx.Response:
    answer = await client.post(
        f"/{task}", files=files or task_files(task), data={**SEEDED, **fields}, headers=headers
    )
    assert answer.status_code in (200, 304), answer.text
    return answer


@pytest.mark.parametrize("task", list(TASKS))
async def test_the_same_question_is_computed_once(client, num_calls, task):
    first, second = await ask(client, task), await ask(client, task)
    assert num_calls() == 1
    assert first.content == second.content
    assert first.headers["x-percept-cache"] == "miss"
    assert "age" not in first.headers
    assert second.headers["x-percept-cache"] == "hit"
    assert int(second.headers["age"]) >= 0
    assert second.headers["server-timing"] == "cache"
    for name in ("etag", "x-percept-seed", "x-percept-evaluations", "x-percept-model"):
        assert first.headers[name] == second.headers[name]
    text = (await client.get("/metrics")).text
    assert 'percept_cache_total{result="hit"} 1.0' in text
    assert 'percept_cache_total{result="miss"} 1.0' in text
    assert 'percept_evaluations_total{model="tiny:1",task="' + task + '"} 2.0' in text


async def test_random_seeds_are_never_the_same_question(client, num_calls):
    for _ in range(2):
        answer = await client.post("/depth", files=task_files("depth"), data={"steps": "1"})
        assert answer.headers["x-percept-cache"] == "off"
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers
    assert num_calls() == 2


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "8"},
        {"steps": "2"},
        {"ensemble": "3"},
        {"output": "png16"},
        {"output": "npz"},
        {"uncertainty": "true"},
        {"reduction": "mean"},
    ],
)
async def test_every_knob_makes_another_question(client, num_calls, change):
    await ask(client)
    answer = await ask(client, **change)
    assert answer.headers["x-percept-cache"] == "miss"
    assert num_calls() == 2


async def test_member_maps_are_another_question(client, num_calls):
    await ask(client, output="npz")
    await ask(client, output="npz", all_members="true")
    assert num_calls() == 2


async def test_pictures_are_compared_by_their_pixels(client, num_calls):
    picture = gradient()
    await ask(client, files={"image": encode(picture)})
    again = await ask(client, files={"image": encode(picture, "BMP")})
    assert again.headers["x-percept-cache"] == "hit"
    other = picture.copy()
    other[40:50, 40:50] = 255
    await ask(client, files={"image": encode(other)})
    larger = Image.fromarray(picture).resize((192, 160), Image.Resampling.NEAREST)
    await ask(client, files={"image": encode(larger)})
    assert num_calls() == 3


async def test_an_amodal_answer_shows_every_pixel(client, num_calls):
    """One pixel that the model hardly sees is in the picture that comes back."""
    picture, mask = gradient(), disc()
    files = {"image": encode(picture), "mask": encode(mask)}
    await ask(client, "amodal", files, output="overlay")
    changed = picture.copy()
    changed[0, 0] ^= 1
    await ask(client, "amodal", {**files, "image": encode(changed)}, output="overlay")
    bigger = mask.copy()
    bigger[0, 0] = 255
    await ask(client, "amodal", {**files, "mask": encode(bigger)}, output="overlay")
    assert num_calls() == 3
    again = await ask(client, "amodal", {**files, "mask": encode(mask, "BMP")}, output="overlay")
    assert again.headers["x-percept-cache"] == "hit"


async def test_what_the_clock_may_end_is_not_kept(client, num_calls):
    grown = {"ensemble": "auto", "budget_ms": "60000"}
    for _ in range(2):
        assert (await ask(client, **grown)).headers["x-percept-cache"] == "off"
    assert num_calls() == 2
    for expected in ("miss", "hit"):
        assert (await ask(client, ensemble="auto")).headers["x-percept-cache"] == expected


async def test_a_client_that_has_the_answer_is_told_so(client, num_calls):
    first = await ask(client)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert first.headers["cache-control"] == "private, no-cache"
    for stated in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        answer = await ask(client, headers={"If-None-Match": stated})
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == tag
        assert answer.headers["x-percept-seed"] == "7"
    assert (await ask(client, headers={"If-None-Match": '"other"'})).status_code == 200
    assert num_calls() == 1
    other = await ask(client, headers={"If-None-Match": tag}, seed="8")
    assert other.status_code == 200
    assert other.headers["etag"] != tag


async def test_equal_questions_at_once_share_the_work(client, num_calls):
    answers = await asyncio.gather(*(ask(client) for _ in range(6)))
    assert num_calls() == 1
    assert len({answer.content for answer in answers}) == 1
    assert [a.headers["x-percept-cache"] for a in answers].count("hit") == 5


async def test_no_cache(settings, num_calls):
    application = create_app(settings.model_copy(update={"cache_bytes": 0}))
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
            answers = [await ask(client) for _ in range(2)]
            assert [answer.headers["x-percept-cache"] for answer in answers] == ["off", "off"]
            assert num_calls() == 2
            tag = answers[0].headers["etag"]  # the same bytes, computed twice
            answer = await ask(client, headers={"If-None-Match": tag})
            assert answer.status_code == 304


async def test_keys_do_not_see_what_others_have_asked(tiny_repository, tmp_path, num_calls):
    (one, first), (two, second) = new_key("one", {}), new_key("two", {"evaluations": "2/day"})
    (tmp_path / "keys").write_text(f"{first}\n{second}\n")
    settings = Settings(model_repo=tiny_repository, threads=1, api_keys_file=tmp_path / "keys")
    application = create_app(settings)
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
            for secret, expected in ((one, "miss"), (two, "miss"), (one, "hit"), (two, "hit")):
                answer = await ask(client, headers={"X-API-Key": secret})
                assert answer.headers["x-percept-cache"] == expected  # and costs no quota
    assert num_calls() == 2
