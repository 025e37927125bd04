"""Traces of real requests, kept in memory instead of being sent."""

import asyncio
import subprocess
import sys
from itertools import pairwise

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.app import create_app
from tests.support.pictures import task_files

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = ["queue", "encode", "denoise", "decode", "reduce", "render"]
FILES = task_files("depth")


@pytest.fixture
def exporter(monkeypatch) -> InMemorySpanExporter:
    kept = InMemorySpanExporter()
    monkeypatch.setattr("service.telemetry.otlp_exporter", lambda _: kept)
    return kept


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:9/v1/traces"})


async def spans_of(settings, exporter, ask) -> list[ReadableSpan]:
    """What an application has sent when it has stopped."""
    application = create_app(settings)
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
            await ask(client)
    return list(exporter.get_finished_spans())


async def test_a_prediction_is_a_trace_of_its_stages(settings, exporter):
    async def ask(client):
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
        knobs = {"steps": "3", "ensemble": "2"}
        answer = await client.post("/depth", files=FILES, data=knobs, headers=headers)
        assert answer.status_code == 200

    *stages, whole = await spans_of(settings, exporter, ask)
    assert whole.name == "POST /depth"
    assert whole.kind is SpanKind.SERVER
    assert whole.parent is not None
    assert f"{whole.parent.span_id:016x}" == PARENT
    assert f"{whole.context.trace_id:032x}" == TRACE
    attributes = whole.attributes or {}
    assert attributes["http.response.status_code"] == 200
    assert attributes["percept.request_id"] == "mine"
    assert (attributes["percept.steps"], attributes["percept.members"]) == (3, 2)
    assert attributes["percept.evaluations"] == 6
    assert whole.resource.attributes["service.name"] == "percept"
    assert [span.name for span in stages] == STAGES
    for span in stages:
        assert span.parent is not None
        assert span.parent.span_id == whole.context.span_id
    times = [(span.start_time or 0, span.end_time or 0) for span in stages]
    assert all(start <= end for start, end in times)
    assert all(end == start for (_, end), (start, _) in pairwise(times))
    assert (whole.start_time or 0) <= times[0][0]
    assert times[-1][1] <= (whole.end_time or 0)


async def test_requests_that_wait_for_each_other_keep_to_their_traces(settings, exporter):
    async def ask(client):
        await asyncio.gather(*(client.post("/depth", files=FILES) for _ in range(4)))

    spans = await spans_of(settings, exporter, ask)
    wholes = [span for span in spans if span.parent is None]
    assert len(wholes) == 4
    assert len({span.context.trace_id for span in wholes}) == 4
    for whole in wholes:
        own = [span.name for span in spans if span.context.trace_id == whole.context.trace_id]
        assert own == [*STAGES, "POST /depth"]


async def test_refusals_and_faults(settings, exporter, monkeypatch):
    def broken(*_):
        raise RuntimeError

    monkeypatch.setattr("service.api.finish.make_answer", broken)

    async def ask(client):
        await client.get("/nowhere")
        await client.post("/depth", files={"image": b"x"})
        await client.post("/depth", files=FILES)

    nowhere, refused, fault = await spans_of(settings, exporter, ask)
    assert nowhere.name == "GET"
    assert (refused.attributes or {})["http.response.status_code"] == 415
    assert refused.status.status_code is StatusCode.UNSET
    assert fault.status.status_code is StatusCode.ERROR


async def test_a_caller_that_does_not_sample_is_not_recorded(settings, exporter):
    async def ask(client):
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        assert (await client.post("/depth", files=FILES, headers=headers)).status_code == 200
        assert (await client.get("/healthz", headers={"traceparent": "junk"})).status_code == 200

    (span,) = await spans_of(settings, exporter, ask)
    assert span.name == "GET /healthz"
    assert span.parent is None


def test_the_service_does_not_load_what_it_does_not_use(tiny_repository):
    program = (
        "import sys; from service.app import create_app; from service.settings import Settings;"
        f"create_app(Settings(model_repo={str(tiny_repository)!r}, threads=1));"
        "sys.exit(any(name in sys.modules for name in ('opentelemetry.sdk', 'redis')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_no_collector_is_no_trouble(settings):
    """Nothing listens at the endpoint; answers come, and the service stops."""

    application = create_app(settings)
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
            assert (await client.get("/healthz")).status_code == 200
