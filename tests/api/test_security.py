"""Who gets in: keys, the admin, open doors, and a share for everyone when places run out."""

import asyncio

import httpx
import pytest
from fastapi import Depends, FastAPI
from typer.testing import CliRunner

from service import cli
from service.api.keys import new_key
from service.api.security import is_loopback, refuse_public, require_admin
from service.app import create_app
from service.settings import Settings
from tests.api.test_errors import problem
from tests.support.pictures import task_files

ADMIN = "the admin's own long secret"
FILES = task_files("depth")
CHEAP = {"steps": "1", "ensemble": "1"}


@pytest.fixture
def secrets(tmp_path) -> dict[str, str]:
    quotas = {
        "bob": {},
        "rated": {"rate": "2/day"},
        "metered": {"evaluations": "10/day"},
    }
    made = {name: new_key(name, quota) for name, quota in quotas.items()}
    (tmp_path / "keys").write_text("\n".join(line for _, line in made.values()))
    return {name: secret for name, (secret, _) in made.items()}


@pytest.fixture
def settings(tiny_repository, tmp_path, secrets) -> Settings:
    return Settings(
        model_repo=tiny_repository,
        threads=1,
        max_upload_bytes=2_000_000,
        api_keys_file=tmp_path / "keys",
        admin_key=ADMIN,
    )


@pytest.fixture
async def app(settings):
    application = create_app(settings)
    async with application.router.lifespan_context(application):
        yield application


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def depth(client, headers, **knobs) -> httpx.Response:
    return await client.post("/depth", files=FILES, data={**CHEAP, **knobs}, headers=headers)


async def test_a_key_opens_either_way(client, secrets):
    for headers in (
        bearer(secrets["bob"]),
        {"authorization": f"bearer {secrets['bob']}"},
        {"X-API-Key": secrets["bob"]},
        {"Authorization": "Basic abc", "X-API-Key": secrets["bob"]},
        {**bearer(secrets["bob"]), "X-API-Key": secrets["bob"]},
    ):
        assert (await depth(client, headers)).status_code == 200
    assert (await client.get("/models", headers=bearer(secrets["bob"]))).status_code == 200


async def test_nothing_else_does(client, secrets):
    for headers in (
        {},
        bearer(""),
        bearer("wrong"),
        bearer("x" * 100_000),
        bearer(secrets["bob"] + "x"),
        {"Authorization": secrets["bob"]},
        {"Authorization": f"Basic {secrets['bob']}"},
        {**bearer(secrets["bob"]), "X-API-Key": secrets["rated"]},
    ):
        answer = await depth(client, headers)
        assert answer.status_code == 401
        said = problem(answer)
        assert said.title == "Unauthorized"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert secrets["bob"] not in answer.text
    assert (await client.get("/models")).status_code == 401
    assert (await client.get("/made-up")).status_code == 401
    assert (await client.get("/metrics")).status_code == 401


async def test_probes_and_documentation_are_open(client):
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200
    assert (await client.get("/")).is_redirect
    assert (await client.get("/static-offline-docs/swagger-ui.css")).status_code == 200
    assert (await client.get("/static-offline-docs/../models")).status_code in (401, 404)


async def test_documentation_tells_of_keys(client):
    schema = (await client.get("/openapi.json")).json()
    assert schema["paths"]["/depth"]["post"]["security"]
    assert "401" in schema["paths"]["/depth"]["post"]["responses"]
    for path in ("/models", "/metrics"):
        assert "401" in schema["paths"][path]["get"]["responses"]
    kinds = {row["type"] for row in schema["components"]["securitySchemes"].values()}
    assert kinds == {"http", "apiKey"}


async def test_metrics_can_be_open(settings):
    application = create_app(settings.model_copy(update={"open_metrics": True}))
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/models")).status_code == 401


async def test_the_admin_alone_controls_models(client, secrets):
    assert (await client.post("/models/m/load")).status_code == 401
    assert (await client.post("/models/m/load", headers=bearer("wrong"))).status_code == 401
    answer = await client.post("/models/m/load", headers=bearer(secrets["bob"]))
    assert answer.status_code == 403
    assert problem(answer).title == "Forbidden"
    loaded = await client.post("/models/tiny/load", headers=bearer(ADMIN))
    assert loaded.json() == {"name": "tiny", "versions": [1]}
    assert (await depth(client, bearer(ADMIN))).status_code == 200


@pytest.mark.parametrize(
    ("admin", "none", "wrong", "right"), [(None, 403, 403, 403), (ADMIN, 401, 401, 404)]
)
async def test_model_control_without_api_keys(tiny_repository, admin, none, wrong, right):
    """The service is open, and model control is not."""
    application = create_app(Settings(model_repo=tiny_repository, threads=1, admin_key=admin))
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
        assert (await client.post("/models/m/load")).status_code == none
        assert (await client.post("/models/m/load", headers=bearer("no"))).status_code == wrong
        assert (await client.post("/models/m/load", headers=bearer(ADMIN))).status_code == right
        assert (await client.get("/models", headers=bearer("no"))).status_code == 200


async def test_require_admin_where_no_guard_stands():
    application = FastAPI()
    application.post("/x", dependencies=[Depends(require_admin)])(lambda: "done")
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
        assert (await client.post("/x")).status_code == 500


async def test_a_key_calls_as_often_as_it_may(client, secrets):
    for _ in range(2):
        assert (await depth(client, bearer(secrets["rated"]))).status_code == 200
    answer = await depth(client, bearer(secrets["rated"]))
    assert answer.status_code == 429
    assert problem(answer).limit == "2 calls per day for the key rated"
    assert int(answer.headers["retry-after"]) >= 1
    assert (await client.get("/models", headers=bearer(secrets["rated"]))).status_code == 200
    assert (await depth(client, bearer(secrets["bob"]))).status_code == 200


async def test_a_key_takes_as_many_evaluations_as_it_may(client, secrets):
    mine = bearer(secrets["metered"])
    assert (await depth(client, mine, steps="2", ensemble="4")).status_code == 200
    before = (await client.get("/metrics", headers=mine)).text
    answer = await depth(client, mine, steps="3", ensemble="1")
    assert answer.status_code == 429
    assert problem(answer).limit == "10 evaluations per day for the key metered"
    assert int(answer.headers["retry-after"]) >= 1
    after = (await client.get("/metrics", headers=mine)).text
    calls = 'percept_model_call_rows_sum{stage="denoise"} 8.0'
    assert calls in before
    assert calls in after  # refused before any work
    answer = await depth(client, mine, steps="11", ensemble="1")
    assert answer.status_code == 422
    assert "10 evaluations" in str(problem(answer).limit)
    assert (await depth(client, mine, steps="2", ensemble="1")).status_code == 200


async def test_members_that_were_not_needed_are_not_charged(client, secrets):
    """The most that an ensemble may grow to fits the quota; what it grew to is what it costs."""
    mine = bearer(secrets["metered"])
    knobs = {"steps": "1", "ensemble": "auto", "tolerance": "1", "budget_evals": "10"}
    answer = await depth(client, mine, **knobs)
    used = int(answer.headers["x-percept-evaluations"])
    assert used < 10
    assert (await depth(client, mine, ensemble=str(10 - used))).status_code == 200
    assert (await depth(client, mine)).status_code == 429


async def test_keys_share_the_machine_by_name(client, secrets, monkeypatch):
    seen: list[str] = []
    from service.engine.engine import Engine

    predict = Engine.predict

    async def watched(self, request, follow=None):
        seen.append(request.terms.caller)
        return await predict(self, request, follow)

    monkeypatch.setattr(Engine, "predict", watched)
    await depth(client, bearer(secrets["bob"]))
    await depth(client, bearer(ADMIN))
    assert seen == ["key:bob", "admin"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_public_addresses_need_keys(host, loopback):
    assert is_loopback(host) is loopback
    refuse_public(host, has_keys=True, allow_open=False)
    refuse_public(host, has_keys=False, allow_open=True)
    if loopback:
        refuse_public(host, has_keys=False, allow_open=False)
    else:
        with pytest.raises(ValueError, match="PERCEPT_API_KEYS_FILE"):
            refuse_public(host, has_keys=False, allow_open=False)


def test_the_command_refuses_a_public_address(tiny_repository):
    flags = ["serve", "--host", "0.0.0.0", "--model-repo", str(tiny_repository)]
    run = CliRunner().invoke(cli.main, flags)
    assert run.exit_code == 1
    assert "PERCEPT_ALLOW_OPEN=true" in run.output


async def test_a_caller_that_fills_every_place_leaves_others_theirs(settings, secrets):
    """Uploads that never end hold every place; another key is let in all the same."""
    app = create_app(settings.model_copy(update={"max_concurrent_requests": 2}))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
            arrived = [asyncio.Event() for _ in range(2)]

            async def endless(event: asyncio.Event):
                yield b"--x\r\n"
                event.set()
                await asyncio.Event().wait()

            form = {"Content-Type": "multipart/form-data; boundary=x"}
            hogs = [
                asyncio.create_task(
                    client.post(
                        "/depth", content=endless(event), headers={**form, **bearer(secrets["bob"])}
                    )
                )
                for event in arrived
            ]
            for event in arrived:
                await event.wait()
            assert (await depth(client, bearer(secrets["bob"]))).status_code == 429
            assert (await depth(client, bearer(secrets["metered"]))).status_code == 200
            for hog in hogs:
                hog.cancel()
            await asyncio.gather(*hogs, return_exceptions=True)
            assert (await depth(client, bearer(secrets["bob"]))).status_code == 200


async def test_a_refused_upload_is_read_to_its_end(client):
    """Its sender gets to read why; the connection can be used again."""
    sent = 0

    async def upload():
        nonlocal sent
        for _ in range(100):
            sent += 10_000
            yield bytes(10_000)

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await client.post("/depth", content=upload(), headers=form)
    assert answer.status_code == 401
    assert sent == 1_000_000
    assert "connection" not in answer.headers
