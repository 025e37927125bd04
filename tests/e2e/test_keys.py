"""A real server with keys and a log for machines."""

import json

import httpx
from typer.testing import CliRunner

from service import cli
from tests.e2e.test_server import READY_S, serving
from tests.support.pictures import task_files


def test_keys_and_a_log_for_machines(tiny_repository, tmp_path):
    secret, line = CliRunner().invoke(cli.main, ["key", "new", "robot"]).stdout.splitlines()
    (tmp_path / "keys").write_text(line + "\n")
    flags = ("--api-keys-file", str(tmp_path / "keys"), "--log-format", "json")
    with serving(tiny_repository, *flags) as server:
        with httpx.Client(base_url=server.url, timeout=READY_S) as client:
            assert client.get("/readyz").status_code == 200
            refused = client.post("/depth", files=task_files("depth"))
            assert refused.status_code == 401
            named = {"Authorization": f"Bearer {secret}", "X-Request-Id": "mine"}
            for expected in ("miss", "hit"):
                files, data = task_files("depth"), {"seed": "1"}
                answer = client.post("/depth", headers=named, files=files, data=data)
                assert answer.headers["x-percept-cache"] == expected
                assert answer.headers["x-request-id"] == "mine"
        server.process.terminate()
        server.process.wait(READY_S)
        server.reader.join(READY_S)
    lines = [json.loads(line) for line in server.log]
    assert secret not in "".join(server.log)
    requests = [line for line in lines if line["message"] == "request"]
    assert [line["status"] for line in requests] == [401, 200, 200]
    assert [line["caller"] for line in requests] == ["", "key:robot", "key:robot"]
    assert requests[0]["request_id"] == refused.json()["request_id"]
    assert any("running on" in line["message"] for line in lines)
