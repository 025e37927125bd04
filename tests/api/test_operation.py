"""What operators and newcomers ask: models, health, readiness, metrics, documentation."""

import re

import httpx

from service.api.knobs import parse_knobs
from service.api.schemas import ModelList
from service.app import create_app
from service.core.tasks import TASKS
from tests.support.pictures import task_files


async def test_models(client):
    listing = ModelList.model_validate_json((await client.get("/models")).content)
    assert listing.default == "tiny:1"
    (model,) = listing.models
    assert (model.name, model.version, model.licence) == ("tiny", 1, "Apache-2.0")
    by_task = {served.task: served for served in model.tasks}
    assert by_task.keys() == TASKS.keys()
    depth = by_task["depth"]
    assert (depth.steps, depth.ensemble, depth.reduction) == (2, 3, "aligned")
    assert list(depth.outputs) == list(TASKS["depth"].outputs)
    assert depth.calibration
    assert depth.curve
    assert depth.qualities.keys() == {"draft", "standard", "best"}


async def test_health_and_readiness(app, client):
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).status_code == 200


async def test_not_ready_when_stopped(settings):
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        predicted = await client.post("/depth", files=task_files("depth"))
        assert predicted.status_code == 503


async def test_metrics(client):
    await client.post("/depth", files=task_files("depth"))
    await client.get("/made-up-path")
    text = (await client.get("/metrics")).text
    assert 'percept_http_requests_total{route="/depth",status="200"} 1.0' in text
    assert 'route="unmatched",status="404"' in text
    assert "made-up-path" not in text
    assert 'percept_evaluations_total{model="tiny:1",task="depth"} 6.0' in text
    for stage in ("queue", "encode", "denoise", "decode", "reduce", "render"):
        assert f'percept_stage_seconds_count{{stage="{stage}",task="depth"}} 1.0' in text
    assert 'percept_model_call_rows_sum{stage="denoise"} 6.0' in text


async def test_two_applications_share_no_metrics(settings, client):
    create_app(settings)
    assert (await client.get("/metrics")).status_code == 200


async def test_openapi_tells_every_field(client):
    schema = (await client.get("/openapi.json")).json()
    for task in TASKS.values():
        operation = schema["paths"][f"/{task.name}"]["post"]
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert form["required"] == list(task.images)
        properties = form["properties"]
        assert properties.keys() == {
            *task.images,
            *("steps", "ensemble", "tolerance", "seed", "reduction"),
            *("budget_evals", "budget_ms", "quality"),
            *("uncertainty", "all_members", "output", "model"),
        }
        assert properties["output"]["enum"] == list(task.outputs)
        assert properties["output"]["default"] == task.default_output
        assert properties["reduction"]["enum"] == list(task.reductions)
        assert properties["steps"]["maximum"] == 200
        number, auto = properties["ensemble"]["anyOf"]
        assert (number["minimum"], number["maximum"], auto["const"]) == (1, 20, "auto")
        assert properties["quality"]["enum"] == ["draft", "standard", "best"]
        assert properties["budget_evals"]["maximum"] == 8000
        # a page that fills in every default must not ask for what excludes itself
        defaults = {name: p["default"] for name, p in properties.items() if "default" in p}
        parse_knobs({name: str(value).lower() for name, value in defaults.items()}, task)
        parameters = {p["name"]: p for p in operation["parameters"]}
        assert {p["in"] for p in parameters.values()} == {"header"}
        assert parameters["X-Priority"]["schema"]["enum"] == ["high", "normal", "low"]
        assert parameters["X-Deadline-Ms"]["schema"]["maximum"] == 3_600_000
        assert "X-Percept-Expected-Error" in operation["responses"]["200"]["headers"]
        success = operation["responses"]["200"]["content"]
        assert {"image/png", "application/x-npz", "application/json"} <= success.keys()
        for status in ("413", "415", "422", "429", "504"):
            content = operation["responses"][status]["content"]
            assert list(content) == ["application/problem+json"]
        for status in ("429", "503"):
            assert "Retry-After" in operation["responses"][status]["headers"]
    assert "503" in schema["paths"]["/readyz"]["get"]["responses"]
    assert "text/plain" in schema["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    text = str(schema)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in schema["components"]["schemas"]


async def test_documentation_needs_no_other_server(client):
    page = await client.get("/docs")
    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/"), link
        assert (await client.get(link)).status_code == 200
    home = await client.get("/")
    assert home.is_redirect
    assert home.headers["location"].endswith("docs")
