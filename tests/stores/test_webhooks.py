"""Only listed hosts are called, signed, and again when they do not answer."""

import asyncio
import hashlib
import hmac
import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from service.errors import InvalidField
from service.jobs.webhooks import DELIVERY_HEADER, SIGNATURE_HEADER, Webhooks, WebhookTerms
from service.stores.base import JobRecord

URL = "https://hooks.example.com/done?x=1"
JOB = JobRecord("a" * 32, "succeeded", {}, 1.0, finished_s=2.0)
TERMS = WebhookTerms(
    frozenset({"https://hooks.example.com", "http://127.0.0.1:9000"}), b"secret", first_pause_s=0.0
)


class Line:
    """Answers with each status in turn; an exception is raised."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, bytes, dict[str, str]]] = []

    def __call__(self, url, body, headers, timeout_s):
        self.sent.append((url.geturl(), body, headers))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def tell(line: Line, url: str = URL) -> None:
    hooks = Webhooks(TERMS, line, now=lambda: 1234.5)
    hooks.tell(url, JOB)
    await hooks.close(grace_s=60.0)


async def test_a_call_is_signed():
    line = Line(204)
    await tell(line)
    ((url, body, headers),) = line.sent
    assert url == URL
    assert json.loads(body) == {
        "id": JOB.id,
        "state": "succeeded",
        "finished_s": 2.0,
        "problem": None,
    }
    digest = hmac.new(b"secret", b"1234." + body, hashlib.sha256).hexdigest()
    assert headers[SIGNATURE_HEADER] == f"t=1234,v1={digest}"
    assert headers[DELIVERY_HEADER] == JOB.id


@pytest.mark.parametrize(
    ("answers", "num_sent"),
    [
        ([OSError("refused"), 503, 429, http.client.BadStatusLine("x"), 200], 5),
        ([500] * 9, TERMS.max_attempts),
        ([404, 200], 1),
        ([302, 200], 1),
    ],
)
async def test_what_may_work_later_is_tried_again(answers, num_sent):
    line = Line(*answers)
    await tell(line)
    assert len(line.sent) == num_sent


@pytest.mark.parametrize("url", [URL, "HTTPS://Hooks.Example.com:443", "http://127.0.0.1:9000/x"])
def test_listed_origins_may_be_called(url):
    Webhooks(TERMS).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://other.example.com/",
        "http://hooks.example.com/",
        "https://hooks.example.com:8443/",
        "https://hooks.example.com.evil.org/",
        "https://hooks.example.com@evil.org/",
        "https://user:word@hooks.example.com/",
        "https://evil.org\\@hooks.example.com/",
        "https://hooks.example.com\\.evil.org/",
        "https://hooks.example.com/\r\nX: y",
        "https://hooks.example.com/ x",
        "https://hooks.example.com:port/",
        "https://[::1/",
        "file:///etc/passwd",
        "//hooks.example.com/",
        "http://127.0.0.1:9001/",
        "http://2130706433:9000/",
    ],
)
def test_no_other_url_is_ever_called(url):
    with pytest.raises(InvalidField):
        Webhooks(TERMS).check(url)


async def test_calls_are_bounded():
    line = Line(*[200] * 5)
    hooks = Webhooks(WebhookTerms(TERMS.origins, b"", max_pending=3), line)
    for _ in range(5):
        hooks.tell(URL, JOB)
    await hooks.close(grace_s=60.0)
    assert len(line.sent) == 3


async def test_a_real_call_follows_no_redirect():
    asked: list[tuple[str, bytes]] = []

    class Redirect(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            asked.append((self.path, self.rfile.read(length)))
            self.send_response(307)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{server.server_port}"
        hooks = Webhooks(WebhookTerms(frozenset({origin}), b"s"))
        hooks.tell(f"{origin}/done?job=1", JOB)
        await asyncio.wait_for(hooks.close(grace_s=60.0), 60.0)
        server.shutdown()
    assert [path for path, _ in asked] == ["/done?job=1"]
