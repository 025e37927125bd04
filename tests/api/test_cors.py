"""Pages of other sites may call only where they are named."""

import httpx
import pytest

from service.app import create_app
from tests.support.pictures import task_files

PAGE = {"Origin": "https://a.org"}
PREFLIGHT = {**PAGE, "Access-Control-Request-Method": "POST"}


async def serving(settings, origins):
    application = create_app(settings.model_copy(update={"cors_origins": origins}))
    transport = httpx.ASGITransport(application)
    return httpx.AsyncClient(transport=transport, base_url="http://percept")


async def test_no_page_may_call(client):
    answer = await client.post("/depth", files=task_files("depth"), headers=PAGE)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert (await client.options("/depth", headers=PREFLIGHT)).status_code == 405


async def test_named_pages_may(settings):
    async with await serving(settings, "https://a.org, http://b.org:8080") as client:
        asked = {**PREFLIGHT, "Access-Control-Request-Headers": "authorization,x-deadline-ms"}
        answer = await client.options("/depth", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.org"
        answer = await client.get("/healthz", headers=PAGE)
        assert answer.headers["access-control-allow-origin"] == "https://a.org"
        assert "X-Percept-Seed" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        answer = await client.get("/healthz", headers={"Origin": "https://c.org"})
        assert "access-control-allow-origin" not in answer.headers
        other = {**PREFLIGHT, "Origin": "https://c.org"}
        assert (await client.options("/depth", headers=other)).status_code == 400


async def test_a_page_may_ask_before_it_shows_its_key(settings, tmp_path):
    (tmp_path / "keys").write_text(f"bob sha256={'0' * 64}")
    keyed = settings.model_copy(update={"api_keys_file": tmp_path / "keys"})
    async with await serving(keyed, "https://a.org") as client:
        assert (await client.options("/depth", headers=PREFLIGHT)).status_code == 200
        answer = await client.post("/depth", headers=PAGE)
        assert answer.status_code == 401  # which the page gets to read
        assert answer.headers["access-control-allow-origin"] == "https://a.org"


@pytest.mark.parametrize("origins", ["a.org", "https://a.org/", "https://a.org/page", "null", "**"])
def test_what_is_no_origin(settings, origins):
    with pytest.raises(ValueError, match="is no origin"):
        create_app(settings.model_copy(update={"cors_origins": origins}))
