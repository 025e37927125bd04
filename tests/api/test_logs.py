"""A request's name is in its answer, in what went wrong, and in every line that it logs."""

import json
import logging
from collections.abc import Callable

import httpx
import pytest

from service.api.request_ids import HEADER
from service.app import create_app
from service.logs import configure_logging, request_id
from tests.api.test_errors import problem
from tests.support.pictures import task_files

FILES = task_files("depth")


@pytest.fixture
def log(capsys):
    """What is logged meanwhile; the log is as it was afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def lines(log: Callable[[], str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in log().splitlines()]


@pytest.mark.parametrize("given", ["abc-1.2:3", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", "x" * 128])
async def test_a_request_keeps_its_name(client, given):
    answer = await client.get("/healthz", headers={HEADER: given})
    assert answer.headers.get_list(HEADER) == [given]


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "é", 'a"b', "a;b", "{x}"])
async def test_a_request_without_a_usable_name_gets_one(client, given):
    headers = {} if given is None else {HEADER: given.encode("latin-1")}
    named = {(await client.get("/healthz", headers=headers)).headers[HEADER] for _ in range(3)}
    assert len(named) == 3
    assert all(len(name) == 32 for name in named)


async def test_problems_name_their_request(client, monkeypatch):
    def broken(*_):
        raise RuntimeError

    monkeypatch.setattr("service.api.finish.make_answer", broken)
    for number, (method, path, files, status) in enumerate(
        [
            ("POST", "/depth", {"image": b"no picture"}, 415),
            ("POST", "/depth", FILES, 500),
            ("GET", "/nowhere", None, 404),
            ("GET", "/depth", None, 405),
        ]
    ):
        name = f"request-{number}"
        answer = await client.request(method, path, files=files, headers={HEADER: name})
        assert answer.status_code == status
        assert answer.headers.get_list(HEADER) == [name]
        assert problem(answer).request_id == name


async def test_a_predictions_answer_is_named(client):
    answer = await client.post("/depth", files=FILES, headers={HEADER: "mine"})
    assert answer.status_code == 200
    assert answer.headers[HEADER] == "mine"


async def test_refused_keys_are_named(settings, tmp_path):
    (tmp_path / "keys").write_text(f"bob sha256={'0' * 64}")
    application = create_app(settings.model_copy(update={"api_keys_file": tmp_path / "keys"}))
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
        answer = await client.get("/models", headers={HEADER: "mine"})
        assert answer.status_code == 401
        assert answer.headers[HEADER] == problem(answer).request_id == "mine"


async def test_every_request_is_a_line(settings, log):
    configure_logging("json", "info")
    application = create_app(settings.model_copy(update={"log_format": "json"}))
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://percept") as client:
            await client.post("/depth", files=FILES, headers={HEADER: "first"})
            await client.get("/no%0Apage", headers={HEADER: "second"})
            await client.get("/healthz", headers={HEADER: "probe"})
    first, second = (line for line in lines(log) if line["message"] == "request")
    assert first["request_id"] == "first"
    assert (first["method"], first["path"], first["status"]) == ("POST", "/depth", 200)
    assert first["level"] == "info"
    assert isinstance(first["seconds"], float)
    assert str(first["time"]).endswith("+00:00")
    assert (second["request_id"], second["path"], second["status"]) == ("second", "/no\npage", 404)


def test_json_lines_hold_faults(log):
    configure_logging("json", "info")
    token = request_id.set("r1")
    try:
        raise KeyError("a\nb")
    except KeyError:
        logging.getLogger("uvicorn.error").exception("it %s", "failed\nbadly")
    logging.getLogger("service.engine.dispatch").warning("of many requests")
    logging.getLogger("x").debug("too little")
    request_id.reset(token)
    logging.getLogger("x").info("of none")
    fault, shared, none = lines(log)
    assert (fault["message"], fault["level"], fault["request_id"]) == (
        "it failed\nbadly",
        "error",
        "r1",
    )
    assert "KeyError" in str(fault["exception"])
    assert "request_id" not in shared
    assert "request_id" not in none


def test_text_lines(log):
    configure_logging("text", "warning")
    token = request_id.set("r1")
    logging.getLogger("x").warning("careful")
    logging.getLogger("x").info("too little")
    request_id.reset(token)
    logging.getLogger("x").warning("careful")
    assert log() == "WARNING: careful [r1]\nWARNING: careful\n"
